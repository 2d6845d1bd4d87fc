"""The store of masks and values: what is put in comes out, for the same function and plan only."""

from __future__ import annotations

import json
import os
import resource
import stat

import numpy as np
import pytest
import torch
from stores import check_holds, manifest, some_masks, some_values, words_of

from spex_core import FormatError, store_manifest, store_shards
from spex_core import masks as bits
from spex_core.store import Store
from spex_core.store_manifest import Manifest


@pytest.mark.parametrize("n", [1, 2, 63, 64, 65, 100, 1000])
@pytest.mark.parametrize("outputs", [None, 1, 3])
@pytest.mark.parametrize("small", [0, 1 << 18])
def test_what_is_put_in_comes_out(tmp_path, monkeypatch, n, outputs, small) -> None:
    monkeypatch.setattr(store_shards, "SMALL", small)  # shards are mapped, or read
    rows = min(1 << min(n, 9), 300)
    masks, values = some_masks(n, rows), some_values(rows, outputs)
    with Store.open(tmp_path / "run", manifest(n, outputs=outputs)) as store:
        for start in range(0, rows, 77):
            store.append(masks[start : start + 77], values[start : start + 77])
        check_holds(store, masks, values)
    again = Store.open(tmp_path / "run", manifest(n, outputs=outputs))
    check_holds(again, masks, values)
    assert again.damaged == 0
    dense, known = again.known()
    at = {mask: row for row, mask in enumerate(words_of(masks))}
    order = [at[mask] for mask in words_of(bits.pack(dense))]
    assert sorted(order) == list(range(rows))
    np.testing.assert_array_equal(known, values[order])


def test_against_a_dict(tmp_path) -> None:
    """Random appends, lookups, and openings, with repeated masks, of which the first counts."""
    rng, table = np.random.default_rng(0), some_masks(70, 200)
    truth: dict[int, float] = {}
    store = Store.open(tmp_path / "run", manifest())
    for step in range(60):
        at = rng.integers(0, 200, rng.integers(0, 40))
        if step % 3 == 0:
            found, values = store.lookup(table[at])
            assert found.tolist() == [i in truth for i in at]
            np.testing.assert_array_equal(values, [truth.get(i, np.nan) for i in at])
            missing = store.missing(table[at])
            fresh = [row for row, i in enumerate(at) if i not in truth and i not in at[:row]]
            assert missing.tolist() == fresh
        elif step % 10 == 7:
            store.close()
            store = Store.open(tmp_path / "run")
        else:
            values = rng.normal(size=len(at))
            store.append(table[at], values)
            for i, value in zip(at, values, strict=True):
                truth.setdefault(i, value)
        assert len(store) == len(truth)
    assert store.shards > 3
    assert len(truth) > 150


def test_known_does_not_depend_on_who_wrote_what_when(tmp_path) -> None:
    masks, values = some_masks(70, 500), some_values(500)
    known = []
    for seed in range(2):
        store = Store.open(tmp_path / str(seed), manifest())
        for part in np.array_split(np.random.default_rng(seed).permutation(500), 3):
            store.append(masks[part], values[part])
            store.close()
        known.append(Store.open(tmp_path / str(seed)).known())
    for one, other in zip(*known, strict=True):
        np.testing.assert_array_equal(one, other)


def test_dense_masks_and_tensors_of_values(tmp_path) -> None:
    masks = some_masks(70, 10)
    store = Store.open(tmp_path / "run", manifest())
    store.append(bits.unpack(masks, 70), torch.arange(10, dtype=torch.float32))
    check_holds(store, masks, np.arange(10.0))
    assert store.lookup(bits.unpack(masks, 70))[0].all()


def test_nothing_in_it(tmp_path) -> None:
    store = Store.open(tmp_path / "run", manifest(outputs=2))
    store.append(some_masks(70, 0), np.empty((0, 2)))
    assert (len(store), store.shards, store.damaged) == (0, 0, 0)
    masks, values = store.known()
    assert (masks.shape, values.shape, masks.dtype) == ((0, 70), (0, 2), np.bool_)
    found, values = store.lookup(some_masks(70, 3))
    assert not found.any()
    assert np.isnan(values).all()
    assert values.shape == (3, 2)


