"""Trainings on groups of rows, against the same done by hand, in this process and in others."""

import os
import sys

import numpy as np
import pytest

from spex_core import proxyspex
from spex_core.errors import EvaluationError, MissingExtra
from spex_core.values.training import (
    FitAndScore,
    TrainingGroups,
    even_groups,
    right_class_probability,
)

sklearn = pytest.importorskip("sklearn", reason="needs pip install spex-core[learn]")

LABELS = np.array([4, 4, 0, -1, 2, 0, 2, 2, 4, -1, 7])  # of 11 rows; two are always there
MASKS = np.array([[0, 0, 0, 0], [1, 1, 1, 1], [1, 0, 0, 1], [0, 1, 0, 0], [1, 0, 0, 1]], bool)


def total(rows):
    return rows.sum() + len(rows) / 100


def two(rows):
    return [rows.sum(), len(rows)]


def die_without_row_7(rows):
    if 7 not in rows:
        os._exit(3)
    return 1.0


def raise_without_row_7(rows):
    if 7 not in rows:
        raise KeyError("no seven")
    return 1.0


def nan_without_row_7(rows):
    return 1.0 if 7 in rows else float("nan")


def threads(rows):
    import torch

    return [os.getpid(), torch.get_num_threads()]


class Unloadable:
    """Pickles here; has no way back elsewhere."""

    def __reduce__(self):
        return _fail_elsewhere, (os.getpid(),)

    def __call__(self, rows):
        return 1.0


def _fail_elsewhere(pid):
    if os.getpid() != pid:
        raise ImportError("not here")
    return Unloadable()


@pytest.fixture(scope="module")
def pool():
    """Two processes for the tests that need no others."""
    with TrainingGroups(two, LABELS, workers=2) as f:
        yield f


def test_the_rows_of_the_groups_kept(pool):
    f = TrainingGroups(total, LABELS, workers=0)
    assert f.features == ("group 0", "group 2", "group 4", "group 7")
    want = []
    for mask in MASKS:
        kept = [label for label, there in zip((0, 2, 4, 7), mask, strict=True) if there]
        rows = [row for row, label in enumerate(LABELS) if label in (-1, *kept)]
        want.append(sum(rows) + len(rows) / 100)
    assert f(MASKS) == pytest.approx(want)
    assert np.round(f(MASKS) % 1 * 100).tolist() == f.cost(_packed(MASKS)).tolist()
    assert pool(MASKS)[:, 0] == pytest.approx(np.floor(want))


def _packed(masks):
    from spex_core.masks import pack

    return pack(masks)


def test_processes_give_what_one_gives_and_stay(pool):
    alone = TrainingGroups(two, LABELS, workers=0)
    everything = np.arange(16)[:, None] >> np.arange(4) & 1 == 1
    assert np.array_equal(pool(everything), alone(everything))
    started = list(pool._workers._processes)
    assert np.array_equal(pool(everything[::-1]), alone(everything)[::-1])
    assert started == pool._workers._processes
    assert len(started) == 2


def test_each_process_has_one_thread_and_none_is_this_one():
    with TrainingGroups(threads, LABELS, workers=1) as f:
        pid, count = f(MASKS[:1])[0]
        process = f._workers._processes[0]
        assert (pid, count) == (process.pid, 1)
        assert pid != os.getpid()
    with pytest.raises(ValueError, match="closed"):
        process.is_alive()
    assert f._workers._processes == []


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize(
    ("score", "message"),
    [
        (raise_without_row_7, r"score failed with groups \[0, 3\] of 4 kept: KeyError: 'no seven'"),
        (nan_without_row_7, r"a finite number, .*got nan with groups \[0, 3\] of 4 kept"),
        (Unloadable(), r"ImportError: not here"),
    ],
)
def test_failures_name_the_groups_kept(workers, score, message):
    f = TrainingGroups(score, LABELS, workers=workers)
    masks = MASKS[[1, 2]]  # the second lacks row 7, of group 2
    if workers == 0 and isinstance(score, Unloadable):
        assert f(masks).tolist() == [1, 1]
        return
    with f, pytest.raises(ValueError, match=message):
        f(masks)
    assert workers == 0 or f._workers._processes == []


