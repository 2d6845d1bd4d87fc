"""Stores to Parquet and back."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from stores import check_holds, manifest, some_masks, some_values

from spex_core import FormatError, MissingExtra
from spex_core.store import Store
from spex_core.store_parquet import export_parquet, import_parquet


@pytest.fixture
def arrow():
    return pytest.importorskip("pyarrow", reason="pyarrow is not installed")


@pytest.mark.parametrize("n", [1, 64, 70, 1000])
@pytest.mark.parametrize("outputs", [None, 1, 3])
def test_there_and_back(tmp_path, arrow, n, outputs) -> None:
    rows = min(1 << min(n, 9), 300)
    masks, values = some_masks(n, rows), some_values(rows, outputs)
    one = Store.open(tmp_path / "one", manifest(n, outputs=outputs, algorithm="spex", seed=1))
    one.append(masks, values)
    one.append(masks[:1], values[:1])
    assert export_parquet(one, tmp_path / "run.parquet") == rows
    two = Store.open(tmp_path / "two", manifest(n, outputs=outputs, seed=2))
    two.append(masks[:1], values[:1])
    assert import_parquet(two, tmp_path / "run.parquet") == rows - 1
    assert import_parquet(two, tmp_path / "run.parquet") == 0
    check_holds(two, masks, values)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one", "run.parquet", "two"]


def test_the_columns_are_what_they_are_said_to_be(tmp_path, arrow) -> None:
    from pyarrow import parquet

    masks, values = some_masks(70, 20), some_values(20, 2)
    store = Store.open(tmp_path / "run", manifest(outputs=2))
    store.append(masks, values)
    export_parquet(store, tmp_path / "run.parquet")
    table = parquet.read_table(tmp_path / "run.parquet")
    assert table.column_names == ["mask", "value_0", "value_1", "censored"]
    raw = np.stack([np.frombuffer(mask, np.uint8) for mask in table["mask"].to_pylist()])
    dense = np.unpackbits(raw, axis=1, bitorder="little", count=70).astype(bool)
    found = np.stack([table["value_0"].to_numpy(), table["value_1"].to_numpy()], axis=1)
    known = store.known()
    np.testing.assert_array_equal(dense, known[0])
    np.testing.assert_array_equal(found, known[1])


def test_bounds_stay_bounds(tmp_path, arrow) -> None:
    masks, values = some_masks(70, 300), some_values(300)
    one = Store.open(tmp_path / "one", manifest())
    one.append(masks, values, censored=np.arange(300) % 3 == 0)
    export_parquet(one, tmp_path / "run.parquet")
    two = Store.open(tmp_path / "two", manifest())
    import_parquet(two, tmp_path / "run.parquet")
    np.testing.assert_array_equal(two.lookup_marked(masks)[2], np.arange(300) % 3 == 0)
    check_holds(two, masks, values)


def test_a_file_without_marks_has_no_bounds(tmp_path, arrow) -> None:
    """As exports were before there were marks."""
    from pyarrow import parquet

    path, masks, values = tmp_path / "run.parquet", some_masks(70, 300), some_values(300)
    one = Store.open(tmp_path / "one", manifest())
    one.append(masks, values)
    export_parquet(one, path)
    parquet.write_table(parquet.read_table(path).drop_columns(["censored"]), path)
    two = Store.open(tmp_path / "two", manifest())
    assert import_parquet(two, path) == 300
    check_holds(two, masks, values)
    assert not two.lookup_marked(masks)[2].any()


def test_an_empty_store(tmp_path, arrow) -> None:
    store = Store.open(tmp_path / "run", manifest())
    assert export_parquet(store, tmp_path / "run.parquet") == 0
    assert import_parquet(store, tmp_path / "run.parquet") == 0


def test_more_than_one_block(tmp_path, arrow, monkeypatch) -> None:
    monkeypatch.setattr("spex_core.store.BLOCK", 7)
    monkeypatch.setattr("spex_core.store_parquet.ROWS", 5)
    masks, values = some_masks(70, 100), some_values(100)
    one, two = (Store.open(tmp_path / name, manifest()) for name in ("one", "two"))
    one.append(masks, values)
    export_parquet(one, tmp_path / "run.parquet")
    assert import_parquet(two, tmp_path / "run.parquet") == 100
    check_holds(two, masks, values)


def test_files_that_are_refused(tmp_path, arrow) -> None:
    from pyarrow import parquet

    store = Store.open(tmp_path / "run", manifest())
    store.append(some_masks(70, 20), some_values(20))
    path = tmp_path / "run.parquet"
    export_parquet(store, path)
    other = Store.open(tmp_path / "other", manifest(71))
    with pytest.raises(ValueError, match=r"import_parquet: .* n: 70 there, 71 asked"):
        import_parquet(other, path)
    foreign = tmp_path / "foreign.parquet"
    parquet.write_table(arrow.table({"mask": [1], "value": [0.5]}), foreign)
    (tmp_path / "text").write_text("mask,value")
    for name in ("foreign.parquet", "text"):
        with pytest.raises(FormatError, match="damaged or not an exported store"):
            import_parquet(store, tmp_path / name)
    with pytest.raises(FileNotFoundError):
        import_parquet(store, tmp_path / "none")
    table = parquet.read_table(path)
    nan = table.set_column(1, "value", arrow.array([np.nan] * 20))
    parquet.write_table(nan, path)
    empty = Store.open(tmp_path / "empty", manifest())
    with pytest.raises(ValueError, match="values must be finite"):
        import_parquet(empty, path)
    assert len(empty) == 0
    parquet.write_table(table.drop_columns(["mask"]), path)
    with pytest.raises(FormatError, match="it has other columns"):
        import_parquet(empty, path)


def test_damaged_files(tmp_path, arrow) -> None:
    """A byte changed in the masks or the values is seen; elsewhere it may mean nothing."""
    masks, values = some_masks(70, 100), some_values(100)
    store = Store.open(tmp_path / "run", manifest())
    store.append(masks, values)
    path, refused = tmp_path / "run.parquet", 0
    export_parquet(store, path)
    raw = path.read_bytes()
    for place in range(0, 2600, 61):
        path.write_bytes(raw[:place] + bytes([raw[place] ^ 0x10]) + raw[place + 1 :])
        empty = Store.open(tmp_path / str(place), manifest())
        try:
            import_parquet(empty, path)
        except FormatError:
            refused += 1
        else:
            check_holds(empty, masks, values)
        found, read = empty.lookup(masks)
        np.testing.assert_array_equal(read[found], values[found])
    assert refused > 30


def test_without_pyarrow(tmp_path, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    store = Store.open(tmp_path / "run", manifest())
    for call in (export_parquet, import_parquet):
        with pytest.raises(MissingExtra, match=r"pip install spex-core\[parquet\]"):
            call(store, tmp_path / "run.parquet")
