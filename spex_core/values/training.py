"""Training data: what a trained model's score owes to groups of the rows that it was trained on.

Masks and values that are there already, from trainings done elsewhere, need no value function:
`spex_core.fit(masks, values)` explains them.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from .. import masks as bits
from ..errors import MissingExtra, check, check_int
from ..planner import arrange
from ..regions import owners
from ..value_function import Answers, ValueFunction
from .fingerprint import digest
from .groups import even_groups
from .workers import JobFailed, Start, Workers


class TrainingGroups(ValueFunction):
    """f(m) = score of a model trained on the rows of the groups in m alone.

    Args:
        score: trains and scores, row numbers kept int64 (rows,), ascending -> a number or q of
            them. It runs in other processes, so it has to be picklable: a function of a module or
            an object such as FitAndScore. It should be deterministic; and it may get no row at all.
        groups: the group of each training row, integers (N,), each group a feature; -1 for rows
            that are always trained on. even_groups(N, n) deals the rows at random.
        features: names of the groups in ascending order, by default "group <label>".
        workers: processes, by default as many as there are cores; 0 trains in this process.
        start: how processes start, "spawn", "forkserver" or "fork". spawn is the safe one, since
            torch has threads in this process; a script then needs `if __name__ == "__main__":`.
    Raises:   ValueError, in the name of the groups kept, where score raises, its process dies, or
              it returns anything but finite numbers of one shape; TypeError for a score that cannot
              be sent.
    Accuracy: the score's own, whatever the number of processes.
    Cost:     one training for each mask; `close()`, or a `with` block, ends the processes.
    Example:  X, y = sklearn.datasets.load_wine(return_X_y=True)
              score = FitAndScore(GaussianNB(), X[::2], y[::2], X[1::2], y[1::2])
              with TrainingGroups(score, even_groups(89, 12)) as f:
                  spex_core.proxyspex(f, features=f.features, budget=500)
    """

    unit = "rows"

    def __init__(
        self,
        score: Callable[[np.ndarray], Any],
        groups: Sequence[int] | np.ndarray,
        *,
        features: Sequence[str] | None = None,
        workers: int | None = None,
        start: Start = "spawn",
    ):
        if not callable(score):
            raise TypeError(f"TrainingGroups: score must be callable, got {score!r}")
        check(
            np.ndim(groups) == 1,
            "TrainingGroups: groups must have shape (N,), one label a row, got {}",
            np.shape(groups),
        )
        self.score = score
        self.owner, labels = owners("TrainingGroups: groups", groups)
        self.features = tuple(
            (f"group {label}" for label in labels) if features is None else map(str, features)
        )
        check(
            len(self.features) == len(labels),
            "TrainingGroups: features must name {} groups, got {}",
            *(len(labels), len(self.features)),
        )
        check(
            start in ("spawn", "forkserver", "fork"),
            "TrainingGroups: start must be spawn, forkserver or fork, got {!r}",
            start,
        )
        count = _cores() if workers is None else check_int("TrainingGroups: workers", workers, 0)
        self._workers = Workers(score, count, start) if count else None

    @property
    def fingerprint(self) -> str:
        """The score, with the data that it holds, and the groups."""
        return "training-" + digest(self.score, self.owner, self.features)

    def cost(self, masks: Tensor) -> np.ndarray:
        sizes = np.bincount(self.owner, minlength=self.n + 1)
        return bits.unpack(masks, self.n) @ sizes[:-1] + sizes[-1]

    def rows(self, mask: np.ndarray) -> np.ndarray:
        """The rows that a mask bool (n,) keeps, int64, ascending."""
        return np.flatnonzero(np.append(mask, True)[self.owner])

    def stream(self, masks: Tensor) -> Answers:
        """Each value as soon as its training is done; the longest trainings start first, so that no
        process is late at the end."""
        keep, order = bits.unpack(masks, self.n), arrange(self.cost(masks), "length")
        jobs = [self.rows(mask) for mask in keep[order]]
        with contextlib.closing(self._answers(jobs)) as answers:
            outputs = None
            try:
                for job, answer in answers:
                    at = order[job]
                    value = self._number(answer, keep[at])
                    outputs = value.shape if outputs is None else outputs
                    check(
                        value.shape == outputs,
                        "TrainingGroups: score must return as many numbers as for other masks, "
                        "shape {}, got {} with {} kept",
                        *(outputs, value.shape, self._kept(keep[at])),
                    )
                    yield np.array([at]), value[None]
            except JobFailed as error:
                raise ValueError(
                    f"TrainingGroups: score failed with {self._kept(keep[order[error.job]])} kept: "
                    f"{error}"
                ) from error

    def close(self) -> None:
        """End the processes; the next evaluation would start them again."""
        if self._workers:
            self._workers.close()

    def __enter__(self) -> TrainingGroups:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _answers(self, jobs: list[np.ndarray]) -> Generator[tuple[int, Any], None, None]:
        if self._workers:
            yield from self._workers.each(jobs)
            return
        for number, job in enumerate(jobs):
            try:
                answer = self.score(job)
            except Exception as error:
                raise JobFailed(f"{type(error).__name__}: {error}", number) from error
            yield number, answer

    def _number(self, answer: Any, mask: np.ndarray) -> np.ndarray:
        try:
            value = np.asarray(answer, np.float32)
        except (TypeError, ValueError):
            value = np.array(np.nan)
        check(
            value.ndim <= 1 and value.size > 0 and bool(np.isfinite(value).all()),
            "TrainingGroups: score must return a finite number, or one row of them, got {!r} with "
            "{} kept",
            *(answer, self._kept(mask)),
        )
        return value

    def _kept(self, mask: np.ndarray) -> str:
        kept = np.flatnonzero(mask).tolist()
        return f"groups {kept} of {self.n}" if kept else f"none of {self.n} groups"


def _cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


# ---- scikit-learn --------------------------------------------------------------------------------


@dataclass(frozen=True)
class FitAndScore:
    """A scikit-learn estimator, fitted on the kept rows and scored on rows held out.

    A clone is fitted each time, so the estimator itself stays as it is; give it a `random_state`.

    Args:
        estimator: a classifier or a regressor, or a pipeline that ends in one.
        X, y: training rows (N, ...) and their targets (N,), as arrays.
        X_test, y_test: the rows held out.
        metric: (fitted model, X, y) -> a number, as right_class_probability or a scorer of
            sklearn.metrics; by default model.score, which is accuracy or R2.
        nothing: the value where no row is kept, by default 1 / classes of y for a classifier
            (guessing) and 0 for a regressor (the R2 of the mean); to be given with another metric.
    Of one class alone, most classifiers cannot be fitted: then the metric is that of a model that
    always says this class.
    Returns: a number.
    Raises:  MissingExtra without scikit-learn; ValueError where X and y, or X_test and y_test, do
             not have the same number of rows; what fitting raises.
    Example: FitAndScore(GaussianNB(), X[::2], y[::2], X[1::2], y[1::2])(np.arange(50))
    """

    estimator: Any
    X: np.ndarray
    y: np.ndarray
    X_test: np.ndarray
    y_test: np.ndarray
    metric: Callable[[Any, np.ndarray, np.ndarray], float] | None = None
    nothing: float | None = None

    def __post_init__(self) -> None:
        _sklearn()
        for x, y in (("X", "y"), ("X_test", "y_test")):
            rows, targets = len(getattr(self, x)), len(getattr(self, y))
            check(
                rows == targets and rows > 0,
                "FitAndScore: {} and {} must have the same number of rows, got {} and {}",
                *(x, y, rows, targets),
            )

    def __call__(self, rows: np.ndarray) -> float:
        sklearn = _sklearn()
        classifier = sklearn.base.is_classifier(self.estimator)
        if len(rows) == 0:
            return self._nothing(classifier)
        X, y = self.X[rows], self.y[rows]
        model = sklearn.base.clone(self.estimator)
        if classifier and (y == y[0]).all():
            model = sklearn.dummy.DummyClassifier(strategy="most_frequent")
        model.fit(X, y)
        if self.metric is None:
            return float(model.score(self.X_test, self.y_test))
        return float(self.metric(model, self.X_test, self.y_test))

    def _nothing(self, classifier: bool) -> float:
        if self.nothing is not None:
            return float(self.nothing)
        return 1 / len(np.unique(self.y)) if classifier else 0.0


def right_class_probability(model: Any, X: np.ndarray, y: np.ndarray) -> float:
    """The mean probability that a fitted classifier gives to the right class, 0 where it does not
    know that class: a score without the steps of accuracy."""
    place = np.searchsorted(model.classes_, y)
    place = np.minimum(place, len(model.classes_) - 1)
    right = model.predict_proba(X)[np.arange(len(y)), place]
    return float(np.where(model.classes_[place] == y, right, 0.0).mean())


def _sklearn() -> Any:
    try:
        import sklearn
        import sklearn.base
        import sklearn.dummy
    except ImportError as error:
        raise MissingExtra(
            "FitAndScore: scikit-learn is not installed; pip install spex-core[learn]"
        ) from error
    return sklearn


__all__ = ["FitAndScore", "TrainingGroups", "even_groups", "right_class_probability"]
