"""Shards that are cut, changed or torn, and disks that refuse: no wrong value, nothing lost."""

from __future__ import annotations

import errno
import os
import resource
import shutil
from pathlib import Path

import numpy as np
import pytest
from stores import check_holds, manifest, some_masks, some_values

from spex_core import store_shards
from spex_core.store import Store

ROW = 8 * (2 + 1 + 1)  # bytes of a record at n = 70
ROWS = 150  # of each of the two shards


@pytest.fixture(scope="module")
def sound(tmp_path_factory) -> Path:
    """A store of two shards, one of them without its last name, as a killed process leaves it."""
    masks, values = some_masks(70, 2 * ROWS), some_values(2 * ROWS)
    store = Store.open(tmp_path_factory.mktemp("sound") / "run", manifest())
    store.append(masks[:ROWS], values[:ROWS])
    store.close()
    store.append(masks[ROWS:], values[ROWS:])
    assert [path.suffix for path in store_shards.shards_in(store.folder).values()] == [
        *(".shard", ".part")
    ]
    return store.folder


@pytest.mark.parametrize("seed", range(200))
def test_damage_is_seen_and_paid_for_again(tmp_path, sound, seed) -> None:
    """A bit flipped, or the end cut off, at a random place."""
    masks, values = some_masks(70, 2 * ROWS), some_values(2 * ROWS)
    rng = np.random.default_rng(seed)
    shard = int(rng.integers(2))
    folder = Path(shutil.copytree(sound, tmp_path / "run"))
    path = list(store_shards.shards_in(folder).values())[shard]
    raw = bytearray(path.read_bytes())
    assert len(raw) == ROWS * ROW
    place = int(rng.integers(len(raw)))
    if seed % 2:
        raw[place] ^= 1 << rng.integers(8)
        lost = np.array([place // ROW])
    else:
        del raw[place:]
        lost = np.arange(place // ROW, ROWS)
    path.write_bytes(raw)

    store = Store.open(folder, manifest())
    found, read = store.lookup(masks)
    assert np.flatnonzero(~found).tolist() == (shard * ROWS + lost).tolist()
    np.testing.assert_array_equal(read[found], values[found])
    if seed % 2 == 0 and shard == 1:  # nobody knows how long it was, but for a record cut in two
        assert store.damaged == (place % ROW > 0)
    else:
        assert store.damaged == len(lost)
    missing = store.missing(masks)
    store.append(masks[missing], values[missing])
    check_holds(store, masks, values)
    for one, other in zip(Store.open(folder).known(), Store.open(sound).known(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_zeros_and_noise_in_place_of_records(tmp_path, sound) -> None:
    """What a power cut leaves of pages whose length was written down and whose bytes were not."""
    masks, values = some_masks(70, 2 * ROWS), some_values(2 * ROWS)
    folder = Path(shutil.copytree(sound, tmp_path / "run"))
    whole, part = store_shards.shards_in(folder).values()
    noise = np.random.default_rng(0).bytes(20 * ROW)
    whole.write_bytes(noise + whole.read_bytes()[20 * ROW :])
    part.write_bytes(part.read_bytes()[: -30 * ROW] + bytes(30 * ROW) + noise + b"torn")
    store = Store.open(folder)
    found, read = store.lookup(masks)
    assert np.flatnonzero(~found).tolist() == [*range(20), *range(2 * ROWS - 30, 2 * ROWS)]
    np.testing.assert_array_equal(read[found], values[found])
    assert store.damaged == 20 + 30 + 20 + 1


def test_damage_after_the_store_was_opened(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(store_shards, "SMALL", 0)
    masks, values = some_masks(70, 50), some_values(50)
    with Store.open(tmp_path / "run", manifest()) as store:
        store.append(masks, values)
    (path,) = store.folder.glob("*.shard")
    reader = Store.open(store.folder)
    with open(path, "r+b") as file:
        file.seek(7 * ROW + 17)  # in the value of record 7
        file.write(b"\xff\xff")
    found, read = reader.lookup(masks)
    assert np.flatnonzero(~found).tolist() == [7]
    np.testing.assert_array_equal(read[found], values[found])
    assert len(reader.known()[0]) == 49
    reader.append(masks, values)
    found, read = reader.lookup(masks)
    assert found.all()
    np.testing.assert_array_equal(read, values)


def test_a_record_half_written_by_another_is_read_when_it_is_whole(tmp_path) -> None:
    masks, values = some_masks(70, 3), some_values(3)
    writer = Store.open(tmp_path / "run", manifest())
    writer.append(masks, values)
    (path,) = writer.folder.glob("*.part")
    raw = path.read_bytes()
    with open(path, "r+b") as file:
        file.truncate(2 * ROW)
        file.seek(3 * ROW)
        file.write(b"and more")  # record 2 is a hole, and what follows has begun
    reader = Store.open(writer.folder)
    assert (len(reader), reader.damaged) == (2, 2)
    path.write_bytes(raw)
    reader.refresh()
    check_holds(reader, masks, values)
    assert reader.damaged == 0


def test_disk_full(tmp_path) -> None:
    """The kernel itself refuses, in the middle of a record, as it does on a full disk."""
    masks, values = some_masks(70, 90), some_values(90)
    store = Store.open(tmp_path / "run", manifest())
    store.append(masks[:30], values[:30])
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (40 * ROW + 5, before[1]))
    try:
        for _ in range(2):  # the second time in a new shard
            with pytest.raises(OSError, match="the values of this batch"):
                store.append(masks[30:], values[30:])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    check_holds(store, masks[:30], values[:30])
    found, read = Store.open(tmp_path / "run").lookup(masks)
    assert found.tolist() == [i < 40 for i in range(90)]  # whole records, which nobody counts on
    np.testing.assert_array_equal(read[:40], values[:40])
    assert len(list(store.folder.glob("*.part"))) == 1  # the shard that was begun then is gone
    store.append(masks[30:], values[30:])
    check_holds(store, masks, values)
    again = Store.open(tmp_path / "run")
    check_holds(again, masks, values)
    assert again.damaged == 0


@pytest.mark.parametrize("call", ["write", "sync", "open", "truncate too", "rename"])
def test_errors_of_every_call(tmp_path, monkeypatch, call) -> None:
    masks, values = some_masks(70, 90), some_values(90)
    store = Store.open(tmp_path / "run", manifest())
    store.append(masks[:30], values[:30])
    code = errno.EROFS if call == "open" else errno.ENOSPC
    real = os.write

    def refuse(*args, **rest):
        raise OSError(code, os.strerror(code))

    def write_some(file, data):
        if len(data) <= 1000:
            refuse()
        return real(file, data[:1000])

    with monkeypatch.context() as patch:
        match call:
            case "write":
                patch.setattr(os, "write", write_some)
            case "truncate too":
                patch.setattr(os, "write", write_some)
                patch.setattr(os, "ftruncate", refuse)
            case "sync":
                patch.setattr(store_shards, "sync", refuse)
            case "open":
                store.close()
                patch.setattr(os, "open", refuse)
            case "rename":
                patch.setattr("spex_core.store.SHARD_BYTES", 30 * ROW)
                patch.setattr(os, "rename", refuse)
        with pytest.raises(OSError, match="cannot write to the store") as error:
            store.append(masks[30:], values[30:])
        assert error.value.errno == code
        assert error.value.filename == str(store.folder)
        check_holds(store, masks[:30], values[:30])  # reading goes on
    store.append(masks[30:], values[30:])
    check_holds(store, masks, values)
    store.close()
    check_holds(Store.open(tmp_path / "run"), masks, values)


def test_read_only(tmp_path) -> None:
    """A store that cannot be written to can be read."""
    masks, values = some_masks(70, 30), some_values(30)
    with Store.open(tmp_path / "run", manifest()) as store:
        store.append(masks, values)
    for path in (*store.folder.iterdir(), store.folder):
        path.chmod(0o555 if path.is_dir() else 0o444)
    try:
        reader = Store.open(store.folder, manifest())
        check_holds(reader, masks, values)
        if os.geteuid():  # root may write all the same
            with pytest.raises(PermissionError, match="cannot write to the store"):
                reader.append(masks, values)
            with pytest.raises(PermissionError):
                Store.open(store.folder / "new", manifest())
        reader.close()
    finally:
        store.folder.chmod(0o755)


def test_ctrl_c_while_it_writes(tmp_path, monkeypatch) -> None:
    masks, values = some_masks(70, 60), some_values(60)
    store = Store.open(tmp_path / "run", manifest())
    store.append(masks[:30], values[:30])

    def interrupt(file):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(store_shards, "sync", interrupt)
        with pytest.raises(KeyboardInterrupt):
            store.append(masks[30:], values[30:])
    check_holds(store, masks[:30], values[:30])
    store.append(masks[30:], values[30:])
    check_holds(Store.open(tmp_path / "run"), masks, values)
