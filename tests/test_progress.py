"""Progress: lines, a bar, or nothing."""

import re
import sys

from spex_core import progress as module
from spex_core.progress import lines, progress


def test_at_most_ten_lines_and_the_last_says_all(capsys):
    show = lines("masks")
    for done in range(1, 1001):
        show(done, 1000)
    shown = capsys.readouterr().err.splitlines()
    assert len(shown) == 10
    assert re.fullmatch(r"spex: 1,000 of 1,000 masks, [\d,]+ a second, 0 s left", shown[-1])


def test_the_time_left_is_what_the_rate_says(capsys, monkeypatch):
    now = iter([100.0, 110.0])
    monkeypatch.setattr(module.time, "perf_counter", lambda: next(now))
    lines("tokens")(1000, 4000)
    assert capsys.readouterr().err == "spex: 1,000 of 4,000 tokens, 100 a second, 30 s left\n"


def test_a_bar_on_a_terminal(capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with progress("tokens") as show:
        for done in (500, 2000):
            show(done, 2000)
    assert "2.00k/2.00k" in capsys.readouterr().err


def test_lines_on_a_terminal_without_tqdm(capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setitem(sys.modules, "tqdm", None)
    with progress("rows") as show:
        show(1, 1)
    assert "spex: 1 of 1 rows" in capsys.readouterr().err


def test_nothing_if_quiet():
    with progress("tokens", quiet=True) as show:
        assert show is None
