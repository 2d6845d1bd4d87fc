"""A value function shared out to processes that have nothing but a store in common."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from spread import Bounded, Spread

import spex_core
from spex_core import masks as bits
from spex_core.explanation import load
from spex_core.spex import spex
from spex_core.store import Store
from spex_core.store_manifest import Manifest
from spex_core.values import ranked
from spex_core.values.ranked import Ranked

HERE = Path(__file__).parent


def some_masks(rows: int, n: int = 20, seed: int = 0) -> torch.Tensor:
    draw = np.random.default_rng(seed).random((rows, n)) < 0.5
    return bits.pack(draw)


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranked, "POLL", 0.005)


def opened(folder: Path) -> Store:
    return Store.open(folder, Manifest.of(Spread()))


def marks(folder: Path) -> dict[str, int]:
    """Process -> masks that it evaluated."""
    count: dict[str, int] = {}
    for path in folder.glob("*-*"):
        process = path.name.split("-")[0]
        count[process] = count.get(process, 0) + int(path.read_text())
    return count


def test_torchrun(tmp_path: Path) -> None:
    root = str(Path(spex_core.__file__).parents[1])
    before = os.environ.get("PYTHONPATH")
    path = os.pathsep.join([root, str(HERE), *([before] if before else [])])
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    done = subprocess.run(
        [*command, str(HERE / "ranked_program.py"), str(tmp_path / "store"), str(tmp_path)],
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    alone = spex(Spread(), budget=1500, seed=1)
    for rank in range(2):
        found = load(tmp_path / f"rank{rank}.npz")
        assert found.interactions("Fourier") == alone.interactions("Fourier")
    shares = marks(tmp_path)
    assert len(shares) == 2
    assert sum(shares.values()) == alone.report.unique  # none twice
    assert min(shares.values()) > 0.4 * alone.report.unique
    assert opened(tmp_path / "store").shards == 2


@pytest.mark.parametrize("world", [1, 2, 3])
def test_each_has_all_values_and_evaluates_its_share(world: int, tmp_path: Path) -> None:
    masks, found = some_masks(500), {}
    opened(tmp_path / "store").close()

    def work(rank: int) -> None:
        (tmp_path / f"{rank}").mkdir()
        f = Spread(folder=str(tmp_path / f"{rank}"))
        found[rank] = Ranked(f, opened(tmp_path / "store"), rank=rank, world=world).evaluate(masks)

    threads = [threading.Thread(target=work, args=(rank,)) for rank in range(world)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    truth = Spread().evaluate(masks)
    assert len(found) == world
    for values in found.values():
        np.testing.assert_array_equal(values, truth)
    shares = [sum(marks(tmp_path / f"{rank}").values()) for rank in range(world)]
    assert sum(shares) == 500
    assert max(shares) < 1.3 * 500 / world


def test_bounds_of_the_others_are_known_as_such(tmp_path: Path) -> None:
    masks = some_masks(300)
    for rank in (0, 1):  # the second reads what the first has written
        f = Ranked(Bounded(), opened(tmp_path / "store"), rank=rank, world=2, stall=0.05)
        f.evaluate(masks)
        assert sorted(f.censored[:, 0].tolist()) == sorted(masks[masks[:, 0] & 1 == 1, 0].tolist())
    assert opened(tmp_path / "store").lookup_marked(masks)[2].sum() == len(f.censored)


def test_the_share_of_one_that_never_comes_is_taken_over(tmp_path: Path) -> None:
    masks, f = some_masks(300), Spread(folder=str(tmp_path))
    two = Ranked(f, opened(tmp_path / "store"), rank=1, world=3, stall=0.05)
    np.testing.assert_array_equal(two.evaluate(masks), Spread().evaluate(masks))
    assert sum(marks(tmp_path).values()) == 300


def test_what_is_in_the_store_is_not_evaluated_again(tmp_path: Path) -> None:
    masks = some_masks(300)
    with opened(tmp_path / "store") as store:
        store.append(masks[:100], Spread().evaluate(masks)[:100])
    f = Spread(folder=str(tmp_path))
    Ranked(f, opened(tmp_path / "store"), rank=0, world=2, stall=0.05).evaluate(masks)
    assert sum(marks(tmp_path).values()) == 200
    again = Ranked(f, opened(tmp_path / "store"), rank=1, world=2)
    again.evaluate(masks)
    assert sum(marks(tmp_path).values()) == 200
    assert again.evaluate(masks[:0]).shape == (0,)


def test_who_it_is_has_to_be_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = opened(tmp_path / "store")
    for name in ("RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ValueError, match="world must be given, or WORLD_SIZE be set as torchrun"):
        Ranked(Spread(), store)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match="rank must be given, or RANK be set"):
        Ranked(Spread(), store)
    monkeypatch.setenv("RANK", "2")
    with pytest.raises(ValueError, match="rank must be an integer >= 0 and <= 1, got 2"):
        Ranked(Spread(), store)
    with pytest.raises(ValueError, match="stall must be positive"):
        Ranked(Spread(), store, rank=0, stall=0)
    assert Ranked(Spread(), store, rank=1).world == 2


def test_a_store_of_something_else(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="fingerprint must be the store's"):
        Ranked(Spread(n=21), opened(tmp_path / "store"), rank=0, world=1)
