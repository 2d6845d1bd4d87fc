"""hedge.py: the share of a linear fit against its formula, and where outliers leave it alone."""

import numpy as np
import pytest

from spex_core.hedge import CLIP, Hedge, bound

HEDGE = Hedge(level=0.34)


def logistic(x: float) -> float:
    return 1 / (1 + np.exp(-x))


def test_the_less_the_terms_explain_the_more_it_is() -> None:
    line = np.full(100, 0.9)
    line[::2] = 1.1
    for error, samples in ((0.99, 50), (0.7, 50), (0.7, 800), (0.5, 100)):
        terms = np.full(100, error)  # of a variance of one: R2 is 1 - error
        z = (1.0 - error) / 0.1 * 10
        level = HEDGE.level * (50 / samples) ** 0.25
        want = logistic(HEDGE.slope * (level - (1.0 - error)) - HEDGE.weight * z)
        assert HEDGE.share_of_line(terms, line, 1.0, samples) == pytest.approx(
            want if want > HEDGE.least else 0.0
        )
    # The same errors are worth more where there is more to explain
    shares = [HEDGE.share_of_line(line, line, v, 50) for v in (1.0, 1.5, 2.0, 8.0)]
    assert shares == sorted(shares)[::-1]
    assert shares[0] > 0.9
    assert shares[-1] < 0.02


def test_a_linear_fit_that_is_clearly_better_has_most_of_the_result() -> None:
    line = np.full(100, 0.01)
    for z in (-2.0, -2.5, -3.0):
        terms = line + 0.001 * (1.0 + np.where(np.arange(100) % 2, 10.0, -10.0) / -z)
        share = HEDGE.share_of_line(terms, line, 1.0, 100)
        assert share == pytest.approx(logistic(-HEDGE.steep * (z - HEDGE.beaten)))
    assert HEDGE.share_of_line(2.0 * line, line, 1.0, 100) == 1.0
    assert HEDGE.share_of_line(line, 2.0 * line, 1.0, 100) == 0.0


def test_one_large_error_does_not_decide() -> None:
    terms, line = np.full(100, 0.1), np.full(100, 0.2)
    line[0] = 1e6  # counts as CLIP times the mean of the other's
    gain = np.append(CLIP * 0.1 - 0.1, np.full(99, 0.1))
    z = gain.mean() / (gain.std() / 10)
    want = logistic(HEDGE.slope * (HEDGE.level * 0.5**0.25 - 0.9) - HEDGE.weight * z)
    assert Hedge(HEDGE.level, least=0.0).share_of_line(terms, line, 1.0, 100) == pytest.approx(want)


@pytest.mark.parametrize("unit", [1e-150, 1.0, 1e150])
def test_values_of_any_size(unit: float) -> None:
    terms, line = np.random.default_rng(0).random((2, 60))
    share = HEDGE.share_of_line(unit * terms, unit * line, unit * 0.8, 60)
    assert share == pytest.approx(HEDGE.share_of_line(terms, line, 0.8, 60))
    assert 0.0 < share < 1.0


def test_samples_that_are_all_alike() -> None:
    """Terms that miss them explain nothing, terms that meet them all there is."""
    off, on = np.full(50, 0.01), np.zeros(50)
    assert HEDGE.share_of_line(off, off, 0.0, 50) == 1.0
    assert HEDGE.share_of_line(on, on, 0.0, 50) == 0.0


@pytest.mark.parametrize("seed", range(6))
def test_with_the_bound_a_sum_is_no_worse_than_the_line(seed: int) -> None:
    rng = np.random.default_rng(seed)
    line = rng.normal(size=40)
    terms = 0.5 * line + rng.normal(size=40) * (0.3 + 0.3 * seed)

    def lost(share: float) -> float:
        return (((1 - share) * terms + share * line) ** 2).sum()

    least = bound(terms, line)
    shares = np.linspace(0, 1, 2001)[:-1]
    good = [share for share in shares if lost(share) < lost(1.0)]
    assert least == pytest.approx(min(good, default=1.0), abs=2e-3)
    assert lost(least) <= lost(1.0)
    assert bound(terms, np.zeros(40)) == 1.0
    assert bound(np.zeros(40), line) == 0.0
