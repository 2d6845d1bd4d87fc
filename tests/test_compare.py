"""SPEX beside ProxySPEX: what is asked, on which masks both are scored, what is printed."""

import numpy as np
import pytest

import spex_core
from spex_core import masks as bits
from spex_core.compare import Recorder, compare, rival_plan
from spex_core.errors import EvaluationError
from spex_core.value_function import ValueFunction


def f(x):
    """Six terms of order 1 to 3 on features 0 to 5."""
    return x[:, 0] - 2.0 * x[:, 1] + 3.0 * (x[:, 2] & x[:, 3]) - (x[:, 1] & x[:, 4] & x[:, 5])


class Plain(ValueFunction):
    """A function of bool masks, 256 of them at a time."""

    order, unit, tokens, fingerprint = "any", "masks", 256, "plain"

    def __init__(self, function, n):
        self.function, self.features = function, [f"x{i}" for i in range(n)]

    def cost(self, masks):
        return np.ones(len(masks), np.int64)

    def run(self, masks):
        return self.function(bits.unpack(masks, self.n))


def run(n, budget, rival, function=f, **options):
    """The recorder, the explanation, the plan of SPEX and the comparison."""
    recorder = Recorder(Plain(function, n))
    found = spex_core.proxyspex(recorder, budget=budget, degree=3, seed=4)
    plan = rival_plan(recorder, found, rival, 3)
    return recorder, found, plan, compare(recorder, found, plan, **options)


def distinct(masks):
    return len(np.unique(masks, axis=0))


def test_the_recorder_gives_back_all_that_was_asked():
    recorder = Recorder(Plain(f, 9))
    masks = np.random.default_rng(0).random((7, 9)) < 0.5
    parts = [recorder(masks[:3]), recorder(masks[3:])]
    asked, answers = recorder.known
    assert np.array_equal(np.unique(asked, axis=0), np.unique(masks, axis=0))
    assert np.array_equal(answers, f(asked))
    assert np.array_equal(np.concatenate(parts), f(masks))
    assert (recorder.fingerprint, recorder.unit, recorder.order) == ("plain", "masks", "any")


def test_a_function_that_shares_prefixes_gets_a_plan_that_does():
    recorder = Recorder(Plain(f, 40))
    found = spex_core.proxyspex(recorder, budget=100, degree=3)
    assert rival_plan(recorder, found, 900, 3).profile == ()
    recorder.order = "prefix"
    assert rival_plan(recorder, found, 900, 3).profile == (0.5, 0.25)


def test_no_mask_of_the_score_has_been_seen():
    recorder, found, plan, both = run(40, 300, 900)
    masks, values = recorder.known
    assert distinct(masks) == len(masks) == 300 + 900  # another seed: other uniform masks
    held_out = bits.unpack(plan.extra[-plan.holdout :], 40)
    assert distinct(np.concatenate([held_out, masks[:300]])) == plan.holdout + 300
    assert (both.masks, both.new) == (plan.holdout, True)
    truth = f(held_out)
    assert both.r2 == pytest.approx(found.transform.score(held_out, truth), abs=1e-12)
    assert both.r2_spex == both.spex.r2 > 0.99
    assert both.proxyspex is found.report
    assert both.spex.decoder == "soft"
    assert len(values) == len(masks)


def test_of_a_small_table_masks_are_shared_and_only_new_ones_score():
    recorder, found, plan, both = run(12, 1500, 3000)
    masks = recorder.known[0]
    assert distinct(masks) == len(masks) == found.report.used + both.spex.used
    assert 0 < both.masks < plan.holdout
    taken = both.spex.unique - both.spex.used
    assert taken > 500
    assert f"SPEX took {taken:,} of its masks over from ProxySPEX" in str(both)
    assert f"R2 on {both.masks:,} masks that neither has seen" in str(both)


def test_a_whole_table_scores_proxyspex_on_the_rest_of_it():
    _, found, _, both = run(10, 200, 5000)
    assert (both.masks, both.new, both.spex.left_out) == (1024 - 200, True, 0)
    assert both.r2_spex == pytest.approx(1.0, abs=1e-12)
    rest = str(both).splitlines()[0]
    assert "R2 on 824 masks that ProxySPEX has not seen" in rest
    assert found.report.unique == 200


def test_where_nothing_is_new_it_says_so():
    recorder, _, _, both = run(6, 64, 64)
    assert len(recorder.known[0]) == 64
    assert (both.masks, both.new, both.spex.used) == (64, False, 0)
    assert (both.r2, both.r2_spex) == (pytest.approx(1.0), pytest.approx(1.0))
    assert "64 masks that both have seen" in str(both)


def test_the_table_shows_both_reports():
    _, found, _, both = run(40, 300, 900, decoder="hard")
    head, _, first, second = str(both).splitlines()
    assert head.startswith("side by side: R2 on 45 masks")
    shown = [line.split() for line in (first, second)]
    for (name, masks, *scores, model, other), report, r2 in zip(
        shown, (found.report, both.spex), (both.r2, both.r2_spex), strict=True
    ):
        assert name.lower() == report.algorithm
        assert masks == f"{report.unique:,}"
        assert scores == [f"{x:.4f}" for x in (r2, report.r2, report.r2_linear)]
        assert float(model) == pytest.approx(report.seconds["evaluate"], abs=0.006)
        rest = sum(report.seconds.values()) - report.seconds["evaluate"]
        assert float(other) == pytest.approx(rest, abs=0.006)
    assert both.spex.decoder == "hard"


def test_warnings_of_spex_are_shown():
    noise = np.random.default_rng(3)

    def noisy(x):  # linear, with noise that SPEX decodes into terms
        return x[:, :20] @ np.arange(20.0) + 8.0 * noise.standard_normal(len(x))

    *_, both = run(40, 300, 750, noisy)
    assert both.spex.warnings
    assert f"warning: SPEX: {both.spex.warnings[0]}" in str(both)


def test_too_small_a_budget_names_the_least_before_f_is_called():
    recorder = Recorder(Plain(f, 40))
    found = spex_core.proxyspex(recorder, budget=100, degree=3)
    with pytest.raises(ValueError, match="budget must be at least 488 for n = 40 and degree = 3"):
        rival_plan(recorder, found, 100, 3)
    assert len(recorder.known[0]) == 100


def test_a_failure_holds_what_both_have_paid_for():
    calls = []

    def flaky(x):
        calls.append(len(x))
        if len(calls) == 4:
            raise ConnectionError("server gone")
        return f(x)

    with pytest.raises(EvaluationError, match="after 256 of 900 evaluations") as failure:
        run(40, 300, 900, flaky)
    assert len(failure.value.known[0]) == 300 + 256


def test_progress_counts_the_masks_of_spex():
    seen = []
    run(40, 300, 900, progress=lambda *at: seen.append(at))
    assert seen[-1] == (900, 900)