def test_two_that_write_see_each_other_when_they_look(tmp_path) -> None:
    masks, values = some_masks(70, 40), some_values(40)
    one = Store.open(tmp_path / "run", manifest())
    two = Store.open(tmp_path / "run", manifest())
    one.append(masks[:10], values[:10])
    two.append(masks[10:20], values[10:20])
    assert len(one) == len(two) == 10
    one.refresh()
    check_holds(one, masks[:20], values[:20])
    two.append(masks[20:30], values[20:30])
    two.close()  # which renames what `one` has read in part
    two.append(masks[30:], values[30:])
    check_holds(one, masks[:20], values[:20])
    one.refresh()
    two.refresh()
    for store in (one, two):
        check_holds(store, masks, values)
        assert store.damaged == 0
        assert store.shards == 3


def test_a_shard_gets_its_last_name_when_it_is_closed_or_long(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("spex_core.store.SHARD_BYTES", 100 * 32)
    masks, values = some_masks(70, 230), some_values(230)
    with Store.open(tmp_path / "run", manifest()) as store:
        for start in range(0, 230, 10):
            store.append(masks[start : start + 10], values[start : start + 10])
        assert sorted(p.suffix for p in store.folder.iterdir()) == [
            *(".json", ".part", ".shard", ".shard")
        ]
    files = sorted(p.name for p in store.folder.iterdir() if p.suffix == ".shard")
    assert [name.split(".")[1] for name in files] == ["100", "100", "30"]
    check_holds(store, masks, values)
    check_holds(Store.open(store.folder), masks, values)


def test_records_are_on_disk_before_append_returns(tmp_path, monkeypatch) -> None:
    """Each append syncs after its last write, and the first its directory too."""
    calls = []
    sync = store_shards.sync
    for module, name, real in (
        (os, "write", os.write),
        (os, "fsync", os.fsync),
        (store_shards, "sync", sync),
    ):

        def logged(file, *rest, name=name, real=real):
            calls.append((name, stat.S_ISDIR(os.fstat(file).st_mode)))
            return real(file, *rest)

        monkeypatch.setattr(module, name, logged)
    store = Store.open(tmp_path / "run", manifest())
    calls.clear()
    store.append(some_masks(70, 5), some_values(5))
    assert calls == [("write", False), ("sync", False), ("fsync", True)]
    calls.clear()
    store.append(some_masks(70, 5), some_values(5))
    assert calls == [("write", False), ("sync", False)]
    calls.clear()
    store.close()
    assert calls == []


def test_the_manifest_says_all(tmp_path) -> None:
    plan = {"algorithm": "spex", "seed": 3, "budget": 500, "options": {"profile": (0.5, 1)}}
    Store.open(tmp_path / "run", manifest(4, **plan, outputs=2))
    there = Store.open(tmp_path / "run").manifest
    assert there == manifest(4, **plan, outputs=2)
    written = json.loads((tmp_path / "run" / "manifest.json").read_text())["store"]
    assert written["n"] == 4
    assert written["features"] == ["x0", "x1", "x2", "x3"]
    assert set(written["versions"]) == {"python", "numpy", "torch"}
    assert not [p for p in (tmp_path / "run").iterdir() if p.name != "manifest.json"]


@pytest.mark.parametrize(
    ("other", "says"),
    [
        ({"seed": 1}, "seed: 0 there, 1 asked"),
        ({"budget": 9}, "budget: 5 there, 9 asked"),
        ({"algorithm": "spex"}, "algorithm: 'proxyspex' there, 'spex' asked"),
        ({"outputs": 2}, "outputs: None there, 2 asked"),
        ({"options": {"degree": 4}}, r"options\['degree'\]: None there, 4 asked"),
        ({"fingerprint": "tea"}, "fingerprint: 'toy' there, 'tea' asked"),
        ({"features": ["x0", "x1", "y2"]}, "feature 2: 'x2' there, 'y2' asked"),
        ({"features": ["x0"]}, "n: 3 there, 1 asked"),
        ({"fingerprint": "toy" * 100 + "A"}, "fingerprint: 'toy' there, 'toytoytoy"),
        ({"seed": 2, "budget": 1}, "seed: 0 there, 2 asked; budget: 5 there, 1 asked"),
    ],
)
def test_another_plan_or_function_is_refused(tmp_path, other, says) -> None:
    fields = {"fingerprint": "toy", "features": ["x0", "x1", "x2"]}
    fields |= {"algorithm": "proxyspex", "seed": 0, "budget": 5}
    store = Store.open(tmp_path / "run", Manifest(**fields))
    store.append(some_masks(3, 4), some_values(4))  # in use by a writer
    before = sorted((p.name, p.read_bytes()) for p in store.folder.iterdir())
    with pytest.raises(ValueError, match=rf"Store.open: manifest must be that .* {says}"):
        Store.open(tmp_path / "run", Manifest(**(fields | other)))
    assert sorted((p.name, p.read_bytes()) for p in store.folder.iterdir()) == before
    assert len(Store.open(tmp_path / "run", Manifest(**fields))) == 4


def test_long_values_are_shown_where_they_differ(tmp_path) -> None:
    Store.open(tmp_path / "run", Manifest("a" * 5000 + "B" + "c" * 5000, ["x"]))
    with pytest.raises(
        ValueError, match=r"\.\.\.a+Bc+\.\.\. there, \.\.\.a+Dc+\.\.\. asked"
    ) as error:
        Store.open(tmp_path / "run", Manifest("a" * 5000 + "D" + "c" * 5000, ["x"]))
    assert len(str(error.value)) < 1000


def test_shards_of_another_function_do_not_count(tmp_path) -> None:
    """Even if somebody copies them: each record is checked with the fingerprint."""
    masks, values = some_masks(70, 30), some_values(30)
    with Store.open(tmp_path / "a", Manifest("toy", manifest().features)) as store:
        store.append(masks[:20], values[:20])
    with Store.open(tmp_path / "b", Manifest("toy two", manifest().features)) as other:
        other.append(masks[20:], values[20:])
    (foreign,) = store.folder.glob("*.shard")
    foreign.rename(other.folder / foreign.name)
    again = Store.open(other.folder)
    assert (len(again), again.damaged) == (10, 20)
    assert not again.lookup(masks[:20])[0].any()


def test_directories_that_are_not_stores(tmp_path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no store in .*; a manifest would make one"):
        Store.open(tmp_path / "none")
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="no store in"):
        Store.open(tmp_path / "empty")
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "thesis.tex").write_text("chapter 1")
    with pytest.raises(FormatError, match=r"is not a store: .*no manifest\.json but thesis\.tex"):
        Store.open(tmp_path / "foreign", manifest())
    assert [p.name for p in (tmp_path / "foreign").iterdir()] == ["thesis.tex"]
    (tmp_path / "file").write_text("")
    with pytest.raises(FormatError, match="is not a directory"):
        Store.open(tmp_path / "file", manifest())
    assert len(Store.open(tmp_path / "empty", manifest())) == 0
    assert len(Store.open(tmp_path / "deep" / "er", manifest())) == 0


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda text: text[:-40], "damaged or not of a store"),
        (lambda text: text.replace('"toy"', '"joy"'), "its checksum is wrong"),
        (lambda text: "[]", "damaged or not of a store"),
        (lambda text: '{"format": 1, "store": {}}', "damaged or not of a store"),
        (
            lambda text: text.replace('"format": 1', '"format": 2'),
            "has format 2, this version reads",
        ),
    ],
)
def test_manifests_that_are_not_right(tmp_path, change, says) -> None:
    path = tmp_path / "run" / "manifest.json"
    Store.open(tmp_path / "run", manifest())
    path.write_text(change(path.read_text()))
    with pytest.raises(FormatError, match=says):
        Store.open(tmp_path / "run", manifest())


