"""`spex run`, `resume`, `status`, `export`."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from stores import Toy
from test_stored import in_processes

from spex_core import cli, inputs, load, proxyspex
from spex_core.store import Store

OPTIONS = ("--algorithm", "spex", "--budget", "400", "--degree", "1")


class Failing(Toy):
    """Fails after so many masks."""

    failing = 10**9
    error: BaseException = ConnectionError("server gone")

    def run(self, masks):
        if self.evaluated >= self.failing:
            raise self.error
        return super().run(masks)


@pytest.fixture
def f(monkeypatch) -> Failing:
    made = Failing(20)
    monkeypatch.setattr(inputs, "value_function", lambda args: (made, ["value:    a toy"]))
    return made


@pytest.fixture
def spex(capsys):
    """main(argv) -> code, standard output, standard error."""

    def call(*argv: object) -> tuple[int, str, str]:
        code = cli.main([str(word) for word in argv])
        return code, *capsys.readouterr()

    return call


def test_a_run_leaves_its_values_and_its_result(f, spex, tmp_path) -> None:
    code, out, err = spex("run", tmp_path / "run", *OPTIONS)
    assert code == 0, err
    assert "400 of 400 tokens" in err
    assert f"store:    {tmp_path / 'run'}" in out
    assert f"result: {tmp_path / 'run' / 'result.npz'}" in out
    ex = load(tmp_path / "run" / "result.npz")
    assert (ex.report.evaluated, len(Store.open(tmp_path / "run" / "values"))) == (400, 400)
    for again in (("run", tmp_path / "run", *OPTIONS), ("resume", tmp_path / "run", "--quiet")):
        code, out, err = spex(*again)
        assert (code, f.evaluated) == (0, 400)
        assert "400 unique masks, 400 cached" in out
    assert load(tmp_path / "run" / "result.npz").transform.coefs.equal(ex.transform.coefs)


def test_a_run_that_fails_says_how_to_go_on(f, spex, tmp_path, monkeypatch) -> None:
    whole = spex("run", tmp_path / "whole", *OPTIONS)
    f.asked.clear()
    f.failing = 160
    monkeypatch.chdir(tmp_path)
    code, out, err = spex("run", "run", *OPTIONS, "--retries", "1", "--wait", "0")
    assert code == 1
    assert "spex: to go on: spex resume run" in err
    assert "after 160 of 400 evaluations (ConnectionError: server gone)" in err
    assert not (tmp_path / "run" / "result.npz").exists()
    code, out, _ = spex("status", "run")
    assert (code, "values    160 of 400 masks (40.0%), 240 missing" in out) == (0, True)
    assert "result    none yet: spex resume run" in out
    f.failing = 10**9
    code, out, err = spex("resume", "run")
    assert (code, f.evaluated) == (0, 400)
    assert "160 cached" in out
    assert whole[0] == 0
    one, other = (load(tmp_path / name / "result.npz") for name in ("whole", "run"))
    assert torch.equal(one.transform.coefs, other.transform.coefs)


def test_ctrl_c(f, spex, tmp_path) -> None:
    f.failing, f.error = 64, KeyboardInterrupt()
    code, _, err = spex("run", tmp_path / "run", *OPTIONS)
    assert code == 130
    assert "spex: interrupted" in err
    assert f"spex resume {tmp_path / 'run'}" in err
    assert len(Store.open(tmp_path / "run" / "values")) == 64


def test_killed_commands_are_resumed(tmp_path) -> None:
    rows = in_processes("commands", tmp_path)
    assert len(rows) == 5
    for row in rows:
        assert row["code"] == 0
        assert row["same"], row
        assert 240 <= row["evaluated"] <= 240 + 16, row


def test_status_says_what_there_is(f, spex, tmp_path) -> None:
    f.failing = 320
    spex("run", tmp_path / "run", *OPTIONS, "--retries", 0, "--seed", 4)
    code, out, _ = spex("status", tmp_path / "run", "--fit")
    assert code == 0
    for pattern in (
        "run       spex on 20 features, budget 400, seed 4",
        r"options   degree 1, decoder soft, .*",
        "function  toy",
        r"values    320 of 400 masks \(80\.0%\), 80 missing",
        r"files     1 shards, \d\.\d MB, 0 damaged records",
        r"budget      400 asked, 0 used, 3\d\d unique masks, 320 cached, 80 missing",
    ):
        assert re.search(f"^{pattern}$", out, re.MULTILINE), (pattern, out)
    assert f.evaluated == 320  # the model is not asked
    f.failing = 10**9
    spex("resume", tmp_path / "run")
    assert "result.npz, R2 " in spex("status", tmp_path / "run")[1]


def test_status_and_export_of_a_call_from_python(spex, tmp_path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet", reason="needs pip install spex-core[parquet]")
    proxyspex(Toy(8), budget=30, store=tmp_path / "run")
    code, out, _ = spex("status", tmp_path / "run")
    assert (code, "30 of 30 masks" in out, "result" in out) == (0, True, False)
    code, out, err = spex("export", tmp_path / "run", tmp_path / "run.parquet")
    assert (code, out) == (0, f"30 masks and values: {tmp_path / 'run.parquet'}\n")
    table = parquet.read_table(tmp_path / "run.parquet")
    assert table.num_rows == 30
    raw = np.frombuffer(b"".join(table["mask"].to_pylist()), np.uint8).reshape(30, 8)
    masks = np.unpackbits(raw, axis=1, bitorder="little")[:, :8].astype(bool)
    np.testing.assert_array_equal(np.float32(table["value"].to_numpy()), Toy(8)(masks))
    code, _, err = spex("resume", tmp_path / "run")
    assert (code, "was begun from Python" in err) == (2, True)


def test_before_the_first_value(f, spex, tmp_path) -> None:
    """Of an algorithm that may have several outputs, the store is begun with the first values."""
    f.failing = 0
    code, *_ = spex("run", tmp_path / "run", "--budget", "30", "--retries", "0")
    assert code == 1
    assert spex("status", tmp_path / "run")[:2] == (0, "values    none yet\n")
    code, _, err = spex("export", tmp_path / "run", tmp_path / "x.parquet")
    assert (code, "has no values yet" in err) == (2, True)


def test_the_directory_of_another_run(f, spex, tmp_path) -> None:
    spex("run", tmp_path / "run", *OPTIONS)
    code, _, err = spex("run", tmp_path / "run", *OPTIONS, "--seed", "1")
    assert (code, "seed 0 there, 1 asked" in err) == (2, True)
    f.fingerprint = "another toy"  # as if its text or its model had changed
    code, _, err = spex("resume", tmp_path / "run")
    assert (code, "fingerprint: 'toy' there, 'another toy' asked" in err) == (2, True)
    assert f.evaluated == 400


def test_foreign_directories(f, spex, tmp_path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    for argv, message in [
        (("run", tmp_path, *OPTIONS), "is not empty and has no command.json"),
        (("run", tmp_path / "notes.txt", *OPTIONS), "is not a directory"),
        (("resume", tmp_path), "no run in"),
        (("resume", tmp_path / "nowhere"), "no run in"),
        (("status", tmp_path), "no run in"),
        (("export", tmp_path, tmp_path / "x.parquet"), "no run in"),
        (("run", tmp_path / "new", *OPTIONS, "--text", "-"), "--text must be a file"),
        (("run", tmp_path / "new", *OPTIONS, "--retries", "-1"), "retries must be an integer >= 0"),
    ]:
        code, _, err = spex(*argv)
        assert (code, message in err) == (2, True), (argv, err)
    folder = tmp_path / "broken"
    folder.mkdir()
    Path(folder / "command.json").write_text(json.dumps({"options": 3}))
    code, _, err = spex("resume", folder)
    assert (code, "command.json is damaged" in err) == (2, True)
