"""bch_decode: the six kinds of kernel test."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from spex_core import BackendUnavailable, ops
from spex_core.backend import interpreted
from spex_core.codes import BchCode, bch_code

pytestmark = pytest.mark.op("bch_decode")

SIZES = (1, 2, 10, 63, 64, 65, 100, 1000)
LARGE = (2**14, 2**19)


def interpreter_is_slow(backend: str, when: bool) -> None:
    """Skips what takes more than seconds in Triton's interpreter: some ms for each word tried."""
    if when and backend == "triton" and interpreted():
        pytest.skip("takes too long in Triton's interpreter")


def signs(code: BchCode, sets: list[tuple[int, ...]]) -> np.ndarray:
    """(-1)**<d_p, k> of each set at each delay of the code: float64 (rows, 1 + r)."""
    columns = code.columns.numpy().view(np.uint8)
    bits = np.unpackbits(columns, axis=1, count=code.delays, bitorder="little").view(np.bool_)
    odd = [np.logical_xor.reduce(bits[list(k)], axis=0) for k in sets]
    return 1.0 - 2.0 * np.array(odd)


def draw(rng: np.random.Generator, n: int, size: int) -> tuple[int, ...]:
    return tuple(sorted(rng.choice(n, size, replace=False).tolist()))


def sets_of(features: Tensor, counts: Tensor) -> list[tuple[int, ...] | None]:
    """The decoded sets, None where nothing decodes; checks the layout of the answer."""
    assert features.dtype == counts.dtype == torch.int32
    found = []
    for row, count in zip(features.tolist(), counts.tolist(), strict=True):
        k = tuple(row[: max(count, 0)])
        assert list(k) == sorted(set(k))
        assert set(row[max(count, 0) :]) <= {-1}
        found.append(None if count < 0 else k)
    return found


# 1. Bit-equal to the reference.


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("chase", [0, 1, 3])
def test_equals_the_reference(n: int, chase: int, backend: str, device: torch.device) -> None:
    if backend == "reference":
        pytest.skip("it is the reference")
    interpreter_is_slow(backend, n not in (10, 65, 1000) or (n > 65 and chase > 0))
    rng = np.random.default_rng([n, chase])
    decoded = 0
    for t in (1, 2, 5, 10) if backend != "triton" else (2, 3) if chase else (2, 5, 10):
        code = bch_code(n, t)
        sets = [draw(rng, n, min(n, i % (t + 1))) for i in range(8)]
        clean = signs(code, sets)
        readings = np.concatenate([
            np.rint(1.2 * clean + rng.normal(size=clean.shape)),  # with zeros and ties
            clean * rng.normal(size=(8, 1)) + 0.3 * rng.normal(size=clean.shape),
            rng.integers(-1, 2, clean.shape).astype(float),
        ])  # fmt: skip
        given = torch.from_numpy(readings)
        features, counts = ops.bch_decode(given.to(device), code, chase=chase, backend=backend)
        expected = ops.bch_decode(given, code, chase=chase, backend="reference")
        assert torch.equal(features.cpu(), expected[0])
        assert torch.equal(counts.cpu(), expected[1])
        decoded += int((expected[1] >= 0).sum())
    assert decoded > 20


@pytest.mark.parametrize("n", LARGE)
def test_equals_the_reference_for_many_features(n: int, backend: str, device: torch.device) -> None:
    if backend == "reference":
        pytest.skip("it is the reference")
    interpreter_is_slow(backend, n > 2**14)
    rng = np.random.default_rng(n)
    code = bch_code(n, 5)
    clean = signs(code, [draw(rng, n, size) for size in (0, 1, 3, 5)])
    readings = torch.from_numpy(clean + 0.6 * rng.normal(size=clean.shape))
    features, counts = ops.bch_decode(readings.to(device), code, backend=backend)
    expected = ops.bch_decode(readings, code, backend="reference")
    assert torch.equal(features.cpu(), expected[0])
    assert torch.equal(counts.cpu(), expected[1])


# 2. Close on floats: only comparisons and sums depend on scale, so a power of two changes no bit.


def test_does_not_depend_on_scale(backend: str, device: torch.device) -> None:
    interpreter_is_slow(backend, True)
    rng = np.random.default_rng(2)
    code = bch_code(100, 5)
    clean = signs(code, [draw(rng, 100, size) for size in (0, 1, 2, 3, 4, 5)])
    readings = torch.from_numpy(clean + 0.7 * rng.normal(size=clean.shape)).to(device)
    at_one = ops.bch_decode(readings, code, chase=4, backend=backend)
    for scale in (2.0**-500, 2.0**500, -1.0):
        scaled = ops.bch_decode(scale * readings, code, chase=4, backend=backend)
        assert all(map(torch.equal, scaled, at_one))


# 3. Identities: decode(encode(k)) == k.