def test_a_process_that_dies_names_the_groups_kept_and_the_next_batch_goes_on():
    with TrainingGroups(die_without_row_7, LABELS, workers=2) as f:
        message = r"with groups \[0, 3\] of 4 kept: its process ended with exit code 3"
        with pytest.raises(ValueError, match=message):
            f(MASKS[[1, 2]])
        assert f(MASKS[[1, 1]]).tolist() == [1, 1]


@pytest.mark.parametrize("workers", [0, 2])
def test_an_algorithm_keeps_every_training_that_was_done(workers):
    done = []
    with TrainingGroups(raise_without_row_7, LABELS, workers=workers) as f:
        with pytest.raises(EvaluationError, match="no seven") as caught:
            proxyspex(f, budget=16, progress=lambda *counts: done.append(counts))
        kept = caught.value
        assert 0 < kept.done == len(kept.masks) == len(done) < 16
        assert all(7 in f.rows(mask) for mask in kept.masks)
        sizes = [len(f.rows(mask)) for mask in kept.masks]
        assert done[-1][0] == sum(sizes)  # progress is in rows, a training at a time


def test_what_cannot_be_sent_is_refused():
    f = TrainingGroups(lambda rows: 1.0, LABELS, workers=1)
    with pytest.raises(TypeError, match="must be picklable, as one of a module is and a lambda"):
        f(MASKS)
    assert TrainingGroups(lambda rows: 1.0, LABELS, workers=0)(MASKS).tolist() == [1] * 5


@pytest.mark.parametrize(
    ("score", "message"),
    [
        (lambda rows: "good", "score must return a finite number.*got 'good' with groups"),
        (lambda rows: None, "score must return a finite number"),
        (lambda rows: [], "score must return a finite number"),
        (lambda rows: np.zeros((2, 2)), "score must return a finite number"),
        (lambda rows: [1.0, np.inf], "score must return a finite number"),
        (lambda rows: [1.0] * (1 + len(rows) // 9), r"as many numbers as for other masks, shape"),
    ],
)
def test_bad_scores(score, message):
    with pytest.raises(ValueError, match=message):
        TrainingGroups(score, LABELS, workers=0)(MASKS[:2])


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"score": 3}, TypeError, "score must be callable, got 3"),
        ({"groups": [[0, 1]]}, ValueError, r"groups must have shape \(N,\), .*got \(1, 2\)"),
        ({"groups": [0.5, 1]}, TypeError, "groups must be integers, got float64"),
        ({"groups": [-2, 1]}, ValueError, "groups must be >= -1, got -2"),
        ({"groups": [-1, -1]}, ValueError, "groups must have a label >= 0"),
        ({"groups": np.zeros(0, int)}, ValueError, "groups must not be empty"),
        ({"features": ["a"]}, ValueError, "features must name 4 groups, got 1"),
        ({"workers": -1}, ValueError, "workers must be an integer >= 0, got -1"),
        ({"start": "thread"}, ValueError, "start must be spawn, forkserver or fork, got 'thread'"),
    ],
)
def test_bad_arguments(change, error, message):
    with pytest.raises(error, match=message):
        TrainingGroups(**{"score": total, "groups": LABELS} | change)


def test_even_groups():
    labels = even_groups(100, 7, seed=3)
    assert sorted(np.bincount(labels).tolist()) == [14] * 5 + [15] * 2
    assert np.array_equal(labels, even_groups(100, 7, seed=3))
    assert not np.array_equal(labels, even_groups(100, 7, seed=4))
    assert np.array_equal(np.sort(even_groups(3, 3)), [0, 1, 2])
    with pytest.raises(ValueError, match="groups must be an integer >= 1 and <= 3, got 4"):
        even_groups(3, 4)


# ---- scikit-learn --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def wine():
    from sklearn.datasets import load_wine

    X, y = load_wine(return_X_y=True)
    return X[::2], y[::2], X[1::2], y[1::2]


