"""Tables: what a prediction for one row owes to its columns."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
from torch import Tensor

from .. import masks as bits
from ..errors import check, check_int
from ..value_function import ValueFunction
from .answers import check_rows
from .fingerprint import digest

CELLS = 1 << 22  # of the rows given to one call of predict, unless `rows` says otherwise


class TableColumns(ValueFunction):
    """f(m) = the prediction for a row of which only the columns of m are known.

    Args:
        predict: rows (rows, n) -> (rows,) or (rows, q) numbers, as `predict`, `predict_proba` or
            `decision_function` of scikit-learn's estimators.
        row: the row to explain: (n,), or a data frame of one row or a series, whose columns then
            name the features. Where the row or the background is a data frame, predict gets data
            frames.
        absent: what an absent column holds: "mean", its mean over the background; "baseline", its
            entry in `baseline`; or "marginal": each value that it has in the background, and the
            prediction is the mean over the background's rows.
        background: rows (B, n), as the training data or some of it.
        baseline: (n,), for absent="baseline".
        output: the column of a prediction (rows, q) that counts; by default all, as q outputs.
        features: names, in place of the data frame's or x0, x1, ...
        rows: given to predict at a time, at most; by default 4 million cells.
        threads: calls of predict at a time.
    Raises:   ValueError for shapes that do not fit, a mean of what is not numbers, an output that
              predict does not have, a prediction that is NaN or of the wrong shape.
    Accuracy: predict's own, one row at a time; means over the background in float64.
    Cost:     a row for each mask; B rows for "marginal".
    Example:  X, y = sklearn.datasets.load_diabetes(return_X_y=True)
              model = sklearn.linear_model.Ridge().fit(X, y)
              f = TableColumns(model.predict, X[0], background=X)
              spex_core.proxyspex(f, features=f.features, budget=500)
    """

    order = "any"
    unit = "rows"

    def __init__(
        self,
        predict: Callable[[Any], Any],
        row: Any,
        *,
        absent: Literal["mean", "baseline", "marginal"] = "mean",
        background: Any = None,
        baseline: Any = None,
        output: int | None = None,
        features: Sequence[str] | None = None,
        rows: int | None = None,
        threads: int = 1,
    ):
        if not callable(predict):
            raise TypeError(
                f"TableColumns: predict must be callable, as model.predict, got {predict!r}"
            )
        self.predict = predict
        self.output = None if output is None else check_int("TableColumns: output", output, 0)
        self._frame = next((x for x in (background, row) if hasattr(x, "columns")), None)
        self.row = _row("row", row)
        names = _columns(row, background) if features is None else features
        self.features = tuple(map(str, _numbered(len(self.row)) if names is None else names))
        check(
            len(self.features) == len(self.row),
            "TableColumns: features must name {} columns, got {}",
            *(len(self.row), len(self.features)),
        )
        self.fill = _fill(absent, len(self.row), background, baseline)  # (B, n)
        self.tokens = check_int(
            "TableColumns: rows", max(1, CELLS // len(self.row)) if rows is None else rows, 1
        )
        self.threads = check_int("TableColumns: threads", threads, 1)

    @property
    def fingerprint(self) -> str:
        """The predictor, the row, what fills absent columns, and the output."""
        types = None if self._frame is None else [str(t) for t in self._frame.dtypes]
        parts = self.row, self.fill, self.output, self.features, types
        return "table-" + digest(self.predict, *parts)

    def cost(self, masks: Tensor) -> np.ndarray:
        return np.full(len(masks), len(self.fill), np.int64)

    def run(self, masks: Tensor) -> np.ndarray:
        keep = bits.unpack(masks, self.n)  # (T, n)
        total: np.ndarray | float = 0.0
        at_once = max(1, self.tokens // len(keep))
        for start in range(0, len(self.fill), at_once):
            fill = self.fill[start : start + at_once]
            rows = np.where(keep[:, None], self.row, fill).reshape(-1, self.n)  # (T B, n)
            values = self._predictions(rows)
            total = total + values.reshape(len(keep), len(fill), *values.shape[1:]).sum(1)
        return np.asarray(total / len(self.fill))

    def _predictions(self, rows: np.ndarray) -> np.ndarray:
        """float64 (rows,) or (rows, q)."""
        answer = self.predict(rows if self._frame is None else _like(self._frame, rows))
        values = check_rows("TableColumns: predict", answer, len(rows)).numpy(force=True)
        check(
            values.ndim <= 2,
            "TableColumns: predict must return (rows,) or (rows, q), got shape {}",
            values.shape,
        )
        if self.output is not None:
            check(
                values.ndim == 2 and self.output < values.shape[1],
                "TableColumns: output must be a column of the prediction, got {} of shape {}",
                *(self.output, values.shape),
            )
            values = values[:, self.output]
        return values.astype(np.float64)


def _row(name: str, row: Any) -> np.ndarray:
    values = np.asarray(row)
    if values.ndim == 2 and len(values) == 1:
        values = values[0]
    check(
        values.ndim == 1 and len(values) > 0,
        "TableColumns: {} must be one row of one or more columns, got shape {}",
        *(name, values.shape),
    )
    return values


def _columns(row: Any, background: Any) -> list[str] | None:
    """The names of the columns, by a data frame or the index of a series; None where none has any.

    Raises: ValueError where the two do not have the same columns in the same order.
    """
    tables = (row, background)
    found = [getattr(x, "columns", getattr(x, "index", None)) for x in tables]
    found = [list(names) for names in found if names is not None and not callable(names)]
    check(
        len(found) < 2 or found[0] == found[1],
        "TableColumns: background must have the columns of the row, {}, got {}",
        *(found[:1], found[1:]),
    )
    return found[0] if found else None


def _numbered(n: int) -> list[str]:
    return [f"x{j}" for j in range(n)]


def _fill(absent: str, n: int, background: Any, baseline: Any) -> np.ndarray:
    """What absent columns hold: (B, n), one row but for "marginal"."""
    check(
        absent in ("mean", "baseline", "marginal"),
        "TableColumns: absent must be mean, baseline or marginal, got {!r}",
        absent,
    )
    needed = "baseline" if absent == "baseline" else "background"
    given = baseline if absent == "baseline" else background
    check(given is not None, "TableColumns: {} must be given for absent={!r}", needed, absent)
    rows = _row("baseline", baseline)[None] if absent == "baseline" else np.asarray(background)
    check(
        rows.ndim == 2 and rows.shape[1] == n and len(rows) > 0,
        "TableColumns: {} must have shape ({}, {}), got {}",
        *(needed, 1 if absent == "baseline" else "B", n, np.shape(given)),
    )
    if absent != "mean":
        return rows
    try:
        return rows.astype(np.float64).mean(0, keepdims=True)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"TableColumns: background must be numbers for absent='mean', got {error}"
        ) from None


def _like(frame: Any, rows: np.ndarray) -> Any:
    """An array (rows, n) as a data frame with the columns and categories of another."""
    table = type(frame)(rows, columns=frame.columns)
    if rows.dtype != object:
        return table
    kinds = {name: kind for name, kind in frame.dtypes.items() if kind.name == "category"}
    return table.infer_objects().astype(kinds)
