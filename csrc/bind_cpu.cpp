// The Python face of the CPU kernels: raw addresses and sizes in, nothing checked. Nothing is
// allocated but what has a size that is known last: a TreeSpectrum, BoostedTrees, SupersetSums. The
// only caller, spex_core/native.py, holds the tensors alive. The GIL is released throughout.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <cstdint>
#include <tuple>
#include <vector>

#include "anova_kernel.h"
#include "bch.h"
#include "boost.h"
#include "fwht.h"
#include "gelu.h"
#include "isa.h"
#include "masks.h"
#include "pack_tokens.h"
#include "packed_attention.h"
#include "parity.h"
#include "peel.h"
#include "records.h"
#include "settle.h"
#include "superset_sums.h"
#include "tree_fourier.h"

namespace py = pybind11;
using Address = std::uintptr_t;

namespace {

template <typename T>
T* at(Address address) {
  return reinterpret_cast<T*>(address);
}

spex::AnovaKernel anova_at(Address masks, Address others, int64_t rows, int64_t columns,
                           int64_t words, int64_t n, Address relevances, Address variances,
                           int orders, double bias) {
  return {at<const uint64_t>(masks),
          at<const uint64_t>(others),
          rows,
          columns,
          words,
          n,
          at<const double>(relevances),
          at<const double>(variances),
          orders,
          masks == others && rows == columns,
          bias};
}

spex::BchCode code_at(int m, int t, int parities, int64_t n, Address exp, Address log,
                      Address syndromes, Address columns, int words) {
  return {m,
          t,
          parities,
          n,
          at<const int32_t>(exp),
          at<const int32_t>(log),
          at<const int32_t>(syndromes),
          at<const uint64_t>(columns),
          words};
}

// Four matrices, each (address, values from one row to the next, from one head to the next).
using Matrix = std::tuple<Address, int64_t, int64_t>;

template <typename T>
spex::HeadRows<T> rows_at(const Matrix& matrix) {
  return {at<T>(std::get<0>(matrix)), std::get<1>(matrix), std::get<2>(matrix)};
}

template <typename T>
void packed_attention(const Matrix& query, const Matrix& key, const Matrix& value,
                      const Matrix& out, Address starts, int64_t sequences, int64_t heads,
                      int64_t key_heads, int64_t dim, float scale, bool causal, int isa,
                      int threads) {
  const spex::PackedAttention<T> problem{rows_at<const T>(query),
                                         rows_at<const T>(key),
                                         rows_at<const T>(value),
                                         rows_at<T>(out),
                                         at<const int64_t>(starts),
                                         sequences,
                                         heads,
                                         key_heads,
                                         dim,
                                         scale,
                                         causal};
  spex::packed_attention_cpu(problem, spex::resolve_isa(isa), threads);
}

template <typename T>
void gelu(Address x, Address out, int64_t size, int isa, int threads) {
  spex::gelu_cpu(at<const T>(x), at<T>(out), size, spex::resolve_isa(isa), threads);
}

// The words of a contiguous NumPy array. Of many small arrays, to ask for the address in Python
// would take longer than what is done with them.
class Words {
 public:
  Words(const py::object& array, bool written) {
    const int how = written ? PyBUF_SIMPLE | PyBUF_WRITABLE : PyBUF_SIMPLE;
    if (PyObject_GetBuffer(array.ptr(), &view_, how) != 0) throw py::error_already_set();
  }
  ~Words() { PyBuffer_Release(&view_); }
  Words(const Words&) = delete;
  Words& operator=(const Words&) = delete;

  uint64_t* data() const { return static_cast<uint64_t*>(view_.buf); }
  double* doubles() const { return static_cast<double*>(view_.buf); }
  uint8_t* bytes() const { return static_cast<uint8_t*>(view_.buf); }

 private:
  Py_buffer view_;
};

}  // namespace

