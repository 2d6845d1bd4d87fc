"""Masked table rows, against rows put together cell by cell and predicted one at a time."""

import numpy as np
import pytest

from spex_core.values.table import TableColumns

sklearn = pytest.importorskip("sklearn", reason="needs pip install spex-core[learn]")

RNG = np.random.default_rng(0)
BACKGROUND = RNG.normal(size=(13, 5))
ROW = RNG.normal(size=5)
BASELINE = np.arange(5.0)


@pytest.fixture(scope="module")
def model():
    from sklearn.ensemble import GradientBoostingClassifier

    X = RNG.normal(size=(200, 5))
    y = (X[:, 0] * X[:, 1] > 0).astype(int) + (X[:, 2] > 1)
    return GradientBoostingClassifier(n_estimators=10, random_state=0).fit(X, y)


def some_masks(rows=15):
    masks = np.random.default_rng(1).random((rows, 5)) < 0.5
    masks[0], masks[1], masks[-1] = True, False, masks[3]
    return masks


def one_by_one(predict, mask, absent):
    fills = {
        "mean": [[np.mean(BACKGROUND[:, j]) for j in range(5)]],
        "baseline": [BASELINE],
        "marginal": BACKGROUND,
    }[absent]
    answers = []
    for fill in fills:
        cells = [ROW[j] if mask[j] else fill[j] for j in range(5)]
        answers.append(predict(np.array([cells]))[0])
    return np.mean(answers, 0)


@pytest.mark.parametrize("absent", ["mean", "baseline", "marginal"])
@pytest.mark.parametrize("method", ["predict", "predict_proba", "decision_function"])
@pytest.mark.parametrize("rows", [1, 5, 30, None])
def test_equal_to_one_row_at_a_time(model, absent, method, rows):
    predict, masks = getattr(model, method), some_masks()
    f = TableColumns(
        *(predict, ROW),
        background=BACKGROUND,
        baseline=BASELINE,
        absent=absent,
        rows=rows,
    )
    want = np.array([one_by_one(predict, mask, absent) for mask in masks])
    values = f(masks)
    assert values.shape == want.shape  # (T,) or (T, classes)
    assert np.abs(values - want).max() <= 1e-6
    assert values.std(0).min() > 1e-3


def test_one_output(model):
    masks = some_masks()
    options = {"background": BACKGROUND, "absent": "marginal"}
    one = TableColumns(model.predict_proba, ROW, output=1, **options)(masks)
    assert np.array_equal(one, TableColumns(model.predict_proba, ROW, **options)(masks)[:, 1])
    assert TableColumns(model.predict, ROW, **options).features == ("x0", "x1", "x2", "x3", "x4")


@pytest.mark.parametrize(("rows", "most"), [(1, 1), (12, 12), (13, 13), (40, 39), (10**6, 13 * 32)])
def test_predict_gets_no_more_rows_than_the_budget(rows, most):
    sizes = []

    def predict(table):
        sizes.append(len(table))
        return table.sum(1)

    f = TableColumns(predict, ROW, background=BACKGROUND, absent="marginal", rows=rows)
    f(np.random.default_rng(2).random((3000, 5)) < 0.5)  # all 32 masks
    assert max(sizes) == most
    assert sum(sizes) == 13 * 32
    assert f.cost(np.zeros((2, 1))).tolist() == [13, 13]


def test_the_background_is_not_changed():
    background, row = BACKGROUND.copy(), ROW.copy()

    def spoil(table):
        table[:] = 0
        return table.sum(1)

    TableColumns(spoil, row, background=background, absent="marginal")(some_masks())
    assert np.array_equal(background, BACKGROUND)
    assert np.array_equal(row, ROW)


def test_columns_of_text_in_an_array():
    row = np.array(["red", 3, "x"], object)
    background = np.array([["blue", 1, "x"], ["red", 2, "y"]], object)

    def predict(table):
        return (table[:, 0] == "red") + 10.0 * table[:, 1].astype(float) + (table[:, 2] == "y")

    f = TableColumns(predict, row, background=background, absent="marginal")
    masks = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 1], [1, 1, 1]], bool)
    assert f(masks).tolist() == [16.0, 16.5, 30.5, 31.0]
    with pytest.raises(ValueError, match="background must be numbers for absent='mean'"):
        TableColumns(predict, row, background=background)


def frames():
    pandas = pytest.importorskip("pandas", reason="needs pandas")
    table = {"age": [30, 40, 50], "city": ["Rome", "Oslo", "Rome"], "pay": [1.5, 2.5, 3.5]}
    frame = pandas.DataFrame(table).astype({"city": "category"})
    return pandas, frame


