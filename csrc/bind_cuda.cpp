// The Python face of the kernels of *.cu, as bind_cpu.cpp is that of the others: raw addresses and
// sizes in, nothing checked, nothing allocated. A place is (device, stream); kernels are started
// there and not waited for. The only caller is spex_core/native_cuda.py.
#include <pybind11/pybind11.h>

#include <cstdint>
#include <tuple>

#include "fwht.h"
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
}