def test_a_manifest_is_not_replaced_by_one_who_came_second(tmp_path, monkeypatch) -> None:
    """Between the look and the making, another process makes the store."""
    create = store_manifest.create

    def second(folder, ours):
        create(folder, manifest(seed=1))
        create(folder, ours)

    monkeypatch.setattr(store_manifest, "create", second)
    with pytest.raises(ValueError, match="seed: 1 there, 2 asked"):
        Store.open(tmp_path / "run", manifest(seed=2))
    assert [p.name for p in (tmp_path / "run").iterdir()] == ["manifest.json"]


@pytest.mark.parametrize(
    ("fields", "error", "says"),
    [
        ({"fingerprint": 3}, TypeError, "fingerprint must be a string, got 3"),
        ({"features": "abc"}, TypeError, "features must be strings"),
        ({"features": [1, 2]}, TypeError, "features must be strings"),
        ({"features": []}, ValueError, "features must be one at least"),
        ({"outputs": 0}, ValueError, "outputs must be an integer >= 1, got 0"),
        ({"seed": -1}, ValueError, "seed must be an integer >= 0, got -1"),
        ({"budget": 1.5}, TypeError, "budget must be an integer >= 1, got 1.5"),
        ({"options": {"f": print}}, TypeError, "not JSON serializable"),
    ],
)
def test_bad_manifests(fields, error, says) -> None:
    with pytest.raises(error, match=says):
        Manifest(**({"fingerprint": "f", "features": ["a"]} | fields))