def test_data_frames_keep_their_columns_and_types():
    _, frame = frames()
    seen = []

    def predict(table):
        seen.append(table)
        return table["age"] + 100 * (table["city"] == "Rome") + table["pay"]

    f = TableColumns(predict, frame.iloc[:1], background=frame.iloc[1:], absent="marginal")
    assert f.features == ("age", "city", "pay")
    masks = np.array([[0, 0, 0], [1, 1, 1], [1, 0, 0], [0, 1, 0]], bool)
    assert f(masks).tolist() == [98.0, 131.5, 83.0, 148.0]
    assert (seen[0].dtypes == frame.dtypes).all()
    series = TableColumns(predict, frame.iloc[0], background=frame.iloc[1:], absent="marginal")
    assert np.array_equal(series(masks), f(masks))


def test_data_frames_with_other_columns_are_refused():
    _, frame = frames()
    with pytest.raises(ValueError, match="background must have the columns of the row"):
        TableColumns(len, frame.iloc[0], background=frame[["city", "age", "pay"]])


def nan(table):
    return np.where(table[:, 0] == ROW[0], np.nan, 1.0)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"predict": "model"}, TypeError, "predict must be callable, as model.predict, got 'mod"),
        ({"row": BACKGROUND}, ValueError, r"row must be one row .*, got shape \(13, 5\)"),
        ({"row": ROW[:0]}, ValueError, "row must be one row of one or more columns"),
        ({"background": None}, ValueError, "background must be given for absent='mean'"),
        ({"absent": "baseline"}, ValueError, "baseline must be given for absent='baseline'"),
        ({"absent": "zero"}, ValueError, "absent must be mean, baseline or marginal, got 'zero'"),
        ({"background": BACKGROUND[:, :4]}, ValueError, r"shape \(B, 5\), got \(13, 4\)"),
        ({"background": BACKGROUND[:0]}, ValueError, r"shape \(B, 5\), got \(0, 5\)"),
        ({"absent": "baseline", "baseline": ROW[:2]}, ValueError, r"shape \(1, 5\), got \(2,\)"),
        ({"features": ["a", "b"]}, ValueError, "features must name 5 columns, got 2"),
        ({"output": -1}, ValueError, "output must be an integer >= 0, got -1"),
        ({"rows": 0}, ValueError, "rows must be an integer >= 1, got 0"),
    ],
)
def test_bad_arguments(change, error, message):
    with pytest.raises(error, match=message):
        TableColumns(**{"predict": nan, "row": ROW, "background": BACKGROUND} | change)


@pytest.mark.parametrize(
    ("predict", "output", "error", "message"),
    [
        (nan, None, ValueError, "predict must return finite numbers, got nan in row"),
        (lambda x: x[:1, 0], None, ValueError, r"each of 15 rows, got shape \(1,\)"),
        (lambda x: x[:, :, None], None, ValueError, r"return \(rows,\) or \(rows, q\), got shape"),
        (lambda x: np.full(len(x), "a"), None, TypeError, "predict must return numbers"),
        (lambda x: x, 5, ValueError, r"output must be a column of the prediction, got 5"),
        (lambda x: x[:, 0], 0, ValueError, r"output must be a column of the prediction, got 0"),
    ],
)
def test_bad_predictions(predict, output, error, message):
    masks = np.arange(15)[:, None] >> np.arange(5) & 1 == 1
    with pytest.raises(error, match=message):
        TableColumns(predict, ROW, background=BACKGROUND, output=output)(masks)


def test_the_fingerprint_is_of_all_that_values_depend_on(model):
    from sklearn.linear_model import Ridge

    def make(predict=model.predict, row=ROW, background=BACKGROUND, **options):
        return TableColumns(predict, row, background=background, **options).fingerprint

    ridges = [Ridge(alpha=a).fit(BACKGROUND, ROW[0] * BACKGROUND[:, 1]) for a in (1.0, 1.1)]
    different = [
        make(),
        make(model.predict_proba),
        make(model.predict_proba, output=1),
        *(make(ridge.predict) for ridge in ridges),
        make(row=ROW + 1e-9),
        make(background=BACKGROUND + 1e-9),
        make(absent="marginal"),
        make(absent="baseline", baseline=BASELINE),
        make(nan),
    ]
    assert len(set(different)) == len(different)
    assert make(rows=3, threads=2) == different[0]
