"""bench/bench_gpu.py where there is no GPU: its problems are sound, on the kernels of the CPU."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest
import torch

from spex_core import ops
from spex_core.masks import unpack

BENCH = Path(__file__).resolve().parent.parent / "bench"
OPS = {"fwht", "parity_gram", "peel", "peel_many", "tree_fourier", "anova_kernel_grad"}


def test_every_row_can_be_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCH))
    bench = importlib.import_module("bench_gpu")
    for name in ("bench_gpu", "harness"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setattr(bench, "backends", lambda op, device: ["cpu"])
    monkeypatch.setattr(bench, "milliseconds", lambda call, seconds: float(call() is not None))
    monkeypatch.setattr(bench, "FWHT", [(torch.float32, 3), (torch.float64, 5)])
    small = {"values": 256, "samples": 2000, "terms": 70, "gram": 65, "affine": 5, "process": 20}
    small |= {"rows": 30, "b": 5, "planted": 6, "trees": 10, "boosted": (300, 70, 2)}
    rows = bench.all_rows(torch.device("cpu"), 1.0, 0.0, bench.Sizes(**small))
    assert [row for row in rows if not row["equal"]] == []
    assert {row["op"] for row in rows} > OPS
    assert "over rival" in next(row for row in rows if row["op"] == "parity_predict")


def test_the_dense_product_is_what_it_is_compared_with(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCH))
    bench = importlib.import_module("bench_gpu")
    for name in ("bench_gpu", "harness"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    n, masks, support = 70, bench.words(100, 2, seed=1), bench.sparse(9, 70)
    masks[:, 1] &= 63
    coefs = torch.arange(9.0)
    dense = [torch.from_numpy(unpack(x, n)).float() for x in (masks, support)]
    found = bench.dense_predict(*dense, coefs, rows=33)
    assert torch.equal(found.double(), ops.parity_predict(masks, support, coefs.double()))
