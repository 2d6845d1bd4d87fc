"""Result files: what was saved comes back, and nothing else is taken for a result."""

from __future__ import annotations

import dataclasses
import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from planted import plant

import spex_core
from spex_core import Explanation, FormatError, fit, spex


@pytest.fixture(scope="module")
def ex() -> Explanation:
    names = [f"wörd {i} × \"'\n" for i in range(70)]
    return spex(plant(70, 12, 3, seed=0, snr=10), features=names, budget=2000, degree=3, seed=2**63)


@pytest.fixture
def saved(ex: Explanation, tmp_path: Path) -> Path:
    path = tmp_path / "run.npz"
    ex.save(path)
    return path


def rewrite(path: Path, **change: object) -> None:
    """The same file with some entries replaced, or left out where the change is None."""
    with np.load(path) as file:
        entries = {name: file[name] for name in file.files} | change
    with open(path, "wb") as out:
        np.savez(out, **{name: x for name, x in entries.items() if x is not None})


def about(path: Path, change: dict) -> np.ndarray:
    with np.load(path) as file:
        found = json.loads(file["about"].tobytes())
    return np.frombuffer(json.dumps(found | change).encode(), np.uint8)


def test_round_trip(ex: Explanation, saved: Path) -> None:
    back = spex_core.load(saved)
    assert isinstance(back, Explanation)
    assert torch.equal(back.transform.support, ex.transform.support)
    assert torch.equal(back.transform.coefs, ex.transform.coefs)
    assert back.transform.n == 70
    assert back.features == ex.features
    assert dataclasses.asdict(back.report) == dataclasses.asdict(ex.report)
    assert repr(back) == repr(ex)
    assert back.interactions("SII", order=3) == ex.interactions("SII", order=3)
    again = saved.with_name("again.npz")
    back.save(str(again))
    assert spex_core.load(str(again)).report == ex.report


@pytest.mark.parametrize("preset", ["default", "paper"])
def test_round_trip_of_proxyspex(
    preset: str, tmp_path: Path, set_threads: Callable[[int], None]
) -> None:
    set_threads(1)  # the faster for a fit this small
    masks = np.random.default_rng(0).random((60, 70)) < 0.5
    masks[:, 65] = True
    values = plant(70, 5, 1, seed=0, snr=10)(masks)
    for i, ex in enumerate(fit(masks, np.stack([values, np.ones(60)], 1), preset=preset)):
        path = tmp_path / f"{i}.npz"
        ex.save(path)
        back = spex_core.load(path)
        assert torch.equal(back.transform.support, ex.transform.support)
        assert torch.equal(back.transform.coefs, ex.transform.coefs)
        assert back.report == ex.report
        assert back.report.preset == preset
        assert "1 features never vary (65)" in back.report.warnings[0]
        assert (back.features, repr(back), str(back.report)) == (
            ex.features,
            repr(ex),
            str(ex.report),
        )


def test_a_result_with_only_a_constant(tmp_path: Path) -> None:
    spex(lambda x: np.ones(len(x)), 30, budget=800).save(tmp_path / "one.npz")
    assert spex_core.load(tmp_path / "one.npz").transform.to_dict() == {(): 1.0}


def test_no_pickle_is_written(saved: Path) -> None:
    with np.load(saved, allow_pickle=False) as file:
        assert set(file.files) == {"spex_format", "n", "support", "coefs", "about"}
        assert all(file[name].dtype != object for name in file.files)
        assert int(file["spex_format"]) == 1


