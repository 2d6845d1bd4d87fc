"""Progress: a bar, lines, a log, R2 on the way, or nothing."""

from __future__ import annotations

import logging
import re
import sys

import numpy as np
import pytest
from stores import Toy

from spex_core import EvaluationError, plan, spex
from spex_core import progress as module
from spex_core.progress import Bar, Called, Lines, Logged, Status, Watcher, progress, watcher


class Kept(Watcher):
    """Every status."""

    def __init__(self, **options):
        super().__init__(**options)
        self.seen: list[Status] = []

    def show(self, status: Status) -> None:
        self.seen.append(status)


def f(masks: np.ndarray) -> np.ndarray:
    return 1.5 * masks[:, 0] - 2.0 * (masks[:, 1] & masks[:, 4]) + 0.25


# ---- What is shown -------------------------------------------------------------------------------


def test_masks_and_tokens() -> None:
    class Priced(Toy):
        unit = "tokens"

        def cost(self, masks):
            return np.full(len(masks), 5)

    kept = Kept()
    run = plan("proxyspex", 20, budget=100)
    run.evaluate(Priced(), progress=kept)
    last = kept.seen[-1]
    assert (last.masks, last.of, last.done, last.total, last.unit) == (100, 100, 500, 500, "tokens")
    assert [status.done for status in kept.seen] == [5 * status.masks for status in kept.seen]
    assert len(kept.seen) > 10
    seconds = [status.seconds for status in kept.seen]
    assert seconds == sorted(seconds)
    assert last.r2 is None


def test_a_status_in_words() -> None:
    status = Status(1000, 4000, "tokens", 10.0, masks=50, of=200)
    assert (status.rate, status.left) == (100.0, 30.0)
    assert str(status) == (
        "50 of 200 masks, 1,000 of 4,000 tokens, 5 masks and 100 tokens a second, 30 s left"
    )
    assert str(Status(50, 200, "masks", 10.0, masks=50, of=200, r2=0.91234)) == (
        "50 of 200 masks, 5 a second, 30 s left, R2 0.9123"
    )
    assert str(Status(0, 10, "rows", 0.0)) == "0 of 10 rows, 0 a second, inf s left"


def test_r2_on_the_way_is_that_of_the_fit() -> None:
    kept = Kept(score_every=0)
    run = plan("spex", 12, budget=900, degree=2)
    run.evaluate(f, batch_size=300, progress=kept)
    run = plan("spex", 12, budget=900, degree=2)
    masks = next(run.batches(300))
    run.tell(f(masks))
    assert kept.seen[0].r2 == run.fit().report.r2 > 0.9


def test_fits_on_the_way_take_a_tenth_of_the_time(monkeypatch) -> None:
    from spex_core import evaluate

    now = [0.0]
    monkeypatch.setattr(evaluate.time, "perf_counter", lambda: now[0])
    fits = []

    def score() -> float:
        fits.append(now[0])
        now[0] += 2.0
        return 0.5

    meter = evaluate.Meter(Kept(score_every=5), "masks", 1000, 1000, score)
    for _ in range(100):
        now[0] += 1.0
        meter.add(10, 10)
    assert fits == [5.0 + 20 * i for i in range(len(fits))]
    assert len(fits) == 6


def test_too_little_for_a_score() -> None:
    kept = Kept(score_every=0)
    run = plan("spex", 12, budget=900, degree=2)
    for masks in run.batches(3):
        run.tell(f(masks))
        break
    assert run._score() is None
    run.evaluate(f, batch_size=400, progress=kept)
    assert kept.seen[0].r2 is not None


# ---- Where it is shown ---------------------------------------------------------------------------


def test_at_most_ten_lines_and_the_last_says_all(capsys) -> None:
    show = Lines()
    for done in range(1, 1001):
        show(done, 1000)
    shown = capsys.readouterr().err.splitlines()
    assert len(shown) == 10
    assert re.fullmatch(r"spex: 1,000 of 1,000 masks, [\d,]+ a second, 0 s left", shown[-1])


def test_one_watcher_shows_every_evaluation(capsys) -> None:
    """As of `spex explain`, where SPEX comes after ProxySPEX; and it is closed when one fails."""
    lines, closed = Lines(), []
    for seed in range(2):
        plan("proxyspex", 20, budget=100, seed=seed).evaluate(f, batch_size=50, progress=lines)
        assert "100 of 100 masks" in capsys.readouterr().err
    lines.close = lambda: closed.append(True)
    with pytest.raises(EvaluationError):
        plan("proxyspex", 20, budget=100).evaluate(lambda masks: 1 / 0, progress=lines)
    assert closed


def test_a_line_for_each_new_r2(capsys) -> None:
    lines = Lines()
    for done in range(1, 101):
        lines.show(Status(done, 10_000, "masks", 1.0, r2=None if done < 50 else done // 25 / 10))
    shown = capsys.readouterr().err.splitlines()
    assert [line.split()[-1] for line in shown] == ["0.2000", "0.3000", "0.4000"]


def test_the_time_left_is_what_the_rate_says(capsys, monkeypatch) -> None:
    now = iter([100.0, 110.0])
    monkeypatch.setattr(module.time, "perf_counter", lambda: next(now))
    Lines(unit="tokens")(1000, 4000)
    assert capsys.readouterr().err == "spex: 1,000 of 4,000 tokens, 100 a second, 30 s left\n"


def test_a_bar_on_a_terminal(capsys, monkeypatch) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with progress("tokens") as show:
        assert isinstance(show, Bar)
        for done in (500, 2000):
            show(done, 2000)
    assert "2.00k/2.00k" in capsys.readouterr().err


def test_a_bar_has_masks_a_second_and_r2(capsys) -> None:
    bar = Bar()
    bar.show(Status(500, 500, "tokens", 10.0, masks=50, of=50, r2=0.5))
    bar.close()
    bar.close()
    shown = capsys.readouterr().err
    assert "500/500" in shown
    assert "masks/s=5, R2=0.5000" in shown


def test_a_bar_in_a_notebook(monkeypatch) -> None:
    assert isinstance(module.suitable(), Lines)
    monkeypatch.setitem(sys.modules, "ipykernel", module)
    assert isinstance(module.suitable(), Bar)


def test_lines_on_a_terminal_without_tqdm(capsys, monkeypatch) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setitem(sys.modules, "tqdm.auto", None)
    with progress("rows") as show:
        show(1, 1)
    assert "spex: 1 of 1 rows" in capsys.readouterr().err


def test_nothing_if_quiet() -> None:
    with progress("tokens", quiet=True) as show:
        assert show is None


def test_a_log(caplog) -> None:
    logger = logging.getLogger("service")
    with caplog.at_level(logging.INFO):
        spex(f, 12, budget=900, degree=2, batch_size=100, progress=Logged(logger, every=1000))
    first, last = caplog.records
    assert (first.spex.masks, last.spex.masks) == (100, 900)
    assert last.getMessage().startswith("spex: 900 of 900 masks, ")
    assert last.name == "service"
    caplog.clear()
    with caplog.at_level(logging.INFO):
        spex(f, 12, budget=900, degree=2, batch_size=100, progress=Logged(logger, every=0))
    assert [record.spex.masks for record in caplog.records] == [*range(100, 901, 100)]


@pytest.mark.parametrize(
    ("given", "kind"),
    [
        (None, type(None)),
        (False, type(None)),
        (True, Lines),
        (logging.getLogger("x"), Logged),
        (lambda done, total: None, Called),
        (Kept(), Kept),
    ],
)
def test_what_progress_may_be(given, kind) -> None:
    assert type(watcher(given)) is kind
