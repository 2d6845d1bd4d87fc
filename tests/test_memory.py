"""Freed memory is kept for the next tensor, while asked for."""

import platform
import subprocess
import sys

import pytest

from spex_core import memory

FAULTS = """
import contextlib, resource, torch
from spex_core.memory import freed_memory_kept

def round():
    tensors = [torch.ones(1 << 20) for _ in range(24)]  # 96 MB
    return sum(float(x[-1]) for x in tensors)

def faults(rounds):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(rounds):
        round()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

round()
plain = faults(5)
with freed_memory_kept():
    round()
    kept = faults(5)
print(plain, kept)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="of glibc alone")
def test_a_second_round_gets_its_memory_without_page_faults():
    run = subprocess.run([sys.executable, "-c", FAULTS], capture_output=True, text=True, check=True)
    plain, kept = map(int, run.stdout.split())
    assert kept < plain / 10


def test_other_c_libraries_are_left_alone(monkeypatch):
    monkeypatch.setattr(memory.sys, "platform", "darwin")
    memory._mallopt.cache_clear()
    with memory.freed_memory_kept():
        assert memory._mallopt()(memory.TRIM_THRESHOLD, 0) == 0
    memory._mallopt.cache_clear()
