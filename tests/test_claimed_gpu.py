"""The tests of a GPU where there is none, but torch claims one: each fails, and must fail where it
moves its first tensor there, not because it gives a kernel tensors of the host."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent
MARKED = r"pytest\.mark\.(gpu|op\()|import .*\b(EACH|MARKS)\b|^    MARKS,"


def test_tests_of_a_gpu_give_kernels_its_tensors() -> None:
    pytest.importorskip("triton")
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises((AssertionError, RuntimeError)) as refused:
        torch.empty(0, device="cuda")
    tests = (ROOT / "tests").glob("test_*.py")
    marked = [path for path in tests if re.search(MARKED, path.read_text("utf-8"), re.MULTILINE)]
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-m", "gpu", "-p", "claimed_gpu", "-p"),
            *("no:cacheprovider", "--quiet", "--tb=native", "--show-capture=no", *marked),
        ],
        cwd=ROOT,
        env=os.environ
        | {
            "TRITON_INTERPRET": "0",
            "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
            "PYTHONPATH": os.pathsep.join([str(ROOT / "tests"), *sys.path]),
        },
        capture_output=True,
        text=True,
    )
    lines = [line for line in done.stdout.splitlines() if line.startswith("raised: ")]
    expected = " ".join(str(refused.value).split())
    assert [line for line in lines if not line.endswith(expected)] == [], done.stdout[-3000:]
    assert len(lines) > 200, done.stdout[-3000:] + done.stderr[-3000:]
    for name in ("gpu", "tactics", "traced", "tree_fourier", "triton_memory", "triton_peel"):
        assert any(f"test_{name}.py" in line for line in lines), name
