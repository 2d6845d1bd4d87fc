"""Features of a text and the tokens that belong to them, against tokenizers of two kinds."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("transformers", reason="needs the extra: pip install spex-core[text]")

from encoders import PASSAGE, tokenizer

from spex_core.values.tokens import chat_affixes, tokenize
from spex_core.values.units import paragraph_spans, sentence_spans, spans_of, word_spans

KINDS = ["wordpiece", "bytes"]


def pieces(kind: str, layout) -> list[str]:
    """What the tokens of each feature spell, and last what is always kept, without blanks."""
    out = []
    for feature in range(layout.n + 1):
        ids = layout.ids[layout.owner == feature].tolist()
        spelt = tokenizer(kind).decode(ids, clean_up_tokenization_spaces=False)
        out.append("".join(spelt.split()))
    return out


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("units", ["words", "sentences", "paragraphs"])
def test_the_tokens_of_a_unit_spell_it(kind, units) -> None:
    layout = tokenize(tokenizer(kind), PASSAGE, units=units)
    assert layout.ids.tolist() == tokenizer(kind)(PASSAGE).input_ids
    spelt = pieces(kind, layout)
    lower = str.lower if kind == "wordpiece" else str
    for feature, name in enumerate(layout.features):
        if feature not in layout.unknown:
            assert spelt[feature] == lower(name).replace("ä", "a" if lower is str.lower else "ä"
            ).replace(" ", "")  # fmt: skip
    assert spelt[-1] in ("[CLS][SEP]", "<s></s>")
    assert layout.n == {"words": 35, "sentences": 5, "paragraphs": 2}[units]
    assert layout.fixed == 2
    assert layout.tokens == layout.fixed + layout.lengths.sum()
    own = layout.owner[1:-1]
    assert (np.diff(own) >= 0).all()
    assert layout.inert == layout.uncovered == ()


@pytest.mark.parametrize("kind", KINDS)
def test_prefix_suffix_and_text_between_spans_are_always_kept(kind) -> None:
    text = "the mat, the dog"
    layout = tokenize(
        tokenizer(kind), text, units=[(4, 7), (13, 16)], prefix="a dog, ", suffix=" sat."
    )
    assert layout.features == ("mat", "dog")
    assert layout.uncovered == ("the", ", the")
    spelt = pieces(kind, layout)
    assert spelt[:2] == ["mat", "dog"]
    assert spelt[2].strip("[CLS]EP</s>") == "adog,the,thesat."
    assert layout.ids.tolist() == tokenizer(kind)("a dog, the mat, the dog sat.").input_ids


def test_a_token_that_straddles_features_goes_to_the_one_where_it_starts() -> None:
    layout = tokenize(tokenizer("wordpiece"), "the mat", units=[(0, 1), (1, 3), (4, 7)])
    assert tokenizer("wordpiece").tokenize("the") == ["the"]
    assert layout.owner.tolist() == [3, 0, *[2] * (layout.tokens - 3), 3]
    assert layout.inert == (1,)


def test_what_the_tokenizer_does_not_know_is_listed() -> None:
    layout = tokenize(tokenizer("wordpiece"), "the Ω mat")
    assert layout.unknown == (1,)
    assert tokenize(tokenizer("bytes"), "the Ω mat").unknown == ()


@pytest.mark.parametrize("prefix", ["", "a dog: "])
def test_a_text_too_long_is_refused_or_cut_at_its_end(prefix) -> None:
    long = {"prefix": prefix, "suffix": " sat.", "max_tokens": 30}
    whole = tokenize(tokenizer("wordpiece"), PASSAGE, **long | {"max_tokens": None})
    message = f"text must have at most 30 tokens, got {whole.tokens}; shorten it or ask for trunc"
    with pytest.raises(ValueError, match=message):
        tokenize(tokenizer("wordpiece"), PASSAGE, **long)
    layout = tokenize(tokenizer("wordpiece"), PASSAGE, truncate=True, **long)
    assert layout.tokens == 30
    assert layout.n == whole.n
    assert layout.fixed == whole.fixed  # the suffix is still there
    kept = layout.lengths.sum()
    np.testing.assert_array_equal(
        layout.owner[layout.owner < layout.n], whole.owner[whole.owner < whole.n][:kept]
    )
    last = layout.owner[layout.owner < layout.n].max()
    assert layout.inert == tuple(range(last + 1, whole.n))


def test_what_is_always_kept_can_be_too_long_by_itself() -> None:
    with pytest.raises(ValueError, match=r"leave room for \d+ tokens beside it of at most 8"):
        tokenize(tokenizer("bytes"), "mat", prefix=PASSAGE, max_tokens=8, truncate=True)


# Chat templates.

TEMPLATE = (
    "{% for m in messages %}<{{ m['role'] }}> {{ m['content'] | trim }}\n{% endfor %}"
    "{% if add_generation_prompt %}<dog>{% endif %}"
)


def test_a_chat_template_becomes_prefix_and_suffix() -> None:
    messages = [
        {"role": "system", "content": "Be soft."},
        {"role": "user", "content": "Whose? {text} Bark!"},
    ]
    kind = tokenizer("bytes")
    affixes = chat_affixes(kind, messages, chat_template=TEMPLATE)
    assert affixes == ("<system> Be soft.\n<user> Whose? ", " Bark!\n<dog>")
    prefix, suffix = affixes
    layout = tokenize(kind, "the mat", prefix=prefix, suffix=suffix, special_tokens=False)
    whole = kind.apply_chat_template(
        [messages[0], {"role": "user", "content": "Whose? the mat Bark!"}],
        chat_template=TEMPLATE,
        add_generation_prompt=True,
        return_dict=False,
    )
    assert layout.ids.tolist() == list(whole)
    assert [piece.strip() for piece in pieces("bytes", layout)[:2]] == ["the", "mat"]


@pytest.mark.parametrize(
    ("content", "template", "message"),
    [
        ("no place", TEMPLATE, r"messages must hold \{text\} once, got it 0 times"),
        ("{text} {text}", TEMPLATE, r"hold \{text\} once, got it 2 times"),
        ("{text}", "nothing", "template must show the text once, got it 0 times"),
    ],
)
def test_bad_chats(content, template, message) -> None:
    with pytest.raises(ValueError, match=message):
        chat_affixes(
            tokenizer("bytes"), [{"role": "user", "content": content}], chat_template=template
        )


# Bad input.


@pytest.mark.parametrize(
    ("units", "error", "message"),
    [
        ("letters", ValueError, r"units must be one of \['words', .*\] or spans, got 'letters'"),
        ([], ValueError, "units must have at least one span, got none"),
        ([(0, 3), (2, 5)], ValueError, r"do not overlap, got \(2, 5\) after one that ends at 3"),
        ([(4, 6), (0, 2)], ValueError, r"spans in order that do not overlap, got \(0, 2\)"),
        ([(2, 2)], ValueError, r"0 <= start < end <= 7, got \(2, 2\)"),
        ([(-1, 2)], ValueError, r"got \(-1, 2\)"),
        ([(3, 8)], ValueError, r"got \(3, 8\)"),
        ([(1.0, 2)], TypeError, r"units must be spans \(start, end\) of whole numbers"),
        ([3], TypeError, "whole numbers, got 3"),
    ],
)
def test_bad_units(units, error, message) -> None:
    with pytest.raises(error, match=message):
        tokenize(tokenizer("wordpiece"), "the mat", units=units)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"text": ""}, ValueError, "text must not be blank"),
        ({"text": " \n\t"}, ValueError, "text must not be blank"),
        ({"text": 3}, TypeError, "text must be a string, got 3"),
        ({"prefix": None}, TypeError, "prefix must be a string, got None"),
        ({"pair": " "}, ValueError, "pair must not be blank"),
        ({"max_tokens": 0}, ValueError, "max_tokens must be an integer >= 1, got 0"),
    ],
)
def test_bad_arguments(change, error, message) -> None:
    with pytest.raises(error, match=message):
        tokenize(tokenizer("wordpiece"), **{"text": "the mat"} | change)


class Odd:
    """A tokenizer but for what a test changes."""

    is_fast, unk_token_id = True, None

    def __init__(self, spelt: str = "the mat", offsets=((0, 3), (4, 7))):
        self.spelt, self.offsets = spelt, offsets

    def __call__(self, *texts, **_):
        class Out(dict):
            def sequence_ids(self, _):
                return [0, 0]

        return Out(input_ids=[5, 6], offset_mapping=self.offsets)

    def decode(self, ids, **_):
        return self.spelt


@pytest.mark.parametrize(
    ("odd", "message"),
    [
        (Odd("the hat"), r"must round-trip: .* got 'hat' for 'mat'; lossy=True"),
        (Odd("the"), "must round-trip: .* got '' for 'mat'"),
        (Odd(offsets=((4, 7), (0, 3))), r"ascending offsets .*, got \(0, 3\) after 4"),
        (Odd(offsets=((0, 3), (4, 9))), r"within the text, got \(4, 9\)"),
    ],
)
def test_tokenizers_that_do_not_give_the_text_back(odd, message) -> None:
    with pytest.raises(ValueError, match=message):
        tokenize(odd, "the mat")


def test_case_accents_and_blanks_may_differ_and_more_on_request() -> None:
    assert tokenize(Odd("THE  mät\u200b"), "the mat").owner.tolist() == [0, 1]
    assert tokenize(Odd("the hat"), "the mat", lossy=True).owner.tolist() == [0, 1]


def test_a_tokenizer_without_offsets_is_refused() -> None:
    slow = Odd()
    slow.is_fast = False
    with pytest.raises(ValueError, match=r"tokenizer must give offsets, .* got Odd"):
        tokenize(slow, "the mat")


# Spans.


def test_paragraphs() -> None:
    text = "\n a b\n c.\n \n d e \n\n\n f "
    assert [text[a:b] for a, b in paragraph_spans(text)] == ["a b\n c.", "d e", "f"]
    assert paragraph_spans(" \n") == []
    assert paragraph_spans("x") == [(0, 1)]


def test_named_units_and_given_spans() -> None:
    text = "One two. Three"
    assert spans_of(text, "words") == word_spans(text) == [(0, 3), (4, 8), (9, 14)]
    assert spans_of(text, "sentences") == sentence_spans(text) == [(0, 8), (9, 14)]
    assert spans_of(text, np.array([[0, 3], [3, 9]])) == [(0, 3), (3, 9)]