PYBIND11_MODULE(_cpu, m) {
  using release = py::call_guard<py::gil_scoped_release>;

  m.def("best_isa", [] { return static_cast<int>(spex::best_isa()); });

  m.def(
      "fwht_f32",
      [](Address in, Address out, int64_t rows, int log_n, int isa, int threads) {
        spex::fwht_cpu(at<const float>(in), at<float>(out), rows, log_n, spex::resolve_isa(isa),
                       threads);
      },
      release());
  m.def(
      "fwht_f64",
      [](Address in, Address out, int64_t rows, int log_n, int isa, int threads) {
        spex::fwht_cpu(at<const double>(in), at<double>(out), rows, log_n, spex::resolve_isa(isa),
                       threads);
      },
      release());

  m.def(
      "affine_masks",
      [](Address columns, Address offsets, int b, int64_t shifts, int64_t words, Address out,
         int isa, int threads) {
        spex::affine_masks_cpu(at<const uint64_t>(columns), at<const uint64_t>(offsets), b, shifts,
                               words, at<uint64_t>(out), spex::resolve_isa(isa), threads);
      },
      release());
  m.def(
      "uniform_masks",
      [](uint64_t seed, uint32_t stream, int64_t start, int64_t rows, int64_t n, Address out,
         int isa, int threads) {
        spex::uniform_masks_cpu(seed, stream, start, rows, n, at<uint64_t>(out),
                                spex::resolve_isa(isa), threads);
      },
      release());

  m.def(
      "parity_bits",
      [](Address masks, Address support, int64_t samples, int64_t terms, int64_t words, Address out,
         int isa, int threads) {
        spex::parity_bits_cpu(at<const uint64_t>(masks), at<const uint64_t>(support), samples,
                              terms, words, at<uint64_t>(out), spex::resolve_isa(isa), threads);
      },
      release());
  m.def(
      "parity_predict",
      [](Address masks, Address support, Address coefs, int64_t samples, int64_t terms,
         int64_t words, Address out, int isa, int threads) {
        spex::parity_predict_cpu(at<const uint64_t>(masks), at<const uint64_t>(support),
                                 at<const double>(coefs), samples, terms, words, at<double>(out),
                                 spex::resolve_isa(isa), threads);
      },
      release());
  m.def(
      "parity_adjoint",
      [](Address masks, Address support, Address values, int64_t samples, int64_t terms,
         int64_t words, Address out, int isa, int threads) {
        spex::parity_adjoint_cpu(at<const uint64_t>(masks), at<const uint64_t>(support),
                                 at<const double>(values), samples, terms, words, at<double>(out),
                                 spex::resolve_isa(isa), threads);
      },
      release());
  m.def(
      "parity_gram",
      [](Address columns, int64_t terms, int64_t samples, Address out, int isa, int threads) {
        spex::parity_gram_cpu(at<const uint64_t>(columns), terms, samples, at<double>(out),
                              spex::resolve_isa(isa), threads);
      },
      release());

  py::class_<spex::AnovaKernel>(m, "AnovaKernel").def(py::init(&anova_at));
  m.def(
      "anova_kernel",
      [](const spex::AnovaKernel& kernel, Address out, int isa, int threads) {
        spex::anova_kernel_cpu(kernel, at<double>(out), spex::resolve_isa(isa), threads);
      },
      release());
  m.def(
      "anova_kernel_grad",
      [](const spex::AnovaKernel& kernel, Address weights, Address by_relevance,
         Address by_variance, int isa, int threads) {
        spex::anova_kernel_grad_cpu(kernel, at<const double>(weights), at<double>(by_relevance),
                                    at<double>(by_variance), spex::resolve_isa(isa), threads);
      },
      release());

  m.def(
      "anova_cross",
      [](const spex::AnovaKernel& terms, Address out, int isa, int threads) {
        spex::anova_cross_cpu(terms, at<double>(out), spex::resolve_isa(isa), threads);
      },
      release());

  py::class_<spex::BchCode>(m, "BchCode").def(py::init(&code_at));
  m.def(
      "bch_decode",
      [](const spex::BchCode& code, Address readings, int64_t rows, int chase, Address features,
         Address counts, int threads) {
        spex::bch_decode_cpu(code, at<const double>(readings), rows, chase, at<int32_t>(features),
                             at<int32_t>(counts), threads);
      },
      release());
  m.def(
      "peel_many",
      [](const spex::BchCode& code, int groups, int shifts, int b, Address hash, Address bins,
         int degree, int64_t outputs, Address floors, int chase, Address features, Address coefs,
         Address counts, int isa, int threads) {
        const spex::PeelProblem problem{
            code, groups, shifts, b, at<const int32_t>(hash), at<const double>(bins), degree, 0.0};
        spex::peel_many_cpu(problem, outputs, at<const double>(floors), chase,
                            at<int32_t>(features), at<double>(coefs), at<int64_t>(counts),
                            spex::resolve_isa(isa), threads);
      },
      release());

  py::class_<spex::BoostSettings>(m, "BoostSettings")
      .def(py::init([](int trees, int depth, int leaves, int32_t min_leaf, double rate, double l2,
                       double row_share, double feature_share) {
        return spex::BoostSettings{trees, depth, leaves,    min_leaf,
                                   rate,  l2,    row_share, feature_share};
      }));
  py::class_<spex::BoostedTrees>(m, "BoostedTrees")
      .def_property_readonly("trees", [](const spex::BoostedTrees& f) { return f.roots.size(); })
      .def_property_readonly("nodes", [](const spex::BoostedTrees& f) { return f.value.size(); })
      .def_readonly("bias", &spex::BoostedTrees::bias)
      // Into arrays of all fits, at this one's place: its nodes are numbered from `first` there.
      .def("copy", [](const spex::BoostedTrees& f, int32_t first, Address roots, Address feature,
                      Address absent, Address present, Address value) {
        const auto number = [first](int32_t node) { return node < 0 ? node : node + first; };
        std::transform(f.roots.begin(), f.roots.end(), at<int32_t>(roots), number);
        std::copy(f.feature.begin(), f.feature.end(), at<int32_t>(feature));
        std::transform(f.absent.begin(), f.absent.end(), at<int32_t>(absent), number);
        std::transform(f.present.begin(), f.present.end(), at<int32_t>(present), number);
        std::copy(f.value.begin(), f.value.end(), at<double>(value));
      });
  m.def(
      "boost",
      [](Address masks, int64_t samples, int64_t rows, int64_t n, Address stages,
         int64_t num_stages, uint64_t seed, const std::vector<spex::BoostSettings>& settings,
         const std::vector<Address>& values, const std::vector<Address>& bags, Address staged,
         int isa, int threads) {
        const spex::BoostProblem problem{at<const uint64_t>(masks), samples,    rows, n,
                                         at<const int32_t>(stages), num_stages, seed};
        std::vector<const double*> y;
        std::vector<const uint64_t*> chosen;
        for (const Address address : values) y.push_back(at<const double>(address));
        for (const Address address : bags) chosen.push_back(at<const uint64_t>(address));
        return spex::boost_cpu(problem, settings, y, chosen, at<double>(staged),
                               spex::resolve_isa(isa), threads);
      },
      release());

  py::class_<spex::TreeSpectrum>(m, "TreeSpectrum")
      .def("size", &spex::TreeSpectrum::size)
      .def(
          "write",
          [](const spex::TreeSpectrum& spectrum, Address support, Address coefs, int threads) {
            spectrum.write(at<uint64_t>(support), at<double>(coefs), threads);
          },
          release());
  m.def(
      "tree_fourier",
      [](Address roots, int64_t trees, Address feature, Address absent, Address present,
         Address value, int64_t n, Address group, int groups, int64_t limit, int threads) {
        const spex::Forest forest{at<const int32_t>(roots),
                                  trees,
                                  at<const int32_t>(feature),
                                  at<const int32_t>(absent),
                                  at<const int32_t>(present),
                                  at<const double>(value),
                                  n};
        return spex::tree_fourier_cpu(forest, at<const int32_t>(group), groups, limit, threads);
      },
      release());

  py::class_<spex::SupersetSums>(m, "SupersetSums")
      .def(py::init([](Address support, Address coefs, int64_t terms, int64_t words,
                       Address weights, int order, int64_t columns) {
             return spex::SupersetSums({at<const uint64_t>(support), at<const double>(coefs), terms,
                                        words, at<const double>(weights), order, columns});
           }),
           release())
      .def("size", &spex::SupersetSums::size)
      .def(
          "write",
          [](const spex::SupersetSums& found, Address sets, Address sums) {
            found.write(at<int32_t>(sets), at<double>(sums));
          },
          release());

  m.def(
      "mask_lengths",
      [](Address masks, Address lengths, int64_t samples, int64_t n, int64_t fixed, Address out,
         int threads) {
        spex::mask_lengths_cpu(at<const uint64_t>(masks), at<const int64_t>(lengths), samples, n,
                               fixed, at<int64_t>(out), threads);
      },
      release());

  py::class_<spex::TokenLayout>(m, "TokenLayout")
      .def(py::init([](Address ids, Address owner, int64_t length, int64_t n) {
        return spex::TokenLayout{at<const int64_t>(ids), at<const int64_t>(owner), length, n};
      }));
  m.def(
      "pack_tokens",
      [](const spex::TokenLayout& layout, Address masks, int64_t samples, Address starts,
         bool original, Address input_ids, Address position_ids, Address sequence, int threads) {
        spex::pack_tokens_cpu(layout, at<const uint64_t>(masks), samples, at<const int64_t>(starts),
                              original, at<int64_t>(input_ids), at<int64_t>(position_ids),
                              at<int32_t>(sequence), threads);
      },
      release());
  m.def(
      "trie_prefixes",
      [](const spex::TokenLayout& layout, Address masks, int64_t samples, Address first,
         Address shared, Address added, int threads) {
        spex::trie_prefixes_cpu(layout, at<const uint64_t>(masks), samples, at<int64_t>(first),
                                at<int64_t>(shared), at<int64_t>(added), threads);
      },
      release());
  m.def(
      "pack_trie",
      [](const spex::TokenLayout& layout, Address masks, int64_t samples, Address first,
         Address shared, Address starts, bool original, Address input_ids, Address position_ids,
         Address subtree_end, Address last, int threads) {
        spex::pack_trie_cpu(layout, at<const uint64_t>(masks), samples, at<const int64_t>(first),
                            at<const int64_t>(shared), at<const int64_t>(starts), original,
                            at<int64_t>(input_ids), at<int64_t>(position_ids),
                            at<int64_t>(subtree_end), at<int64_t>(last), threads);
      },
      release());

  m.def("packed_attention_f32", &packed_attention<float>, release());
  m.def("packed_attention_bf16", &packed_attention<spex::BFloat16>, release());

  m.def("gelu_f32", &gelu<float>, release());
  m.def("gelu_bf16", &gelu<spex::BFloat16>, release());

  m.def("settle", [](int64_t rows, int64_t count, const py::object& values, const py::object& out,
                     const py::object& there) {
    const Words from(values, false), to(out, true), known(there, true);
    return spex::settle_cpu(from.doubles(), rows, count, to.doubles(), known.bytes());
  });
  m.def("unpack_masks",
        [](int64_t rows, int64_t n, const py::object& masks, const py::object& out, int isa) {
          const Words in(masks, false), to(out, true);
          const py::gil_scoped_release release;
          spex::unpack_masks_cpu(in.data(), rows, n, to.bytes(), spex::resolve_isa(isa));
        });
  m.def("mask_keys",
        [](int64_t rows, int64_t words, const py::object& masks, const py::object& keys) {
          const Words in(masks, false), out(keys, true);
          const py::gil_scoped_release release;
          spex::mask_keys_cpu(in.data(), rows, words, out.data());
        });
  m.def("fill_records",
        [](int64_t rows, int64_t words, int64_t values, uint64_t identity, const py::object& masks,
           const py::object& numbers, const py::object& marks, const py::object& records,
           const py::object& keys) {
          const Words mask(masks, false), number(numbers, false), mark(marks, false);
          const Words record(records, true), key(keys, true);
          const py::gil_scoped_release release;
          spex::fill_records_cpu({words, values, identity}, mask.data(), number.data(),
                                 mark.bytes(), rows, record.data(), key.data());
        });
  m.def("check_records",
        [](int64_t rows, int64_t words, int64_t values, uint64_t identity,
           const py::object& records, const py::object& keys, const py::object& state) {
          const Words record(records, false), key(keys, true), states(state, true);
          const py::gil_scoped_release release;
          spex::check_records_cpu({words, values, identity}, record.data(), rows, key.data(),
                                  states.bytes());
        });
}
