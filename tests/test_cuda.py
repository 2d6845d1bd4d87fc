"""The CUDA kernels where there is no GPU. Their results are tested with those of all backends, in
test_<op>.py; here: they compile for real devices without spilling, import without a driver, and
their results do not depend on the order of threads."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from aliased import true_bins
from planted import plant
from test_traced import CALLS, FURTHER

from spex_core import ops
from spex_core.backend import OPS, emulated, pick, why_not
from spex_core.budget import aliased_plan
from spex_core.codes import bch_code
from spex_core.errors import BackendUnavailable
from spex_core.masks import pack

ROOT = Path(__file__).resolve().parent.parent
ARCHITECTURES = (80, 90, 100)  # that we ship machine code for
SHARED_LIMIT = 163 * 1024  # bytes a block on sm_80, of the CUDA programming guide; more above


def known() -> list[int]:
    """Of ARCHITECTURES those that nvcc knows: 100 from 12.8 on."""
    nvcc = shutil.which("nvcc") or Path(sys.executable).parent / "nvcc"
    command = [nvcc, "--list-gpu-code"]
    listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    return [arch for arch in ARCHITECTURES if f"sm_{arch}" in listed]


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
            "-DCMAKE_CUDA_ARCHITECTURES=90-virtual;" + ";".join(f"{arch}-real" for arch in known()),
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
    assert {int(arch) for _, arch in entries} == set(known())
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


def test_ptx_is_kept_for_later_devices(build: tuple[Path, str]) -> None:
    triton = pytest.importorskip("triton")
    program = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    if not program.exists():
        pytest.skip("no cuobjdump")
    (module,) = build[0].glob("_cuda*.so")
    listed = subprocess.run([program, "-lptx", module], capture_output=True, text=True).stdout
    assert re.search(r"sm_90\.ptx", listed), listed


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


def conflicts(size: int, lanes: list[int]) -> int:
    """How many more times than once an access of a warp goes to shared memory, where each lane has
    `size` bytes at its offset. Of 8 bytes half a warp goes at once, of 16 a quarter."""
    together = min(32, 128 // size)
    more = 0
    for first in range(0, 32, together):
        words = {at // 4 + i for at in lanes[first : first + together] for i in range(size // 4)}
        banks = Counter(word % 32 for word in words)
        more += max(banks.values()) - 1
    return more


def test_conflicts_are_seen() -> None:
    assert conflicts(4, list(range(0, 128, 4))) == 0
    assert conflicts(4, [0] * 32) == 0  # one word for all
    assert conflicts(4, list(range(0, 256, 8))) == 1
    assert conflicts(4, list(range(0, 128 * 32, 128))) == 31
    assert conflicts(8, list(range(0, 256, 8))) == 0
    assert conflicts(8, list(range(0, 512, 16))) == 2  # one in each half
    assert conflicts(16, list(range(0, 512, 16))) == 0
    assert conflicts(16, list(range(0, 64 * 32, 64))) == 4 * 3


@pytest.mark.parametrize(
    ("dtype", "b"),
    [*((torch.float32, b) for b in range(3, 17)), *((torch.float64, b) for b in range(3, 16))],
    ids=str,
)
def test_lanes_of_fwht_meet_in_no_bank(emulation, dtype, b: int) -> None:
    """Every warp at every access of the exchange; up to 2**9 a row needs none."""
    x = torch.ones(1, 1 << b, dtype=dtype)
    accesses = emulation.shared_accesses(lambda: ops.fwht(x, backend="cuda"))
    assert bool(accesses) == (b > 9)
    row = x.element_size() << b
    assert sum(32 * size for size, _ in accesses) >= 2 * row * (b > 9)  # written and read
    assert all(conflicts(size, lanes) == 0 for size, lanes in accesses)


@pytest.mark.parametrize("op", ["parity_bits", "parity_gram"])
def test_lanes_of_parities_meet_in_no_bank(emulation, op: str) -> None:
    masks = torch.arange(64 * 9).view(-1, 1)
    given = (masks, masks[:3]) if op == "parity_bits" else (masks[:130].expand(-1, 9), 64 * 9)
    accesses = emulation.shared_accesses(lambda: getattr(ops, op)(*given, backend="cuda"))
    assert accesses
    assert all(conflicts(size, lanes) == 0 for size, lanes in accesses)


@pytest.mark.parametrize("chase", [0, 5])
def test_bch_decode_does_not_depend_on_the_order_of_threads_or_their_share(
    emulation, monkeypatch: pytest.MonkeyPatch, chase: int
) -> None:
    from spex_core import native_cuda

    code = bch_code(100, 3)
    generator = torch.Generator().manual_seed(1)
    readings = torch.randn(40, code.delays, generator=generator, dtype=torch.float64)
    expected = ops.bch_decode(readings, code, chase=chase, backend="cpu")
    assert (expected[1] > 0).any()
    for decoders in (1, 160, 1 << 18):  # 1, 4 and all 32 patterns a thread
        monkeypatch.setattr(native_cuda, "DECODERS", decoders)
        for found in both_orders(
            emulation, lambda: ops.bch_decode(readings, code, chase=chase, backend="cuda")
        ):
            assert all(map(torch.equal, found, expected))


@pytest.mark.parametrize(
    ("n", "b", "snr", "chase", "seed"),
    [(30, 4, None, 0, 0), (30, 4, 3, 6, 1), (64, 3, 0, 4, 2), (1100, 4, 3, 3, 3)],
)
def test_peel_is_one_launch_and_does_not_depend_on_the_order_of_threads(
    emulation, n: int, b: int, snr: int | None, chase: int, seed: int
) -> None:
    plan = aliased_plan(n, b, degree=2, seed=seed)
    bins = true_bins(plant(n, 12, 2, seed=seed, snr=snr), plan)
    given = bins, plan.code, plan.delay_columns, plan.hashes
    expected = ops.peel(*given, floor=1e-15, chase=chase, backend="cpu")
    assert len(expected[1]) > 3
    before = emulation.launches()
    up, down = both_orders(
        emulation, lambda: ops.peel(*given, floor=1e-15, chase=chase, backend="cuda")
    )
    assert emulation.launches() - before == 2
    assert all(map(torch.equal, up, down))
    assert torch.equal(up[0], expected[0])
    assert torch.allclose(up[1], expected[1], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(("op", "outputs"), [("peel", ()), ("peel_many", (2,))])
def test_peel_refuses_more_bins_than_its_numbers_hold(
    emulation, monkeypatch: pytest.MonkeyPatch, op: str, outputs: tuple[int, ...]
) -> None:
    from spex_core import native_cuda

    plan = aliased_plan(10, 3, degree=2)
    groups, shifts, width = plan.shape
    how = {"floors": [1e-15, 1e-15]} if outputs else {"floor": 1e-15}

    def call() -> object:
        bins = torch.zeros(*outputs, *plan.shape)
        tables = plan.code, plan.delay_columns, plan.hashes
        return getattr(ops, op)(bins, *tables, **how, chase=0, backend="cuda")

    monkeypatch.setattr(native_cuda, "MOST_PAIRS", groups * groups * width)
    call()
    monkeypatch.setattr(native_cuda, "MOST_PAIRS", groups * groups * width - 1)
    before = emulation.launches()
    shape = re.escape(str((groups, shifts, width)))
    with pytest.raises(ValueError, match=rf"peel: bins .* must .* 2\*\*31 .*, got shape {shape}"):
        call()
    assert emulation.launches() == before


@pytest.mark.parametrize("each", [1, 8, 32])
@pytest.mark.parametrize(("samples", "terms"), [(1000, 70), (65_600, 3)])
def test_parities_have_the_bits_of_the_cpu_in_either_order(
    emulation, monkeypatch: pytest.MonkeyPatch, samples: int, terms: int, each: int
) -> None:
    """Any number of masks a thread, and masks in several blocks."""
    from spex_core import native_cuda

    if samples > 1000 and each < 32:
        pytest.skip("the blocks do not depend on it")
    monkeypatch.setattr(native_cuda, "BLOCK_BYTES", 1)
    monkeypatch.setattr(native_cuda, "MASKS_EACH", ((0, each),))
    generator = torch.Generator().manual_seed(terms)
    masks = torch.randint(-(2**63), 2**63 - 1, (samples, 1), generator=generator)
    support = torch.randint(-(2**63), 2**63 - 1, (terms, 1), generator=generator)
    coefs = torch.randn(terms, generator=generator, dtype=torch.float64)
    values = torch.randn(samples, generator=generator, dtype=torch.float64)

    def run(backend: str) -> list[torch.Tensor]:
        bits = ops.parity_bits(masks, support, backend=backend)
        return [
            bits,
            ops.parity_predict(masks, support, coefs, backend=backend),
            ops.parity_gram(bits, samples, backend=backend),
            ops.parity_adjoint(masks, support, values, backend=backend),
        ]

    up, down = both_orders(emulation, lambda: run("cuda"))
    assert all(map(torch.equal, up, down))
    expected = run("cpu")
    assert all(map(torch.equal, up[:3], expected[:3]))
    assert torch.allclose(up[3], expected[3], rtol=1e-12, atol=1e-9)
    assert emulation.most_shared() <= SHARED_LIMIT


@pytest.mark.parametrize("n", [9, 130])
def test_boost_does_not_depend_on_the_order_of_threads(emulation, n: int) -> None:
    generator = torch.Generator().manual_seed(n)
    masks = torch.randint(0, 2, (300, n), generator=generator, dtype=torch.bool)
    values = torch.randn(2, 300, generator=generator).double()
    values += 3 * masks[:, 0] - 2 * masks[:, n // 2]
    how = {"trees": [4, 2], "leaves": 7, "min_leaf": 5, "l2": [0.0, 1.5], "stages": [1, 3]}
    how |= {"row_share": 0.7, "feature_share": 0.9, "depth": 4}
    up, down = both_orders(
        emulation, lambda: ops.boost(pack(masks), values, n, **how, backend="cuda")
    )
    expected = ops.boost(pack(masks), values, n, **how, backend="cpu")
    assert len(expected.feature) > 20
    assert all(map(torch.equal, up, down))
    assert all(map(torch.equal, up, expected))


@pytest.mark.parametrize(("dtype", "b"), [(torch.float32, 15), (torch.float64, 14)], ids=str)
def test_fwht_takes_two_passes_where_shared_memory_is_small(emulation, dtype, b: int) -> None:
    x = torch.randn(2, 1 << b, dtype=dtype, generator=torch.Generator().manual_seed(b))
    before = emulation.launches()
    emulation.limit_shared(99 * 1024)  # of sm_86 and sm_89
    try:
        assert torch.equal(ops.fwht(x, backend="cuda"), ops.fwht(x, backend="reference"))
    finally:
        emulation.limit_shared(SHARED_LIMIT)
    assert emulation.launches() - before == 2


def test_no_rows_launch_nothing(emulation) -> None:
    before = emulation.launches()
    assert ops.fwht(torch.ones(0, 8), backend="cuda").shape == (0, 8)
    code = bch_code(10, 2)
    assert ops.bch_decode(torch.ones(0, code.delays), code, backend="cuda")[0].shape == (0, 2)
    assert emulation.launches() == before


@pytest.mark.parametrize("op", [op for op, there in OPS.items() if "cuda" in there])
def test_memory_that_runs_out_is_an_error_before_anything_is_launched(
    emulation, monkeypatch: pytest.MonkeyPatch, op: str
) -> None:
    args, options = FURTHER[op]() if op in FURTHER else (CALLS[op](), {})
    args = [x.detach() if isinstance(x, torch.Tensor) else x for x in args]
    getattr(ops, op)(*args, **options, backend="cuda")

    def full(*size: object, **options: object) -> torch.Tensor:
        raise torch.OutOfMemoryError("full")

    for owner, name in ((torch, "empty"), (torch, "empty_like"), (torch.Tensor, "new_empty")):
        monkeypatch.setattr(owner, name, full)
    before = emulation.launches()
    with pytest.raises(torch.OutOfMemoryError):
        getattr(ops, op)(*args, **options, backend="cuda")
    assert emulation.launches() == before


# With a GPU. What holds for every backend is asked of this one in test_<op>.py, there too.


@pytest.fixture
def gpu() -> torch.device:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    if (reason := why_not("cuda")) is not None or emulated():
        pytest.skip(f"the kernels were not built for it ({reason})")
    return torch.device("cuda")


@pytest.mark.gpu
def test_auto_takes_these_kernels(gpu: torch.device) -> None:
    picked = {op for op, there in OPS.items() if "cuda" in there}
    assert {pick(op, "auto", gpu) for op in picked} == {"cuda"}


@pytest.mark.gpu
@pytest.mark.usefixtures("kept_memory")
def test_a_transform_can_be_captured_in_a_graph(gpu: torch.device) -> None:
    x = torch.randn(64, 1 << 13, device=gpu)
    ops.fwht(x, backend="cuda")
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        y = ops.fwht(x, backend="cuda")
    x.copy_(torch.arange(8192.0, device=gpu) % 7)
    graph.replay()
    assert torch.equal(y.cpu(), ops.fwht(x.cpu(), backend="reference"))


@pytest.mark.gpu
def test_kernels_run_in_the_current_stream(gpu: torch.device) -> None:
    x = torch.zeros(1 << 14, 1 << 12, device=gpu)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        torch.cuda._sleep(50_000_000)  # some tens of milliseconds, which another stream would skip
        x += 1
        y = ops.fwht(x, backend="cuda")
    stream.synchronize()
    assert (y[:, 0] == 4096).all()


@pytest.mark.gpu
def test_kernels_run_on_the_device_of_their_tensors(gpu: torch.device) -> None:
    if torch.cuda.device_count() < 2:
        pytest.skip("one device")
    x = torch.ones(4, 64, device="cuda:1")
    y = ops.fwht(x, backend="cuda")
    assert y.device == x.device
    assert (y[:, 0] == 64).all()
    assert torch.cuda.current_device() == 0


@pytest.mark.gpu
def test_tensors_of_the_host_are_refused(gpu: torch.device) -> None:
    with pytest.raises(BackendUnavailable, match=r"fwht: .*tensors are on cpu"):
        ops.fwht(torch.ones(4), backend="cuda")
    masks = torch.zeros(3, 1, dtype=torch.int64, device=gpu)
    with pytest.raises(ValueError, match="support must be on the device of masks"):
        ops.parity_bits(masks, masks.cpu(), backend="cuda")
