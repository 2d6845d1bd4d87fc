"""What the tests share: poisoned memory, fixed seeds, backends, instruction sets, shared games."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map_only

# Without a GPU, Triton's kernels run in its interpreter. It decides when it is imported.
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")

import spex_core
from spex_core.backend import BACKENDS, emulated, interpreted, refusal, why_not

ROOT = Path(__file__).resolve().parent.parent

# The same examples on every run, and no time limit on a busy machine.
hypothesis.settings.register_profile("spex", derandomize=True, deadline=None)
hypothesis.settings.load_profile("spex")


def pytest_report_header() -> list[str]:
    return [f"{name}: {why_not(name) or 'available'}" for name in BACKENDS]


class PoisonEmpty(TorchFunctionMode):
    """Fills what torch.empty and its kin return, NaN in floats and 0xAA in all other bytes."""

    MAKERS = (torch.empty, torch.empty_like, torch.empty_strided, torch.Tensor.new_empty)

    def __torch_function__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if func in self.MAKERS and out.numel() and out.device.type != "meta":
            if out.is_floating_point() or out.is_complex():
                out.fill_(torch.nan)
            elif out.dtype != torch.bool:
                out.view(torch.uint8).fill_(0xAA)
        return out


@pytest.fixture(scope="session", autouse=True)
def poison_empty() -> Iterator[None]:
    """An output that a kernel leaves unwritten fails its test."""
    with PoisonEmpty():
        yield


def device_of(backend: str) -> torch.device:
    """Where the tensors of `backend` live: on the CPU too where kernels are interpreted."""
    on_cpu = (
        backend in ("reference", "cpu")
        or (backend == "triton" and why_not("triton") is None and interpreted())
        or (backend == "cuda" and why_not("cuda") is None and emulated())
    )
    return torch.device("cpu" if on_cpu else "cuda")


EACH = [
    pytest.param(name, marks=[pytest.mark.gpu] if device_of(name).type == "cuda" else [])
    for name in BACKENDS
]


@pytest.fixture(scope="module", params=EACH)
def backend(request: pytest.FixtureRequest) -> str:
    """Each backend in turn; one that is absent, or lacks the op named by the module, skips.

    A kernel's test module names its op: `pytestmark = pytest.mark.op("fwht")`.
    """
    marker = request.node.get_closest_marker("op")
    name = request.param
    reason = refusal(marker.args[0], name, device_of(name)) if marker else why_not(name)
    if reason is not None:
        pytest.skip(f"{name}: {reason}")
    return name


@pytest.fixture(scope="module")
def device(backend: str) -> torch.device:
    """Where the tensors of `backend` live."""
    return device_of(backend)


@pytest.fixture
def call(backend: str, device: torch.device) -> Callable[..., Any]:
    """call(op, *args, **options): the op by each backend, for tensors of the CPU, where its result,
    a tensor or several, comes back to."""

    def there(x: torch.Tensor) -> torch.Tensor:
        return x.to(device) if x.device.type == "cpu" else x

    def moved(op: Callable[..., Any], *args: object, **options: object) -> Any:
        args, options = tree_map_only(torch.Tensor, there, (args, options))
        found = op(*args, **options, backend=backend)
        return tree_map_only(torch.Tensor, torch.Tensor.cpu, found)

    return moved


@pytest.fixture(scope="module", params=["portable", "avx2", "avx512", "gfni"])
def isa(request: pytest.FixtureRequest) -> str:
    """Each instruction set of the cpu backend in turn; one that this CPU lacks skips."""
    if (reason := why_not("cpu")) is not None:
        pytest.skip(f"cpu: {reason}")
    from spex_core import native

    best = native.best_isa()
    if native.ISAS[request.param] > native.ISAS[best]:
        pytest.skip(f"{request.param}: this CPU stops at {best}")
    return request.param


@pytest.fixture
def without_cuda(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As if the CUDA kernels were not built."""
    monkeypatch.setitem(sys.modules, "spex_core._cuda", None)
    monkeypatch.delattr(spex_core, "_cuda", raising=False)
    why_not.cache_clear()
    yield
    why_not.cache_clear()


@pytest.fixture
def kept_memory() -> None:
    """Skips where torch keeps no freed memory of a device, as under compute-sanitizer."""
    if "PYTORCH_NO_CUDA_MEMORY_CACHING" in os.environ:
        pytest.skip("PYTORCH_NO_CUDA_MEMORY_CACHING is set: every tensor is a call of cudaMalloc")


@pytest.fixture
def set_threads() -> Iterator[Callable[[int], None]]:
    """torch.set_num_threads, undone after the test."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def games() -> Path:
    """The folder of real value functions: $SPEX_GAMES, else shared/games beside the repository."""
    folder = Path(os.environ.get("SPEX_GAMES", ROOT.parent / "shared" / "games"))
    if not folder.is_dir():
        pytest.skip(f"no games in {folder}: name their folder in SPEX_GAMES")
    return folder
