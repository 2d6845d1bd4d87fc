"""`spex explain` on models of every task, made here and read from a folder as a user's are."""

import numpy as np
import pytest

pytest.importorskip("transformers", reason="needs the extra: pip install spex-core[text]")
import encoders
import tiny_models

from spex_core import cli, inputs
from spex_core.values.causal_scorers import AnswerLogprob, ClassLogit, ClassMargin, LogitDifference
from spex_core.values.components import Components
from spex_core.values.language import CausalText
from spex_core.values.text import EncoderText, Margin, as_encoder

TEXT = "The old ferry crossed the narrow strait. Nobody looked back! Winter came early."


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Saves a model and its tokenizer, and returns where."""

    def save(model, tokenizer):
        path = tmp_path_factory.mktemp("model")
        model.save_pretrained(path)
        tokenizer.save_pretrained(path)
        return str(path)

    makers = {
        "llama": lambda: (tiny_models.llama(), tiny_models.tokenizer()),
        "llama classes": lambda: (tiny_models.classifier(), tiny_models.tokenizer()),
        "bert": lambda: (encoders.model("bert"), encoders.tokenizer("wordpiece")),
        "bert classes": lambda: (encoders.model("bert", True), encoders.tokenizer("wordpiece")),
    }
    made = {}

    def find(name):
        if name not in made:
            made[name] = save(*makers[name]())
        return made[name]

    return find


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text(TEXT, encoding="utf-8")
    return str(path)


def parsed(*flags, **options):
    words = [word for key, value in options.items() for word in (f"--{key}", value)]
    return cli._parser().parse_args(["explain", *words, *flags])


def ends(f):
    return f(np.array([[False] * f.n, [True] * f.n]))


@pytest.mark.parametrize(
    ("options", "scorer", "asked"),
    [
        (
            {"task": "label", "target": " yes", "against": " no"},
            LogitDifference(" yes", " no"),
            "logit of “ yes” minus that of “ no”, next",
        ),
        (
            {"task": "answer", "target": " maybe"},
            AnswerLogprob(" maybe"),
            "log-probability of “ maybe” after the text",
        ),
    ],
)
def test_language_models(folder, text, options, scorer, asked):
    around = {"prefix": "Q:", "suffix": " A:"}
    f, lines = inputs.value_function(parsed(model=folder("llama"), text=text, **options, **around))
    assert lines[0] == f"value:    {asked}"
    assert f"{len(TEXT.split())} words" in lines[1]
    direct = CausalText(tiny_models.llama(), tiny_models.tokenizer(), TEXT, scorer, **around)
    assert np.abs(ends(f) - ends(direct)).max() <= 1e-6


@pytest.mark.parametrize(
    ("options", "scorer", "asked"),
    [
        ({"target": "bad"}, ClassMargin("bad"), "the class “bad” minus the largest other"),
        ({"target": "1"}, ClassMargin(1), "the class “good” minus the largest other"),
        ({"target": "bad", "against": "good"}, ClassLogit(0, 1), "“bad” minus that of “good”"),
    ],
)
def test_classifiers_that_are_decoders(folder, text, options, scorer, asked):
    args = parsed(model=folder("llama classes"), text=text, task="classify", prefix="Q:", **options)
    f, lines = inputs.value_function(args)
    assert asked in lines[0]
    direct = CausalText(
        tiny_models.classifier(), tiny_models.tokenizer(), TEXT, scorer, prefix="Q:"
    )
    assert np.abs(ends(f) - ends(direct)).max() <= 1e-6


@pytest.mark.parametrize(
    ("options", "label", "other"),
    [({"target": "LABEL_2"}, 2, None), ({"target": "0", "against": "LABEL_1"}, 0, 1)],
)
def test_classifiers_that_are_encoders(folder, text, options, label, other):
    args = parsed(model=folder("bert classes"), text=text, task="classify", mask="hide", **options)
    f, lines = inputs.value_function(args)
    assert f"LABEL_{label}" in lines[0]
    bert = as_encoder(
        encoders.tokenizer("wordpiece"), encoders.model("bert", True), output="logits"
    )
    direct = EncoderText(bert, TEXT, Margin(label, other), masking="hide")
    assert np.abs(ends(f) - ends(direct)).max() <= 1e-6


@pytest.mark.parametrize("name", ["bert classes", "llama classes"])
def test_without_a_target_it_is_the_class_that_the_model_sees(folder, text, name):
    args = parsed(model=folder(name), text=text, task="classify", prefix="Q:")
    f, _ = inputs.value_function(args)
    assert ends(f)[1] > 0  # the margin over all others, with the whole text


def test_similarity_of_another_encoder_by_sentences_and_its_own_mask_token(folder, text):
    args = parsed(
        model=folder("bert"), text=text, question="Was it winter?", units="sentences", mask="[UNK]"
    )
    f, _ = inputs.value_function(args)
    assert list(f.features) == [part.strip() + end for part, end in zip(
        TEXT.replace("!", ".").split(".")[:3], ".!.", strict=True)]  # fmt: skip
    assert f.masker.masking == "replace"
    assert -1 <= ends(f).min() <= ends(f).max() <= 1


# ---- Heads ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("bert", {"question": "Was it winter?"}),
        ("bert classes", {"task": "classify", "target": "1"}),
        ("llama", {"task": "answer", "target": " no maybe", "prefix": "Q:"}),
        ("llama classes", {"task": "classify", "target": "good", "prefix": "Q:"}),
    ],
)
def test_heads_on_a_text_are_scored_as_the_text_is(folder, text, name, options):
    args = parsed("--heads", model=folder(name), text=text, **options)
    f, lines = inputs.value_function(args)
    assert isinstance(f, Components)
    assert f.n == 8  # two layers of four
    assert lines[-1] == "features: 8 attention heads; the text is whole"
    words, _ = inputs.value_function(parsed(model=folder(name), text=text, **options))
    whole = ends(words)[1]
    assert ends(f)[1] == pytest.approx(whole, abs=1e-5)
    assert abs(ends(f)[0] - whole) > 1e-3
    assert f.fingerprint == inputs.value_function(args)[0].fingerprint


def test_heads_on_pairs_of_sentences(folder, tmp_path):
    pairs = tmp_path / "pairs.tsv"
    pairs.write_text("A cat.\tThe cat.\t1\nA cat.\tSnow fell.\t0\n", encoding="utf-8")
    args = parsed("--heads", model=folder("bert"), pairs=str(pairs))
    f, lines = inputs.value_function(args)
    assert (f.n, lines[1]) == (8, f"pairs:    2, from {pairs}")
    assert "mean cosine of the related pairs minus that of the others" in lines[0]

    pairs.write_text("A cat.\tThe cat.\nA cat.\tSnow fell.\n\nOne.\tTwo.\n", encoding="utf-8")
    f, lines = inputs.value_function(args)
    assert "correlation" in lines[0]
    assert ends(f)[1] == pytest.approx(1, abs=1e-6)


# ---- Bad input -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"task": "answer", "target": "x"}, "--model must be given with --task answer"),
        ({"task": "answer", "model": "m"}, "--target must be given with --task answer"),
        ({"task": "label", "model": "m", "target": "x"}, "--against must be given with --task"),
        ({"question": "?", "target": "x"}, "--target must not be given with --task similarity"),
        (
            {"task": "classify", "model": "m", "question": "?"},
            "--question must not be given with --task classify",
        ),
        ({"pairs": "p", "question": "?"}, "--pairs must come with --heads and without --text"),
    ],
)
def test_options_that_contradict_each_other(text, options, message):
    with pytest.raises(ValueError, match=message):
        inputs.value_function(parsed(text=text, **options))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("one column\n", "--pairs must hold lines of two sentences"),
        ("a\tb\t1\na\tc\n", "--pairs must hold lines of two sentences"),
        ("a\tb\t2\n", "third column 0 or 1"),
    ],
)
def test_bad_pairs(folder, tmp_path, content, message):
    pairs = tmp_path / "pairs.tsv"
    pairs.write_text(content, encoding="utf-8")
    with pytest.raises(ValueError, match=message):
        inputs.value_function(parsed("--heads", model=folder("bert"), pairs=str(pairs)))


def test_heads_without_a_text_are_those_of_a_sentence_encoder():
    with pytest.raises(ValueError, match="--text must be given with --heads and --question or"):
        inputs.value_function(parsed("--heads", task="answer", target="x", model="m"))


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("bert classes", {"target": "LABEL_3"}, "label must be one of the classes .*LABEL_2"),
        ("llama classes", {"target": "7", "prefix": "Q:"}, "label must be one of the classes"),
    ],
)
def test_a_class_that_is_not_there(folder, text, name, options, message):
    with pytest.raises(ValueError, match=message):
        inputs.value_function(parsed(model=folder(name), text=text, task="classify", **options))


def test_a_model_that_is_not_there(text, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    code = cli.main(["explain", "--text", text, "--question", "?", "--model", "/no/such/folder"])
    assert code == 2


# ---- End to end ----------------------------------------------------------------------------------


def test_an_answer_is_explained_and_compared(folder, text, tmp_path, capsys):
    code = cli.main([
        *("explain", "--model", folder("llama"), "--text", text, "--task", "answer"),
        *("--target", " yes", "--prefix", "Q:", "--units", "sentences", "--degree", "2"),
        *("--out", str(tmp_path / "out.npz")),
    ])  # fmt: skip
    out, err = capsys.readouterr()
    assert code == 0
    assert "log-probability of “ yes” after the text" in out
    assert "3 sentences" in out
    assert "tokens, " in err
    assert "SPEX took 8 of its masks over from ProxySPEX" in out  # the whole table


# ---- Served models -------------------------------------------------------------------------------


@pytest.fixture
def served():
    pytest.importorskip("httpx", reason="needs the extra `remote`")
    from served_model import ModelServer

    with ModelServer(tiny_models.llama(), tiny_models.tokenizer(), kind="vllm") as there:
        yield there


def test_a_served_model_is_the_model(folder, text, served):
    options = {"task": "label", "target": " yes", "against": " no", "prefix": "Q:", "suffix": " A:"}
    there = {"server": served.url, "api": "vllm", "tokenizer": folder("llama")}
    f, lines = inputs.value_function(parsed(model="tiny", text=text, **there, **options))
    direct, same = inputs.value_function(parsed(model=folder("llama"), text=text, **options))
    assert lines == same
    assert np.abs(ends(f) - ends(direct)).max() <= 2e-5


def test_a_served_model_is_explained_until_the_money_is_spent(
    folder, text, served, tmp_path, capsys
):
    words = [
        *("explain", "--server", served.url, "--model", "tiny", "--tokenizer", folder("llama")),
        *("--task", "answer", "--target", " yes no", "--prefix", "Q:", "--text", text),
        *("--compare", "0", "--degree", "2", "--out", str(tmp_path / "out.npz")),
    ]
    assert cli.main([*words, "--budget", "60"]) == 0
    assert "log-probability of “ yes no” after the text" in capsys.readouterr().out
    assert cli.main([*words, "--budget", "60", "--most-requests", "3"]) == 1
    assert "most_requests = 3 would be exceeded" in capsys.readouterr().err
    assert cli.main([*words, "--key", "NO_SUCH_KEY"]) == 2
    assert "the key is missing: NO_SUCH_KEY" in capsys.readouterr().err


def test_a_run_that_its_cap_stopped_goes_on_and_has_no_key(
    folder, text, served, tmp_path, capsys, monkeypatch
):
    monkeypatch.setenv("MY_KEY", "sk-27182818")
    served.key = "sk-27182818"
    run = tmp_path / "run"
    words = [
        *("run", str(run), "--server", served.url, "--api", "vllm", "--model", "tiny"),
        *("--tokenizer", folder("llama"), "--key", "MY_KEY", "--task", "answer"),
        *("--target", " yes no", "--prefix", "Q:", "--text", text, "--degree", "2"),
        *("--budget", "60", "--quiet"),
    ]
    assert cli.main([*words, "--most-requests", "3"]) == 1
    assert "most_requests = 3 would be exceeded: 3 spent" in capsys.readouterr().err
    assert len(served.asked) == 24
    assert cli.main(["resume", str(run)]) == 1  # with as much again
    assert len(served.asked) == 48
    assert cli.main([*words, "--most-requests", "50"]) == 0
    assert len(served.asked) == len({tuple(prompt) for prompt in served.asked}) == 60
    files = [path for path in run.rglob("*") if path.is_file()]
    assert len(files) >= 3
    assert not any(b"sk-27182818" in path.read_bytes() for path in files)


@pytest.mark.parametrize(
    "words", [["--question", "?"], ["--heads", "--task", "answer", "--target", "x"]]
)
def test_what_no_server_has(text, words):
    with pytest.raises(ValueError, match="--server must come with --task label or answer"):
        inputs.value_function(parsed(*words, model="m", server="http://h", text=text))
