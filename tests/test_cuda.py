"""The CUDA kernels where there is no GPU. Their results are tested with those of all backends, in
test_<op>.py; here: they compile for real devices without spilling, import without a driver, and
their results do not depend on the order of threads."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from spex_core import ops
from spex_core.backend import emulated, why_not

ROOT = Path(__file__).resolve().parent.parent
ARCHITECTURES = (80, 90)
SHARED_LIMIT = 163 * 1024  # bytes a block on sm_80, of the CUDA programming guide; more above


@pytest.fixture(scope="session")
def build(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """_cuda built by nvcc: its folder, and what ptxas said."""
    pytest.importorskip("pybind11")
    for program in ("nvcc", "cmake", "ninja"):
        beside = Path(sys.executable).parent / program
        if shutil.which(program) is None and not beside.exists():
            pytest.skip(f"no {program}")
    folder = tmp_path_factory.mktemp("cuda")
    pybind11 = [sys.executable, "-m", "pybind11", "--cmakedir"]
    where = subprocess.run(pybind11, capture_output=True, text=True, check=True).stdout.strip()
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    log = ""
    for command in (
        [
            *("cmake", "-S", str(ROOT / "csrc"), "-B", str(folder), "-G", "Ninja"),
            *(f"-DPython_EXECUTABLE={sys.executable}", f"-Dpybind11_DIR={where}"),
            *("-DSPEX_CUDA=ON", "-DCMAKE_CUDA_FLAGS=-Xptxas -v"),
            "-DCMAKE_CUDA_ARCHITECTURES=" + ";".join(f"{arch}-real" for arch in ARCHITECTURES),
        ],
        ["cmake", "--build", str(folder), "--target", "_cuda"],
    ):
        done = subprocess.run(
            command, env=os.environ | {"PATH": path}, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout + done.stderr
        log += done.stdout + done.stderr
    return folder, log


def test_every_kernel_compiles_without_a_spill(build: tuple[Path, str]) -> None:
    entries = re.findall(r"Compiling entry function '(\w+)' for 'sm_(\d+)'", build[1])
    assert {int(arch) for _, arch in entries} == set(ARCHITECTURES)
    sources = {path.stem for path in (ROOT / "csrc").glob("*.cu")}
    compiled = {stem for stem in sources if any(f"{stem}_cu" in name for name, _ in entries)}
    assert "fwht" in compiled
    assert compiled == sources
    spilled = re.findall(r"(\d+) bytes spill stores, (\d+) bytes spill loads", build[1])
    assert len(spilled) >= len(entries)
    assert set(spilled) == {("0", "0")}


def test_static_shared_memory_and_registers_are_within_the_limits(build: tuple[Path, str]) -> None:
    registers = [int(x) for x in re.findall(r"Used (\d+) registers", build[1])]
    assert registers
    assert max(registers) <= 255
    assert all(int(x) <= 48 * 1024 for x in re.findall(r"(\d+) bytes smem", build[1]))


def test_imports_and_refuses_without_a_driver(build: tuple[Path, str]) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a driver")
    program = """
import _cuda
print(_cuda.emulated)
try:
    _cuda.fwht_f32(0, 0, 1, 3, (0, 0))
except RuntimeError as error:
    print(error)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=build[0], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    first, second = done.stdout.splitlines()
    assert first == "False"
    assert re.match("cuda[A-Za-z]+: .*(driver|device)", second)


def test_needs_no_library_of_cuda_or_torch(build: tuple[Path, str]) -> None:
    if shutil.which("readelf") is None:
        pytest.skip("no readelf")
    (module,) = build[0].glob("_cuda*.so")
    read = subprocess.run(["readelf", "-d", str(module)], capture_output=True, text=True).stdout
    needed = re.findall(r"NEEDED.*\[(.+)\]", read)
    assert any(name.startswith("libstdc++") for name in needed)
    assert not [name for name in needed if re.match(r"lib(cuda|torch|c10)", name)]


@pytest.fixture
def emulation() -> Iterator:
    if (reason := why_not("cuda")) is not None or not emulated():
        pytest.skip(f"not built with SPEX_CUDA=EMULATED ({reason})")
    from spex_core import _cuda

    yield _cuda
    _cuda.emulate_downwards(False)


def both_orders(emulation, call) -> list:
    """What call() returns with threads that run upwards, and downwards."""
    found = []
    for downwards in (False, True):
        emulation.emulate_downwards(downwards)
        found.append(call())
    return found


@pytest.mark.parametrize("b", [2, 7, 9, 12, 13, 15, 17])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_fwht_does_not_depend_on_the_order_of_threads(emulation, b: int, dtype) -> None:
    x = torch.randn(3, 1 << b, dtype=dtype, generator=torch.Generator().manual_seed(b))
    up, down = both_orders(emulation, lambda: ops.fwht(x, backend="cuda"))
    assert torch.equal(up, down)
    assert torch.equal(up, ops.fwht(x, backend="reference"))


@pytest.mark.parametrize(
    ("dtype", "b", "passes"),
    [
        *((torch.float32, b, 1) for b in (0, 7, 12, 15)),
        *((torch.float64, b, 1) for b in (0, 7, 12, 14)),
        *((torch.float32, 16, 2), (torch.float64, 15, 2)),
    ],
    ids=str,
)
def test_fwht_takes_as_many_passes_as_it_says(emulation, dtype, b: int, passes: int) -> None:
    before = emulation.launches()
    ops.fwht(torch.ones(2, 1 << b, dtype=dtype), backend="cuda")
    assert emulation.launches() - before == passes
    assert emulation.most_shared() <= SHARED_LIMIT


def test_no_rows_launch_nothing(emulation) -> None:
    before = emulation.launches()
    assert ops.fwht(torch.ones(0, 8), backend="cuda").shape == (0, 8)
    assert emulation.launches() == before
