"""A value function with a store in front: never paid twice, in one run or in many."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from stores import Toy

from spex_core import EvaluationError, proxyspex, spex
from spex_core import masks as bits
from spex_core.budget import plan_uniform
from spex_core.evaluate import evaluate
from spex_core.store import Store
from spex_core.store_manifest import Manifest
from spex_core.stored import Stored

DRIVER = Path(__file__).with_name("store_processes.py")


def in_processes(what: str, folder: Path):
    done = subprocess.run(
        [sys.executable, str(DRIVER), what, str(folder)],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def stored(folder: Path, f: Toy, **plan) -> Stored:
    return Stored(f, Store.open(folder, Manifest.of(f, **plan)))


def test_fifty_runs_killed_at_random_moments(tmp_path) -> None:
    rows = in_processes("killed", tmp_path)
    assert len(rows) == 50
    for row in rows:
        assert row["same values"], row
        assert row["same result"], row
        assert row["kept"] >= row["begun"] - 16, row  # all but the pack that it was at
        assert 240 <= row["evaluated"] <= 240 + 16, row
    assert any(row["evaluated"] > 240 for row in rows)  # some were killed in a pack
    assert len({row["kept"] for row in rows}) > 7


def test_several_writers_at_once(tmp_path) -> None:
    row = in_processes("writers", tmp_path)
    assert row == {
        "ended": [0] * 4,
        "found": True,
        "same": True,
        "counts": [1000, 1000],
        "damaged": 0,
        "shards": 5,  # a forked process does not write to the shard of its parent
    }


@pytest.mark.parametrize("order", ["any", "prefix", "length"])
def test_asked_twice_evaluated_once(tmp_path, order) -> None:
    f = Toy()
    f.order = order
    g = stored(tmp_path / "run", f)
    masks = np.random.default_rng(0).random((300, 20)) < 0.5
    masks[150:] = masks[:150]
    want = Toy()(masks)
    np.testing.assert_array_equal(g(masks[:100]), want[:100])
    np.testing.assert_array_equal(g(masks), want)
    unique = len(np.unique(masks, axis=0))
    assert (g.asked, g.cached, g.evaluated) == (100 + unique, 100, unique)
    assert f.evaluated == unique == len(g.store)
    later = Toy()
    np.testing.assert_array_equal(stored(tmp_path / "run", later)(masks), want)
    assert later.evaluated == 0


def test_whole_runs_from_the_store(tmp_path) -> None:
    """The same result as without one; another algorithm pays for what it alone asks."""
    plain = proxyspex(Toy(), budget=300, seed=1)
    first, second = (stored(tmp_path / "run", Toy()) for _ in range(2))
    found = [proxyspex(f, budget=300, seed=1) for f in (first, second)]
    for ex in found:
        assert torch.equal(ex.transform.support, plain.transform.support)
        assert torch.equal(ex.transform.coefs, plain.transform.coefs)
    assert (first.evaluated, second.evaluated, second.cached) == (300, 0, 300)
    other = stored(tmp_path / "run", Toy())
    ex = spex(other, budget=3000, seed=1)
    want = spex(Toy(), budget=3000, seed=1)
    assert torch.equal(ex.transform.coefs, want.transform.coefs)
    assert other.cached > 0
    assert len(other.store) == 300 + other.evaluated


def test_known_of_a_store_is_what_the_calls_take(tmp_path) -> None:
    f = Toy()
    proxyspex(stored(tmp_path / "run", f), budget=100)
    later = Toy()
    proxyspex(later, budget=200, known=Store.open(tmp_path / "run").known())
    assert later.evaluated == 100


def test_a_failure_keeps_what_was_paid_for(tmp_path) -> None:
    class Failing(Toy):
        def run(self, masks):
            if len(self.asked) == 5:
                raise ConnectionError("server gone")
            return super().run(masks)

    f, plan = Failing(), plan_uniform(20, 200)
    with pytest.raises(EvaluationError, match="server gone"):
        evaluate(stored(tmp_path / "run", f), plan)
    assert len(Store.open(tmp_path / "run")) == f.evaluated == 5 * 16
    rest = Toy()
    values, _ = evaluate(stored(tmp_path / "run", rest), plan)
    assert rest.evaluated == 120
    assert torch.equal(values, evaluate(Toy(), plan)[0])


def test_a_value_is_on_disk_before_it_is_seen(tmp_path) -> None:
    g = stored(tmp_path / "run", Toy())
    masks = plan_uniform(20, 100).masks(0, 100)
    for rows, values in g.stream(masks):
        found, read = Store.open(tmp_path / "run").lookup(masks[torch.from_numpy(rows)])
        assert found.all()
        np.testing.assert_array_equal(read, values)


def test_values_that_are_not_finite_are_not_stored(tmp_path) -> None:
    class Broken(Toy):
        def stream(self, masks):  # which checks nothing itself
            yield np.arange(len(masks)), np.full(len(masks), np.nan)

    g = stored(tmp_path / "run", Broken())
    with pytest.raises(ValueError, match=r"Store\.append: values must be finite, got nan"):
        g.evaluate(bits.pack(np.ones((1, 20), np.bool_)))
    assert len(Store.open(tmp_path / "run")) == 0


def test_several_outputs(tmp_path) -> None:
    class Two(Toy):
        def run(self, masks):
            return np.stack([super().run(masks), np.ones(len(masks))], axis=1)

    g = stored(tmp_path / "run", Two(), outputs=2)
    one, two = (
        proxyspex(g, budget=60),
        proxyspex(stored(tmp_path / "run", Two(), outputs=2), budget=60),
    )
    for ex, again in zip(one, two, strict=True):
        assert torch.equal(ex.transform.coefs, again.transform.coefs)
    wrong = stored(tmp_path / "other", Two())
    with pytest.raises(ValueError, match=r"shape \(1,\), got \(1, 2\) .*outputs = None"):
        wrong.evaluate(bits.pack(np.ones((1, 20), np.bool_)))


def test_another_function_is_refused(tmp_path) -> None:
    store = Store.open(tmp_path / "run", Manifest.of(Toy()))
    other = Toy()
    other.fingerprint = "tea"
    with pytest.raises(ValueError, match="Stored: fingerprint must be the store's, toy, got tea"):
        Stored(other, store)
    with pytest.raises(ValueError, match="Stored: features must be the store's"):
        Stored(Toy(19), store)


def test_it_is_the_function_in_all_else(tmp_path) -> None:
    f = Toy()
    f.order, f.unit = "prefix", "spoons"
    g = stored(tmp_path / "run", f)
    assert (g.order, g.unit, g.n, g.fingerprint) == ("prefix", "spoons", 20, "toy")
    masks = plan_uniform(20, 10).masks(0, 10)
    np.testing.assert_array_equal(g.cost(masks), f.cost(masks))