def test_a_classifier_by_hand(wine):
    from sklearn.naive_bayes import GaussianNB

    X, y, X_test, y_test = wine
    labels = even_groups(len(X), 4)
    everything = np.arange(1, 16)[:, None] >> np.arange(4) & 1 == 1
    accuracy, probability = [], []
    for mask in everything:
        rows = [i for i in range(len(X)) if mask[labels[i]]]
        model = GaussianNB().fit(X[rows], y[rows])
        accuracy.append(np.mean(model.predict(X_test) == y_test))
        right = [p[k] for p, k in zip(model.predict_proba(X_test), y_test, strict=True)]
        probability.append(np.mean(right))
    for metric, want in ((None, accuracy), (right_class_probability, probability)):
        estimator = GaussianNB()
        score = FitAndScore(estimator, *wine, metric)
        values = TrainingGroups(score, labels, workers=0)(everything)
        assert np.abs(values - want).max() <= 1e-6
        assert values.std() > 0.003
        assert not hasattr(estimator, "classes_")  # a clone was fitted


def test_no_row_one_class_and_unknown_classes(wine):
    from sklearn.linear_model import LinearRegression, LogisticRegression

    X, y, X_test, y_test = wine
    nothing, ones = np.arange(0), np.flatnonzero(y == 1)
    two = np.flatnonzero(y != 1)
    score = FitAndScore(LogisticRegression(max_iter=5000), *wine)  # refuses one class
    assert score(nothing) == 1 / 3
    assert score(ones) == np.mean(y_test == 1)
    sure = FitAndScore(LogisticRegression(max_iter=5000), *wine, right_class_probability)
    assert sure(nothing) == 1 / 3
    assert sure(ones) == np.mean(y_test == 1)
    model = LogisticRegression(max_iter=5000).fit(X[two], y[two])
    chances = model.predict_proba(X_test)
    want = np.where(y_test == 0, chances[:, 0], np.where(y_test == 2, chances[:, 1], 0)).mean()
    assert sure(two) == pytest.approx(want, abs=1e-12)
    regression = FitAndScore(LinearRegression(), X, y * 1.0, X_test, y_test * 1.0)
    assert regression(nothing) == 0
    assert regression(ones) == pytest.approx(
        1 - np.sum((y_test - 1) ** 2) / np.sum((y_test - y_test.mean()) ** 2)
    )
    given = FitAndScore(LinearRegression(), X, y, X_test, y_test, nothing=-7)
    assert given(nothing) == -7


def test_rows_that_do_not_match_are_refused(wine):
    X, y, X_test, y_test = wine
    with pytest.raises(ValueError, match="X and y must have the same number of rows, got 89 and"):
        FitAndScore(None, X, y[:3], X_test, y_test)
    with pytest.raises(ValueError, match="X_test and y_test must have the same number of rows"):
        FitAndScore(None, X, y, X_test[:0], y_test[:0])


def test_a_missing_extra_says_what_to_install(monkeypatch, wine):
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(MissingExtra, match=r"scikit-learn.*pip install spex-core\[learn\]"):
        FitAndScore(None, *wine)


def test_the_fingerprint_is_of_all_that_values_depend_on(wine):
    from sklearn.linear_model import LogisticRegression

    def make(C=1.0, data=wine, groups=LABELS, metric=None, **options):
        score = FitAndScore(LogisticRegression(C=C), *data, metric)
        return TrainingGroups(score, groups, **options).fingerprint

    X, y, X_test, y_test = wine
    different = [
        make(),
        make(C=2.0),
        make(data=(X + 1e-9, y, X_test, y_test)),
        make(data=(X, y, X_test, y_test[::-1])),
        make(groups=LABELS[::-1]),
        make(metric=right_class_probability),
        TrainingGroups(total, LABELS).fingerprint,
        TrainingGroups(two, LABELS).fingerprint,
    ]
    assert len(set(different)) == len(different)
    assert make(workers=0) == make(workers=3, start="fork") == different[0]