@pytest.mark.parametrize("t", range(1, 11))
@pytest.mark.parametrize("n", [*SIZES, *LARGE])
def test_decode_undoes_encode(n: int, t: int, backend: str, device: torch.device) -> None:
    if backend == "reference" and n in LARGE and t != 5:
        pytest.skip("reference: t = 5 is enough at this size")
    interpreter_is_slow(backend, n > 65 or t > 6)
    rng = np.random.default_rng([n, t])
    code = bch_code(n, t)
    most = min(n, t)
    sets = [draw(rng, n, size) for size in range(most + 1)]
    sets += [tuple(range(most)), tuple(range(n - most, n))]  # weight exactly t, at both ends
    coefs = rng.choice([-1.0, 1.0], len(sets)) * rng.uniform(0.1, 10, len(sets))
    readings = coefs[:, None] * signs(code, sets)
    answer = ops.bch_decode(torch.from_numpy(readings).to(device), code, backend=backend)
    assert sets_of(*answer) == sets


@pytest.mark.parametrize("n", [1, 10, 64, 65, 1000])
@pytest.mark.parametrize("t", [1, 2, 5, 10])
def test_wrong_parities_are_corrected(n: int, t: int, backend: str, device: torch.device) -> None:
    """Up to t - |k| wrong signs, too weak for the set that the other sign may give to win."""
    interpreter_is_slow(backend, n > 65 and t > 2)
    rng = np.random.default_rng([n, t, 3])
    code = bch_code(n, t)
    sets, readings = [], []
    for size in range(min(n, t) + 1):
        k = draw(rng, n, size)
        row = signs(code, [k])[0] * rng.uniform(1, 2, code.delays)
        row[1 + rng.choice(code.parities, min(t - size, code.parities), replace=False)] *= -0.1
        sets.append(k)
        readings.append(row)
    answer = ops.bch_decode(torch.tensor(np.array(readings), device=device), code, backend=backend)
    assert sets_of(*answer) == sets


@pytest.mark.parametrize("chase", [0, 3])
@pytest.mark.parametrize("coef", [1.5, -1.5])
def test_both_signs_and_a_wrong_first_reading(
    coef: float, chase: int, backend: str, device: torch.device
) -> None:
    rng = np.random.default_rng(4)
    code = bch_code(64, 5)
    sets = [draw(rng, 64, size) for size in (0, 1, 4, 5)]
    readings = coef * signs(code, sets)
    readings[:, 0] *= -0.2
    answer = ops.bch_decode(
        torch.from_numpy(readings).to(device), code, chase=chase, backend=backend
    )
    assert sets_of(*answer) == sets


def test_soft_decoding_repairs_weak_readings(backend: str, device: torch.device) -> None:
    """Weight exactly t leaves the hard decoder no wrong parity; flips of weak ones repair them."""
    rng = np.random.default_rng(5)
    code = bch_code(64, 5)
    sets = [draw(rng, 64, 5) for _ in range(10)]
    readings = signs(code, sets) * rng.uniform(1, 2, (10, code.delays))
    for row in readings:
        row[1 + rng.choice(code.parities, 3, replace=False)] *= -0.1
    given = torch.from_numpy(readings).to(device)
    assert sets_of(*ops.bch_decode(given, code, chase=3, backend=backend)) == sets
    hard = sets_of(*ops.bch_decode(given, code, backend=backend))
    assert not any(a == b for a, b in zip(hard, sets, strict=True))


def test_soft_beats_hard_on_noise(backend: str, device: torch.device) -> None:
    rng = np.random.default_rng(6)
    code = bch_code(100, 5)
    interpreter_is_slow(backend, True)
    rows = 40 if backend == "reference" else 400
    sets = [draw(rng, 100, 1 + i % 5) for i in range(rows)]
    readings = signs(code, sets) + 0.7 * rng.normal(size=(rows, code.delays))
    given = torch.from_numpy(readings).to(device)
    right = []
    for chase in (0, 3, 6) if backend != "reference" else (0, 3):
        found = sets_of(*ops.bch_decode(given, code, chase=chase, backend=backend))
        right.append(sum(a == b for a, b in zip(found, sets, strict=True)))
    assert right[0] > 0
    assert all(b > 1.2 * a for a, b in itertools.pairwise(right))


# 4. Oracles that share no code: every set of a small code in turn.


def small_code(n: int, t: int) -> tuple[BchCode, list[tuple[int, ...]], np.ndarray]:
    code = bch_code(n, t)
    sets = [k for size in range(t + 1) for k in itertools.combinations(range(n), size)]
    return code, sets, signs(code, sets)


