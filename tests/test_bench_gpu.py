"""bench/bench_gpu.py where there is no GPU: its problems are sound, on the kernels of the CPU."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from test_no_wait import WAITS

from spex_core import backend, ops, ops_inference
from spex_core.masks import unpack

BENCH = Path(__file__).resolve().parent.parent / "bench"
MODULES = ("bench_gpu", "gpu_inference", "gpu_overhead", "gpu_timing", "harness")
OPS = {"fwht", "parity_gram", "peel", "peel_many", "tree_fourier", "anova_kernel_grad"}
OPS |= {"anova_kernel", "anova_cross"}
INFERENCE = {"mask_lengths", "pack_tokens", "pack_trie", "mask_embed", "head_scale"}
INFERENCE |= {"packed_attention", "score_last", "token_logprobs"}
SMALL = 200, 70, 9, 40, 10, 6, 30, 3, 7, 12, 20, 5


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """bench_gpu with a clock that stands still, on the default of the CPU."""
    monkeypatch.syspath_prepend(str(BENCH))
    bench = importlib.import_module("bench_gpu")
    for name in MODULES:
        monkeypatch.delitem(sys.modules, name)
    timing = bench.timing
    monkeypatch.setattr(timing, "backends", lambda op, device: ["auto"])
    monkeypatch.setattr(timing, "milliseconds", lambda call, seconds: float(call() is not None))
    return bench


def test_every_row_can_be_made(bench: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "FWHT", [(torch.float32, 3), (torch.float64, 5)])
    small = {"values": 256, "samples": 2000, "terms": 70, "gram": 65, "affine": 5, "process": 20}
    small |= {"rows": 30, "b": 5, "planted": 6, "trees": 10, "boosted": (300, 70, 2)}
    small["inference"] = bench.InferenceSizes(*SMALL)
    deadline = bench.timing.Deadline(1e9)
    rows = list(bench.all_rows(torch.device("cpu"), 1.0, 0.0, bench.Sizes(**small), deadline))
    assert not deadline.left_out
    assert [row for row in rows if not row["equal"]] == []
    assert {row["op"] for row in rows} > OPS | INFERENCE
    rivals = {row["op"] for row in rows if "over rival" in row}
    assert rivals == INFERENCE | {"parity_predict"}
    assert all(row["floor"] > 0 for row in rows if row["op"] in INFERENCE)


def test_overhead_is_taken_of_every_op_that_the_host_does_not_wait_for(bench: ModuleType) -> None:
    rows = list(bench.overhead_rows(torch.device("cpu"), bench.timing.Deadline(1e9)))
    kernels = {op for op, there in backend.OPS.items() if {"triton", "cuda"} & set(there)}
    assert {row["op"] for row in rows} == {f"{op}, overhead" for op in kernels - WAITS["triton"]}


def test_a_wrong_result_is_not_equal(bench: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    right = ops_inference.score_last
    monkeypatch.setattr(
        ops_inference,
        "score_last",
        lambda *given, backend: right(*given, backend=backend) + (backend == "auto"),
    )
    given = torch.device("cpu"), 1.0, 0.0, bench.InferenceSizes(*SMALL), bench.timing.Deadline(1e9)
    rows = list(bench.inference_rows(*given))
    assert [row["op"] for row in rows if not row["equal"]] == ["score_last"]


def test_no_row_is_started_after_the_deadline(bench: ModuleType) -> None:
    late, sizes = bench.timing.Deadline(-1.0), bench.Sizes(values=256)
    assert list(bench.fwht_rows(torch.device("cpu"), 1.0, 0.0, sizes, late)) == []
    assert len(late.left_out) == len(bench.FWHT)
    assert late.left_out[0] == "fwht float32 b=3 values=256"


def test_what_was_measured_is_written(bench: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the rows that are wrong, with those left out, and before an error."""
    written = []
    monkeypatch.setattr(bench, "write", lambda name, rows, **more: written.append((rows, more)))
    late = bench.timing.Deadline(-1.0)
    late.allows("fwht", "b=3")
    right, wrong = {"op": "a", "equal": True}, {"op": "b", "equal": False}
    with pytest.raises(SystemExit, match=r"not equal to the CPU: .*'b'"):
        bench.report(iter([right, wrong]), late, {"device": "none"})
    assert written == [([right, wrong], {"device": "none", "left_out": ["fwht b=3"]})]

    def failing():
        yield right
        raise torch.OutOfMemoryError("out of memory")

    with pytest.raises(torch.OutOfMemoryError):
        bench.report(failing(), late, {})
    assert written[1][0] == [right]


def test_the_dense_product_is_what_it_is_compared_with(bench: ModuleType) -> None:
    n, masks, support = 70, bench.words(100, 2, seed=1), bench.sparse(9, 70)
    masks[:, 1] &= 63
    coefs = torch.arange(9.0)
    dense = [torch.from_numpy(unpack(x, n)).float() for x in (masks, support)]
    found = bench.dense_predict(*dense, coefs, rows=33)
    assert torch.equal(found.double(), ops.parity_predict(masks, support, coefs.double()))
