// The Python face of the kernels of *.cu, as bind_cpu.cpp is that of the others: raw addresses and
// sizes in, nothing checked, nothing allocated. A place is (device, stream); kernels are started
// there and not waited for. The only caller is spex_core/native_cuda.py.
#include <pybind11/pybind11.h>

#include <cstdint>
#include <tuple>

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

}  // namespace

PYBIND11_MODULE(_cuda, m) {
  using release = py::call_guard<py::gil_scoped_release>;

#if defined(SPEX_EMULATED)
  m.attr("emulated") = true;
  m.def("emulate_downwards", [](bool downwards) { spex::emulated::downwards = downwards; });
  m.def("most_shared", [] { return spex::emulated::most_shared; });
  m.def("launches", [] { return spex::emulated::launches; });
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
}
