"""bench/bench_gpu.py where there is no GPU: its problems are sound, on the kernels of the CPU."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest
import torch

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
