"""Tensors of more than 2**31 elements in CUDA C++: one block far from the first, on memory where
only what it touches exists. Runs where the kernels are compiled for the host."""

from __future__ import annotations

import math
import mmap
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from spex_core import ops, reference, reference_decode
from spex_core.backend import emulated, why_not
from spex_core.codes import bch_code

if why_not("cuda") is not None or not emulated():
    pytest.skip("not built with SPEX_CUDA=EMULATED", allow_module_level=True)

from spex_core import _cuda, native_cuda
from spex_core.boost_cuda import Grower
from spex_core.boost_start import Start

HERE = (0, 0)
FAR = 2**31


@pytest.fixture(autouse=True)
def every_block_after() -> Iterator[None]:
    yield
    _cuda.only(-1, 0)


def address(x: Tensor, first: int) -> int:
    """Where element 0 is if x is what begins at element `first`."""
    return (x.data_ptr() - first * x.element_size()) % 2**64


def spacious(*shape: int) -> Tensor:
    """int64 zeros of which only what is written takes memory."""
    unreserved = 0x4000  # MAP_NORESERVE on Linux: it may be more than the machine has
    private = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | unreserved
    memory = mmap.mmap(-1, 8 * math.prod(shape), flags=private)
    return torch.frombuffer(memory, dtype=torch.int64).view(shape)