@pytest.mark.parametrize(("n", "t"), [(1, 1), (7, 1), (10, 2), (10, 3), (8, 4)])
def test_hard_is_bounded_distance(n: int, t: int, backend: str, device: torch.device) -> None:
    """The set with |k| + wrong signs <= t, for either sign of reading 0, the better of the two."""
    rng = np.random.default_rng([n, t])
    code, sets, words = small_code(n, t)
    near = words[rng.integers(0, len(sets), 60)] + rng.normal(size=(60, code.delays))
    readings = np.concatenate([near, rng.normal(size=(40, code.delays))])
    expected = []
    for row in readings:
        best, score = None, -1.0
        for flip in (1, -1):
            for k, word in zip(sets, words, strict=True):
                wrong = np.sum((row[1:] < 0) ^ (row[0] * flip < 0) ^ (word[1:] < 0))
                if len(k) + wrong <= t and abs(row @ word) > score:
                    best, score = k, abs(row @ word)
        expected.append(best)
    assert sum(k is not None for k in expected) > 10
    assert n < 8 or None in expected
    answer = ops.bch_decode(torch.from_numpy(readings).to(device), code, backend=backend)
    assert sets_of(*answer) == expected


@pytest.mark.parametrize(("n", "t"), [(10, 1), (20, 1), (10, 2), (10, 3)])
def test_all_flips_are_maximum_likelihood(
    n: int, t: int, backend: str, device: torch.device
) -> None:
    """With every parity flipped in turn, no set of at most t features can be missed."""
    code, sets, words = small_code(n, t)
    if backend == "reference" and code.parities > 5:
        pytest.skip(f"reference: 2**{code.parities + 1} decodings a row take too long")
    interpreter_is_slow(backend, code.parities > 4)
    rng = np.random.default_rng([n, t])
    readings = rng.normal(size=(8, code.delays))
    expected = [sets[np.abs(words @ row).argmax()] for row in readings]
    answer = ops.bch_decode(
        torch.from_numpy(readings).to(device), code, chase=code.parities, backend=backend
    )
    assert sets_of(*answer) == expected


# 5. Contract.


def test_threads_change_no_bit(
    backend: str, device: torch.device, set_threads: Callable[[int], None]
) -> None:
    interpreter_is_slow(backend, True)
    code = bch_code(65, 3)
    rows = 1000 if backend == "cpu" else 20
    readings = torch.randn(
        rows, code.delays, dtype=torch.float64, generator=torch.Generator().manual_seed(7)
    ).to(device)
    answers = []
    for threads in (1, 2, 5):
        set_threads(threads)
        answers.append(ops.bch_decode(readings, code, chase=3, backend=backend))
    assert all(map(torch.equal, answers[0], answers[1]))
    assert all(map(torch.equal, answers[0], answers[2]))
    assert len(answers[0][1].unique()) > 2


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_other_dtypes_and_strides(dtype: torch.dtype, backend: str, device: torch.device) -> None:
    rng = np.random.default_rng(8)
    code = bch_code(63, 2)
    sets = [draw(rng, 63, 2) for _ in range(5)]
    readings = torch.from_numpy(signs(code, sets)).to(dtype)
    strided = readings.T.contiguous().T.to(device)
    assert not strided.is_contiguous()
    before = strided.clone()
    assert sets_of(*ops.bch_decode(strided, code, chase=2, backend=backend)) == sets
    assert torch.equal(strided, before)


def test_no_rows(backend: str, device: torch.device) -> None:
    code = bch_code(63, 2)
    empty = torch.zeros(0, code.delays, device=device)
    features, counts = ops.bch_decode(empty, code, chase=3, backend=backend)
    assert features.shape == (0, 2)
    assert counts.shape == (0,)


@pytest.mark.parametrize(
    ("readings", "chase", "error", "message"),
    [
        ([[1.0]], 0, TypeError, "readings must be a floating-point tensor, got list"),
        (
            torch.ones(1, 13, dtype=torch.int32),
            0,
            TypeError,
            "readings must be a floating-point tensor, got torch.int32 tensor",
        ),
        (torch.ones(13), 0, ValueError, r"readings must have 2 axes, got shape \(13,\)"),
        (torch.ones(1, 12), 0, ValueError, "readings must have 13 columns, got 12"),
        (torch.full((1, 13), torch.nan), 0, ValueError, "readings must be finite"),
        (torch.full((1, 13), torch.inf), 0, ValueError, "readings must be finite"),
        (torch.ones(1, 13), -1, ValueError, "chase must be an integer >= 0 and <= 16, got -1"),
        (torch.ones(1, 13), 17, ValueError, "chase must be an integer >= 0 and <= 16, got 17"),
        (torch.ones(1, 13), 2.0, TypeError, r"chase must be an integer .*, got 2\.0"),
    ],
)
def test_bad_arguments(
    readings: object, chase: object, error: type[Exception], message: str
) -> None:
    code = bch_code(32, 2)
    with pytest.raises(error, match="bch_decode: " + message):
        ops.bch_decode(readings, code, chase=chase)


@pytest.mark.usefixtures("without_cuda")
def test_a_missing_backend_is_refused() -> None:
    with pytest.raises(BackendUnavailable, match=r"bch_decode: backend 'cuda' is not available"):
        ops.bch_decode(torch.ones(1, 13), bch_code(32, 2), backend="cuda")
