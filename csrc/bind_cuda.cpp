// The Python face of the kernels of *.cu, as bind_cpu.cpp is that of the others: raw addresses and
// sizes in, nothing checked, nothing allocated. A place is (device, stream); kernels are started
// there and not waited for. The only caller is spex_core/native_cuda.py.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <array>
#include <cstdint>
#include <tuple>

#include "bits.h"
#include "boost_tree.h"
#include "fwht.h"
#include "parity.h"
#include "peel.h"
#if defined(SPEX_EMULATED)
#include "emulated.h"
#endif

namespace py = pybind11;
using Address = std::uintptr_t;
using Where = std::tuple<int, Address>;

namespace {

template <typename T>
T* at(Address address) {
  return reinterpret_cast<T*>(address);
}

spex::Place place_at(const Where& where) { return {std::get<0>(where), std::get<1>(where)}; }

template <typename T>
void fwht(Address in, Address out, int64_t rows, int log_n, const Where& where) {
  spex::fwht_cuda(at<const T>(in), at<T>(out), rows, log_n, place_at(where));
}

// (m, t, parities, n, exp, log, syndromes, columns, words)
using Code = std::tuple<int, int, int, int64_t, Address, Address, Address, Address, int>;

spex::BchCode code_at(const Code& code) {
  return {std::get<0>(code),
          std::get<1>(code),
          std::get<2>(code),
          std::get<3>(code),
          at<const int32_t>(std::get<4>(code)),
          at<const int32_t>(std::get<5>(code)),
          at<const int32_t>(std::get<6>(code)),
          at<const uint64_t>(std::get<7>(code)),
          std::get<8>(code)};
}

spex::PeelProblem problem_at(const Code& code, int groups, int shifts, int b, Address hash,
                             Address bins, int degree, double floor) {
  return {code_at(code),          groups, shifts, b, at<const int32_t>(hash),
          at<const double>(bins), degree, floor};
}

// What the trees of a fit share: masks, samples, rows, n, then the settings, the residual, the
// memory in the order of BoostTree, and the forest.
spex::BoostTree boost_tree_at(Address masks, int64_t samples, int64_t rows, int64_t n,
                              int32_t depth, int32_t leaves, int32_t min_leaf, double rate,
                              double l2, Address residual, const std::array<Address, 8>& memory,
                              const std::array<Address, 5>& forest) {
  spex::BoostTree tree{};
  tree.masks = at<const uint64_t>(masks);
  tree.samples = samples;
  tree.rows = rows;
  tree.n = n;
  tree.words = spex::ceil_div(n, 64);
  tree.depth = depth;
  tree.leaves = leaves;
  tree.min_leaf = min_leaf;
  tree.rate = rate;
  tree.l2 = l2;
  tree.residual = at<double>(residual);
  tree.pieces = at<double>(memory[0]);
  tree.leaf = at<spex::BoostLeaf>(memory[1]);
  tree.histogram = at<int32_t>(memory[2]);
  tree.lanes = at<int32_t>(memory[3]);
  tree.list = at<int32_t>(memory[4]);
  tree.leaf_of = at<int32_t>(memory[5]);
  tree.scores = at<double>(memory[6]);
  tree.places = at<int32_t>(memory[7]);
  tree.feature = at<int32_t>(forest[0]);
  tree.absent = at<int32_t>(forest[1]);
  tree.present = at<int32_t>(forest[2]);
  tree.value = at<double>(forest[3]);
  tree.nodes = at<int32_t>(forest[4]);
  return tree;
}

}  // namespace