@pytest.mark.parametrize(
    ("values", "error", "says"),
    [
        ([0.0, np.nan, 1.0], ValueError, r"must be finite, got nan for mask 1"),
        ([0.0, 1.0, -np.inf], ValueError, r"\(1 of 3 are not finite\)"),
        ([0.0, 1.0], ValueError, r"must have shape \(3,\), got \(2,\)"),
        (np.zeros((3, 2)), ValueError, r"got \(3, 2\) \(the manifest says outputs = None\)"),
        (["a", "b", "c"], TypeError, "must be real numbers, got <U1"),
        (np.zeros(3, complex), TypeError, "must be real numbers, got complex128"),
    ],
)
def test_bad_values_are_never_stored(tmp_path, values, error, says) -> None:
    store = Store.open(tmp_path / "run", manifest())
    with pytest.raises(error, match=f"Store.append: values .*{says}"):
        store.append(some_masks(70, 3), values)
    assert len(store) == 0
    assert store.shards == 0


@pytest.mark.parametrize("where", ["append", "lookup", "missing"])
def test_bad_masks(tmp_path, where) -> None:
    store = Store.open(tmp_path / "run", manifest())
    call = getattr(store, where)
    more = (np.zeros(2),) if where == "append" else ()
    with pytest.raises(ValueError, match=r"masks must be bool .* or packed int64 \(T, 2\)"):
        call(torch.zeros(2, 3, dtype=torch.int64), *more)
    with pytest.raises(TypeError, match="masks must be bool, got float64"):
        call(np.zeros((2, 70)), *more)
    with pytest.raises(ValueError, match="no bit beyond feature 69"):
        call(torch.tensor([[0, 64], [0, 0]]), *more)


def test_other_files_in_the_directory_are_left_alone(tmp_path) -> None:
    store = Store.open(tmp_path / "run", manifest())
    names = ["notes.txt", "old.part", "old.shard", "old.5.shard", f"{'0' * 16}-1-{'0' * 8}.x.shard"]
    for name in names:
        (store.folder / name).write_text("mine")
    again = Store.open(store.folder)
    assert (len(again), again.shards, again.damaged) == (0, 0, 0)
    again.append(some_masks(70, 3), some_values(3))
    again.close()
    assert all((store.folder / name).read_text() == "mine" for name in names)


def test_more_shards_than_a_process_may_have_files(tmp_path) -> None:
    masks, values = some_masks(70, 60), some_values(60)
    store = Store.open(tmp_path / "run", manifest())
    for row in range(60):
        store.append(masks[row : row + 1], values[row : row + 1])
        store.close()
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = max(int(name) for name in os.listdir("/proc/self/fd"))
    resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 20, before[1]))
    try:
        check_holds(Store.open(tmp_path / "run"), masks, values)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
