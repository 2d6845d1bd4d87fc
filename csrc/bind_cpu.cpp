// The Python face of the CPU kernels: raw addresses and sizes in, nothing checked, nothing allocated.
// spex_core/native.py is its only caller and holds the tensors alive. The GIL is released throughout.
#include <pybind11/pybind11.h>

#include <cstdint>

#include "fwht.h"
#include "isa.h"
#include "masks.h"
#include "parity.h"

namespace py = pybind11;
using Address = std::uintptr_t;

namespace {

template <typename T>
T* at(Address address) {
  return reinterpret_cast<T*>(address);
}

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
}