def test_saving_is_whole_or_not_at_all(
    ex: Explanation, saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full_disk(file, **arrays):
        file.write(b"PK")
        raise OSError(28, "No space left on device")

    before = saved.read_bytes()
    monkeypatch.setattr(np, "savez_compressed", full_disk)
    with pytest.raises(OSError, match="No space left"):
        ex.save(saved)
    assert saved.read_bytes() == before
    assert os.listdir(saved.parent) == ["run.npz"]


@pytest.mark.skipif(os.name != "posix", reason="permissions of a file are a POSIX matter")
def test_a_result_file_has_the_permissions_of_any_new_file(saved: Path) -> None:
    plain = saved.with_name("plain")
    plain.touch()
    assert saved.stat().st_mode == plain.stat().st_mode


def test_the_folder_must_exist(ex: Explanation, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        ex.save(tmp_path / "missing" / "run.npz")


# Files that are not results.


def test_a_missing_file_and_a_folder_are_the_systems_errors(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        spex_core.load(tmp_path / "none.npz")
    with pytest.raises(IsADirectoryError):
        spex_core.load(tmp_path)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"PK",
        b"not a result",
        b"\x00" * 100,
        pickle.dumps({"spex_format": 1}),
        json.dumps({"spex_format": 1}).encode(),
    ],
    ids=["empty", "head", "text", "zeros", "pickle", "json"],
)
def test_foreign_files(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "run.npz"
    path.write_bytes(content)
    with pytest.raises(FormatError, match=r"load: .*run\.npz is damaged or not a spex result"):
        spex_core.load(path)


def test_foreign_arrays(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.arange(3))
    np.savez(tmp_path / "b.npz", x=np.arange(3))
    np.savez(tmp_path / "c.npz", spex_format=np.array([1, 2]))
    with open(tmp_path / "d.npz", "wb") as file:
        np.savez(file, spex_format=np.array([{}], dtype=object))
    for name in ("a.npy", "b.npz", "c.npz", "d.npz"):
        with pytest.raises(FormatError, match="is damaged or not a spex result"):
            spex_core.load(tmp_path / name)


def test_a_newer_format_asks_for_an_upgrade(saved: Path) -> None:
    rewrite(saved, spex_format=np.int64(2))
    with pytest.raises(FormatError, match="has format 2, this version reads up to 1: upgrade"):
        spex_core.load(saved)


@pytest.mark.parametrize("entry", ["spex_format", "n", "support", "coefs", "about"])
def test_a_missing_entry(saved: Path, entry: str) -> None:
    rewrite(saved, **{entry: None})
    with pytest.raises(FormatError, match=f"damaged or not a spex result .*{entry}"):
        spex_core.load(saved)


@pytest.mark.parametrize(
    "change",
    [
        {"n": np.int64(71)},
        {"n": np.int64(0)},
        {"n": np.int64(6)},
        {"support": np.zeros((2, 2), np.int64)},
        {"support": np.zeros((13, 2), np.float64)},
        {"support": np.zeros((13, 2, 1), np.int64)},
        {"coefs": np.zeros(3)},
        {"coefs": np.full(13, np.nan)},
        {"coefs": np.zeros(13, ">f8")},
        {"about": np.frombuffer(b"{", np.uint8)},
        {"about": np.frombuffer(b"\xff\xfe", np.uint8)},
        {"about": np.frombuffer(b"[]", np.uint8)},
        {"about": np.frombuffer(b"{}", np.uint8)},
    ],
    ids=repr,
)
def test_entries_that_do_not_fit(saved: Path, change: dict) -> None:
    rewrite(saved, **change)
    with pytest.raises(FormatError, match="is damaged or not a spex result"):
        spex_core.load(saved)


@pytest.mark.parametrize(
    "change",
    [{"features": ["a"]}, {"features": None}, {"report": {}}, {"report": []}, {"report": None}],
    ids=repr,
)
def test_descriptions_that_do_not_fit(saved: Path, change: dict) -> None:
    rewrite(saved, about=about(saved, change))
    with pytest.raises(FormatError, match="is damaged or not a spex result"):
        spex_core.load(saved)


def test_truncated_at_any_byte(saved: Path) -> None:
    whole = saved.read_bytes()
    for size in {*range(0, len(whole), 37), 1, 2, len(whole) - 1}:
        saved.write_bytes(whole[:size])
        with pytest.raises(FormatError, match="is damaged or not a spex result"):
            spex_core.load(saved)


def test_a_changed_byte_is_noticed_or_does_not_matter(ex: Explanation, saved: Path) -> None:
    """Every byte in turn: a checksum or a check fails, or the byte meant nothing (a date, say)."""
    whole, noticed = saved.read_bytes(), 0
    for at in range(len(whole)):
        changed = bytearray(whole)
        changed[at] ^= 0xFF
        saved.write_bytes(changed)
        try:
            back = spex_core.load(saved)
        except FormatError:
            noticed += 1
        else:
            assert torch.equal(back.transform.coefs, ex.transform.coefs)
            assert torch.equal(back.transform.support, ex.transform.support)
            assert back.report == ex.report
    assert noticed > 0.6 * len(whole)


def test_no_more_terms_are_effective_than_there_are():
    """Without noise nothing is shrunk, but the terms found to be zero are not in the result."""
    ex = spex_core.proxyspex(lambda x: x[:, 0] - 2.0 * (x[:, 1] & x[:, 4]), n=20, budget=300)
    assert ex.report.r2 > 0.999
    assert ex.report.terms < 50
    assert ex.report.effective_terms <= ex.report.terms