PYBIND11_MODULE(_cuda, m) {
  using release = py::call_guard<py::gil_scoped_release>;

#if defined(SPEX_EMULATED)
  m.attr("emulated") = true;
  m.def("emulate_downwards", [](bool downwards) { spex::emulated::downwards = downwards; });
  m.def("limit_shared", [](int bytes) { spex::emulated::shared_limit = bytes; });
  m.def("most_shared", [] { return spex::emulated::most_shared; });
  // (bytes of a lane, offset of each) of the accesses to shared memory in what call() launches.
  m.def("shared_accesses", [](const py::function& call) {
    spex::emulated::recorded.clear();
    spex::emulated::records = true;
    call();
    spex::emulated::records = false;
    std::vector<std::pair<int, std::array<int, spex::emulated::kWarp>>> found;
    for (const auto& access : spex::emulated::recorded) found.push_back({access.bytes, access.at});
    return found;
  });
  m.def("launches", [] { return spex::emulated::launches; });
  m.def("only", [](int64_t launch, int64_t block) {  // the next launch is number 0; -1 for all
    spex::emulated::only_launch = launch < 0 ? -1 : spex::emulated::launches + 1 + launch;
    spex::emulated::only_block = block;
  });
#else
  m.attr("emulated") = false;
#endif

  m.def("fwht_f32", &fwht<float>, release());
  m.def("fwht_f64", &fwht<double>, release());

  m.attr("parity_span") = spex::kParitySpan;
  m.def(
      "parity_bits",
      [](Address masks, Address support, int64_t samples, int64_t terms, int64_t words,
         Address columns, Address out, const Where& where) {
        spex::parity_bits_cuda(at<const uint64_t>(masks), at<const uint64_t>(support), samples,
                               terms, words, at<uint64_t>(columns), at<uint64_t>(out),
                               place_at(where));
      },
      release());
  m.def(
      "sum_over_terms",
      [](Address bits, Address coefs, int64_t samples, int64_t terms, int masks_each, Address out,
         const Where& where) {
        spex::sum_over_terms_cuda(at<const uint64_t>(bits), at<const double>(coefs), samples, terms,
                                  masks_each, at<double>(out), place_at(where));
      },
      release());
  m.def(
      "sum_over_spans",
      [](Address bits, Address values, int64_t samples, int64_t terms, int64_t stride, Address out,
         const Where& where) {
        spex::sum_over_spans_cuda(at<const uint64_t>(bits), at<const double>(values), samples,
                                  terms, stride, at<double>(out), place_at(where));
      },
      release());
  m.def(
      "sum_of_spans",
      [](Address sums, int64_t terms, int64_t spans, Address out, const Where& where) {
        spex::sum_of_spans_cuda(at<const double>(sums), terms, spans, at<double>(out),
                                place_at(where));
      },
      release());
  m.def(
      "parity_gram",
      [](Address columns, int64_t terms, int64_t samples, Address out, const Where& where) {
        spex::parity_gram_cuda(at<const uint64_t>(columns), terms, samples, at<double>(out),
                               place_at(where));
      },
      release());

  m.def(
      "bch_decode",
      [](const Code& code, Address readings, int64_t rows, int flips, int slices, Address scores,
         Address slot_counts, Address slot_features, Address features, Address counts,
         const Where& where) {
        const spex::BchSlots slots{at<double>(scores), at<int32_t>(slot_counts),
                                   at<int32_t>(slot_features)};
        spex::bch_decode_cuda(code_at(code), at<const double>(readings), rows, flips, slices, slots,
                              at<int32_t>(features), at<int32_t>(counts), place_at(where));
      },
      release());
  py::class_<spex::PeelProblem>(m, "PeelProblem")
      .def(py::init(&problem_at))
      .def("bytes", &spex::peel_cuda_bytes)
      .def("capacity", &spex::capacity);
  m.def(
      "peel",
      [](const spex::PeelProblem& problem, int chase, Address memory, Address features,
         Address coefs, Address count, const Where& where) {
        spex::peel_cuda(problem, chase, at<void>(memory), at<int32_t>(features), at<double>(coefs),
                        at<int64_t>(count), place_at(where));
      },
      release());

  m.attr("leaf_bytes") = sizeof(spex::BoostLeaf);
  m.attr("team_pieces") = spex::kTeamPieces;
  py::class_<spex::BoostTree>(m, "BoostTree").def(py::init(&boost_tree_at));
  m.def(
      "boost_tree",
      [](const spex::BoostTree& tree, Address inside, Address allowed, Address root,
         const Where& where) {
        spex::BoostTree one = tree;
        one.inside = at<const uint8_t>(inside);
        one.allowed = at<const uint8_t>(allowed);
        one.root = at<int32_t>(root);
        spex::boost_tree_cuda(one, place_at(where));
      },
      release());
}
