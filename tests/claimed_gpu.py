"""A plugin of pytest for test_claimed_gpu.py: torch says that there is a GPU, of each test for one
the first cases run, and what they raise is listed at the end, a line each. Import it nowhere."""

from __future__ import annotations

from collections import Counter

import pytest
import torch

torch.cuda.is_available = lambda: True
CASES = 2
raised: list[str] = []


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Function]) -> None:
    seen: Counter[str] = Counter()
    every, items[:] = list(items), []
    for item in every:
        test = item.nodeid.split("[")[0]
        seen[test] += 1
        if seen[test] <= CASES:
            items.append(item)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo) -> None:
    if call.excinfo is not None and not call.excinfo.errisinstance(pytest.skip.Exception):
        error = " ".join(str(call.excinfo.value).split())
        raised.append(f"{item.nodeid}: {call.excinfo.typename}: {error}")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    for line in raised:
        terminalreporter.write_line(f"raised: {line}")