def random_words(*shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(-(2**63), 2**63 - 1, shape, generator=generator)


def test_fwht() -> None:
    x = torch.randn(2, 1 << 12)
    out = torch.zeros_like(x)
    block = (FAR >> 12) + 3
    _cuda.only(0, block)
    where = (address(tensor, block << 12) for tensor in (x, out))
    _cuda.fwht_f32(*where, (FAR >> 12) + 9, 12, HERE)
    assert torch.equal(out[0], reference.fwht(x[0]))
    assert not out[1].any()


def test_fwht_in_two_passes() -> None:
    """Rows of 2**16, 128 of them at a time: the first group past 2**31 values, its first row."""
    x = torch.randn(1, 1 << 16)
    group = FAR >> 23
    found, expected = x.clone(), reference.fwht(x)
    where = address(found, FAR)
    for launch in (2 * group, 2 * group + 1):
        for tile in range(16):
            _cuda.only(launch, tile)
            _cuda.fwht_f32(where, where, (FAR >> 16) + 128, 16, HERE)
    assert torch.equal(found, expected)


def test_masks_are_transposed() -> None:
    """The last of 40 words of masks 2**26 and on."""
    words, samples = 40, 2**26 + 600
    groups, first = -(-samples // 64), 2**26
    masks = random_words(512, words)
    columns = spacious(64, groups)
    block = first // 512 * words + 39
    assert min(first * words, 39 * 64 * groups) > FAR
    _cuda.only(0, block)
    where = address(masks, first * words), 0, samples, 1, words
    _cuda.parity_bits(*where, address(columns, 39 * 64 * groups), 0, HERE)
    found = columns[:, first // 64 : first // 64 + 8]
    bits = masks[:, 39].view(8, 64, 1) >> torch.arange(64) & 1  # (group, mask, feature)
    assert torch.equal(found, (bits << torch.arange(64).view(64, 1)).sum(1).T)


def test_parities_of_a_late_term() -> None:
    groups, terms = 1 << 20, 2100
    term = 2**11 + 5
    assert term * groups > FAR
    support = torch.tensor([[0b101_0001]])
    columns = spacious(64, groups)
    columns[:, :256] = random_words(64, 256)
    out = torch.zeros(256, dtype=torch.int64)
    _cuda.only(1, term * groups // 256)
    where = 0, address(support, term), 64 * groups, terms, 1, columns.data_ptr()
    _cuda.parity_bits(*where, address(out, term * groups), HERE)
    assert torch.equal(out, columns[0, :256] ^ columns[4, :256] ^ columns[6, :256])


def test_a_sum_for_a_late_mask() -> None:
    samples, block = FAR + 70_000, FAR // 256 + 5
    first = 256 * block
    groups = -(-samples // 64)
    coefs = torch.tensor([1.0, 10.0, 100.0], dtype=torch.float64)
    bits = spacious(3, groups)
    bits[:, first // 64 : first // 64 + 4] = random_words(3, 4)
    out = torch.zeros(256, dtype=torch.float64)
    _cuda.only(0, block)
    where = bits.data_ptr(), coefs.data_ptr(), samples, 3, 1
    _cuda.sum_over_terms(*where, address(out, first), HERE)
    odd = bits[:, first // 64 : first // 64 + 4, None] >> torch.arange(64) & 1
    assert torch.equal(out, coefs @ (1 - 2 * odd.flatten(1)).double())


def test_a_late_tile_of_the_gram_matrix() -> None:
    terms = 50_000
    tiles = -(-terms // 64)
    first = 64 * (tiles - 1)
    assert first * terms > FAR
    columns = random_words(terms - first, 1)
    out = spacious(terms - first, terms)
    _cuda.only(0, tiles * (tiles + 1) // 2 - 1)
    where = address(columns, first), terms, 64
    _cuda.parity_gram(*where, address(out, first * terms), HERE)
    found = out[:, first:].view(torch.float64)
    assert torch.equal(found, reference.parity_gram(columns, 64))


def test_a_late_row_is_decoded() -> None:
    """In one slice a row; both launches."""
    code, threads = bch_code(40, 2), 128
    shifts = code.delays
    block = FAR // (threads * code.t) + 1
    first = block * threads
    readings = torch.randn(
        threads, shifts, dtype=torch.float64, generator=torch.Generator().manual_seed(1)
    )
    expected = reference_decode.bch_decode(readings, code, 0)
    assert (expected[1] > 0).any()
    scores = torch.zeros(threads, dtype=torch.float64)
    counts, found = (torch.zeros(threads, dtype=torch.int32) for _ in range(2))
    slots, features = (torch.zeros(threads, code.t, dtype=torch.int32) for _ in range(2))
    tables = native_cuda._tables(code, torch.device("cpu"))
    for launch in (0, 1):
        _cuda.only(launch, block)
        _cuda.bch_decode(
            native_cuda._code(code, tables[3], torch.device("cpu")),
            *(address(readings, first * shifts), first + threads, 0, 1),
            *(address(scores, first), address(counts, first), address(slots, first * code.t)),
            *(address(features, first * code.t), address(found, first), HERE),
        )
    assert min(first * shifts, first * code.t) > FAR
    assert torch.equal(features, expected[0])
    assert torch.equal(found, expected[1])


def test_peel(tmp_path: Path) -> None:
    """Its parts, on the last of 2**33 readings: one kernel goes over all of them, so no block of it
    could be looked at alone."""
    compiler = os.environ.get("CXX", "c++")
    if shutil.which(compiler) is None:
        pytest.skip("no C++ compiler")
    root, program = Path(__file__).resolve().parent.parent, tmp_path / "program"
    main = tmp_path / "main.cpp"
    main.write_text("void test_peel_offsets();\nint main() { test_peel_offsets(); }\n")
    sources = root / "tests/cpp/test_peel_offsets.cpp", main, root / "csrc/peel.cu"
    folders = f"-I{root / 'csrc'}", f"-I{root / 'tests/cpp'}"
    options = "-std=c++17", "-O0", "-DSPEX_EMULATED", *folders
    subprocess.run([compiler, *options, "-xc++", *sources, "-o", program], check=True, timeout=60)
    done = subprocess.run([program], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def test_a_tree_of_late_samples() -> None:
    """Fitted to the last eight samples, whose words are past 2**31; all others it only predicts."""
    late, words = 8, 2**14
    samples, n = FAR // words + late, 64 * words
    masks = spacious(samples, words)
    masks[-late:, -1] = torch.arange(late)
    values = torch.zeros(samples, dtype=torch.float64)
    values[-late:] = torch.tensor([0.0, 3.0, -1.0, 2.0, 7.0, 4.0, 9.0, 5.0]) / 16
    settings = 1, 3, 2, 1, 0.5, 0.0, 1.0, 1.0
    inside = torch.arange(samples) >= samples - late
    start = Start(values, values[-late:].mean(), inside, late, 0)
    grower = Grower(masks, samples, n, start, settings, 0, 0)
    staged = grower.run([1])[0]
    how = {"trees": 1, "depth": 3, "leaves": 2, "min_leaf": 1, "rate": 0.5}
    expected = ops.boost(masks[-late:, -1:], values[-late:], 64, **how, backend="reference")
    found = grower.forest(0, 0)[2]
    assert found.tolist() == [n - 64 + expected.feature[0], -1, -1]
    assert torch.equal(staged[-late:], expected.staged[0, 0])
