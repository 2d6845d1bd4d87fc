"""Text under encoders of several families, packed, against plain calls of the model, one mask at a
time, with token ids put together word by word."""

from __future__ import annotations

import itertools
import sys

import numpy as np
import pytest
import torch

pytest.importorskip("transformers", reason="needs the extra: pip install spex-core[text]")

from encoders import PASSAGE, model, tokenizer_of

from spex_core.budget import plan_uniform
from spex_core.errors import EvaluationError, MissingExtra
from spex_core.evaluate import evaluate
from spex_core.values.packing import Pack, attend, hidden_states, packable
from spex_core.values.text import (
    Encoder,
    EncoderText,
    Logit,
    Margin,
    Similarity,
    as_encoder,
    load_encoder,
)

WORDS = PASSAGE.split()
PACKED = ["bert", "roberta", "distilbert", "electra"]


@pytest.fixture(autouse=True)
def one_torch_thread(set_threads):
    set_threads(1)


def encoder(name: str, output: str = "mean") -> Encoder:
    return as_encoder(tokenizer_of(name), model(name, output == "logits"), output=output)


def some_masks(n: int, rows: int, seed: int = 0) -> np.ndarray:
    """Uniform masks, and by hand: all, none, one kept, one removed, one twice."""
    masks = np.random.default_rng(seed).random((rows, n)) < 0.5
    masks[:4] = True
    masks[1] = False
    masks[2, 1:] = False
    masks[3, n - 1] = False
    masks[-1] = masks[4]
    return masks


def words_of_tokens(name: str, prefix: str, suffix: str) -> tuple[list[int], list[int | None]]:
    """Token ids of the whole, and the word of PASSAGE in which each starts, None for all else."""
    text = prefix + PASSAGE + suffix
    out = tokenizer_of(name)(text, return_offsets_mapping=True)
    words = []
    for place, (start, end) in enumerate(out.offset_mapping):
        while start + 1 < end and text[start].isspace():
            start += 1
        inside = len(prefix) <= start < len(prefix) + len(PASSAGE)
        inside &= 0 < place < len(out.input_ids) - 1  # neither of the special tokens at the ends
        words.append(len(text[len(prefix) : start + 1].split()) - 1 if inside else None)
    return out.input_ids, words


def plain_outputs(name, output, masking, masks, *, prefix="", suffix=""):
    ids, words = words_of_tokens(name, prefix, suffix)
    mask_id, net = tokenizer_of(name).mask_token_id, model(name, output == "logits")
    outputs = []
    for mask in masks:
        keep = np.array([word is None or mask[word] for word in words])
        given = {"input_ids": torch.tensor(ids)[None]}
        if masking == "remove":
            given = {"input_ids": torch.tensor(ids)[keep][None]}
        elif masking == "replace":
            given["input_ids"] = torch.tensor(np.where(keep, ids, mask_id))[None]
        else:
            given["attention_mask"] = torch.tensor(keep).long()[None]
        with torch.no_grad():
            if output == "logits":
                outputs.append(net(**given).logits[0])
                continue
            hidden = net(**given).last_hidden_state[0]
        if masking == "hide":
            hidden = hidden[keep]
        outputs.append(hidden.mean(0) if output == "mean" else hidden[0])
    return torch.stack(outputs)


def cosine(outputs: torch.Tensor, target: torch.Tensor) -> np.ndarray:
    return torch.nn.functional.cosine_similarity(outputs, target[None]).numpy()


# Packed equals one by one.


@pytest.mark.parametrize("masking", ["remove", "hide", "replace"])
@pytest.mark.parametrize("output", ["mean", "first", "logits"])
@pytest.mark.parametrize("name", PACKED)
def test_packed_equals_one_by_one(name, output, masking) -> None:
    target = torch.linspace(-1, 1, 32)
    scorer = Margin(1) if output == "logits" else Similarity(target)
    f = EncoderText(encoder(name, output), PASSAGE, scorer, masking=masking)
    assert f.n == len(WORDS)
    assert f.features == WORDS
    assert f.backend == "packed"
    masks = some_masks(f.n, 17)
    expected = plain_outputs(name, output, masking, masks)
    if output == "logits":
        expected = (expected[:, 1] - expected[:, [0, 2]].amax(1)).numpy()
    else:
        expected = cosine(expected, target)
    values = f(masks)
    assert np.abs(values - expected).max() <= 1e-6
    assert values.std() > 0.005
    lengths = [int(sum(mask)) for mask in masks]
    assert len(set(lengths)) > 5


@pytest.mark.parametrize("masking", ["remove", "hide", "replace"])
@pytest.mark.parametrize("name", ["bert", "roberta"])
def test_prefix_and_suffix_are_always_there(name, masking) -> None:
    around = {"prefix": "A dog slept: ", "suffix": " Then, whose?"}
    f = EncoderText(
        encoder(name, "logits"), PASSAGE, lambda logits: logits, masking=masking, **around
    )
    masks = some_masks(f.n, 9)
    expected = plain_outputs(name, "logits", masking, masks, **around).numpy()
    assert f(masks).shape == (9, 3)
    assert np.abs(f(masks) - expected).max() <= 1e-6


@pytest.mark.parametrize("masking", ["remove", "hide", "replace"])
@pytest.mark.parametrize("pair_first", [False, True])
def test_a_second_segment_has_its_token_types(pair_first, masking) -> None:
    net, both = model("bert", True), ["mat came dog", "whose sat"]
    f = EncoderText(
        encoder("bert", "logits"), both[0], Logit(2), masking=masking, pair=both[1],
        pair_first=pair_first,
    )  # fmt: skip
    out = tokenizer_of("bert")(*(both[::-1] if pair_first else both), return_tensors="pt")
    ours = np.array([sequence == int(pair_first) for sequence in out.sequence_ids(0)])
    assert set(f.layout.types.tolist()) == {0, 1}
    masks = np.array([[True] * 3, [False] * 3])
    keep = np.ones((2, len(ours)), bool)
    keep[1, ours] = False
    expected = []
    for row in keep:
        given = dict(out)
        if masking == "remove":
            given = {key: value[:, row] for key, value in out.items()}
        elif masking == "hide":
            given["attention_mask"] = torch.tensor(row).long()[None]
        else:
            given["input_ids"] = torch.where(torch.tensor(row), out.input_ids, 4)
        with torch.no_grad():
            expected.append(net(**given).logits[0, 2].item())
    assert f(masks) == pytest.approx(expected, abs=2e-6)
    assert abs(expected[0] - expected[1]) > 1e-3


@pytest.mark.parametrize(("name", "why"), [("mpnet", "no attention hook"), ("albert", "")])
@pytest.mark.parametrize("masking", ["remove", "hide", "replace"])
def test_models_that_cannot_be_packed_run_in_padded_batches_and_say_so(name, why, masking) -> None:
    f = EncoderText(encoder(name, "logits"), PASSAGE, Logit(0), masking=masking)
    masks = some_masks(f.n, 9)
    with pytest.warns(UserWarning, match=f"runs in padded batches, not packed: .*{why}"):
        values = f(masks)
    assert f.backend == "padded"
    expected = plain_outputs(name, "logits", masking, masks)[:, 0].numpy()
    assert np.abs(values - expected).max() <= 1e-6


@pytest.mark.parametrize("output", ["mean", "first"])
@pytest.mark.parametrize("masking", ["remove", "hide", "replace"])
def test_padded_embeddings_equal_one_by_one(output, masking) -> None:
    target = torch.linspace(-1, 1, 32)
    f = EncoderText(encoder("mpnet", output), PASSAGE, Similarity(target), masking=masking)
    masks = some_masks(f.n, 9)
    with pytest.warns(UserWarning, match="runs in padded batches"):
        values = f(masks)
    expected = cosine(plain_outputs("mpnet", output, masking, masks), target)
    assert np.abs(values - expected).max() <= 1e-6


def test_a_model_whose_packed_outputs_differ_is_found_out(monkeypatch) -> None:
    """An attention that lets sequences see one another, as an encoder's own does when packed."""
    from spex_core.values import packing

    def blind(module, query, key, value, mask, *, spex_pack, scaling, **_):
        out = torch.nn.functional.scaled_dot_product_attention(query, key, value, scale=scaling)
        return out.transpose(1, 2), None

    monkeypatch.setattr(packing, "attend", blind)
    f = EncoderText(encoder("bert", "logits"), PASSAGE, Logit(0))
    masks = some_masks(f.n, 7)
    with pytest.warns(UserWarning, match=r"packed outputs differ by \S+ from plain ones"):
        values = f(masks)
    expected = plain_outputs("bert", "logits", "remove", masks)[:, 0].numpy()
    assert np.abs(values - expected).max() <= 1e-6


def test_bfloat16_is_close_and_packed() -> None:
    import copy

    net = copy.deepcopy(model("bert")).to(torch.bfloat16)
    target = torch.linspace(-1, 1, 32)
    half = EncoderText(as_encoder(tokenizer_of("bert"), net), PASSAGE, Similarity(target))
    exact = EncoderText(encoder("bert"), PASSAGE, Similarity(target))
    masks = some_masks(half.n, 12)
    assert half.backend == "packed"
    assert 1e-6 < np.abs(half(masks) - exact(masks)).max() < 0.02


# The flow.


def test_a_run_counts_tokens_and_needs_few_at_a_time() -> None:
    f = EncoderText(encoder("bert"), PASSAGE, Similarity(torch.ones(32)))
    f.tokens, packs = 300, []
    run = f.run
    f.run = lambda masks: packs.append(int(f.cost(masks).sum())) or run(masks)
    calls, plan = [], plan_uniform(f.n, 64)
    values, _ = evaluate(f, plan, progress=lambda *at: calls.append(at))
    assert values.std() > 0
    assert max(packs) <= 300
    assert calls[-1] == (sum(packs), sum(packs))
    ids, words = words_of_tokens("bert", "", "")
    fixed = sum(word is None for word in words)
    assert abs(sum(packs) - 64 * (fixed + (len(ids) - fixed) / 2)) < 64 * 6


def test_the_callers_model_stays_as_it_was() -> None:
    net = model("bert", True)
    before = net.config._attn_implementation
    EncoderText(encoder("bert", "logits"), PASSAGE, Logit(0))(np.ones((2, len(WORDS)), bool))
    assert net.config._attn_implementation == before
    assert type(net.bert).__name__ == "BertModel"
    assert net.bert.pooler is not None
    twin = packable(net)
    assert twin.bert.embeddings.word_embeddings.weight.data_ptr() == (
        net.bert.embeddings.word_embeddings.weight.data_ptr()
    )


def test_fingerprints_tell_functions_apart_and_the_same_ones_together() -> None:
    def name(encoder_name="bert", text=PASSAGE, scorer=None, **options):
        scorer = Similarity(torch.ones(32)) if scorer is None else scorer
        return EncoderText(encoder(encoder_name), text, scorer, **options).fingerprint

    assert name() == name()
    others = [
        name("electra"),
        name(text=PASSAGE + "!"),
        name(units="sentences"),
        name(masking="hide"),
        name(masking="replace"),
        name(masking="replace", mask_token="[UNK]"),
        name(scorer=Similarity(-torch.ones(32))),
        name(scorer=lambda x: x[:, 0]),
        name(scorer=lambda x: x[:, 1]),
        name(prefix="A "),
    ]
    assert len({name(), *others}) == len(others) + 1


# Scorers.


def test_scorers_are_the_formulas() -> None:
    logits = torch.tensor([[1.0, 4.0, 2.5], [0.5, -1.0, 3.0]])
    assert Logit(2)(logits).tolist() == [2.5, 3.0]
    assert Margin(1)(logits).tolist() == [1.5, -4.0]
    assert Margin(1, 0)(logits).tolist() == [3.0, -1.5]
    two = Similarity(torch.tensor([[0.0, 2.0, 0.0], [1.0, 0.0, 0.0]]))(logits)
    expected = (logits / logits.norm(dim=1, keepdim=True))[:, [1, 0]]
    assert torch.allclose(two, expected)


@pytest.mark.parametrize(
    ("scorer", "message"),
    [
        (lambda x: x[:, 0] * torch.nan, "scorer must return finite numbers, got nan in row 0"),
        (lambda x: x[:1, 0], r"scorer must return one value .* got shape \(1,\)"),
        (lambda x: x.mean(), r"scorer must return one value .* got shape \(\)"),
        (lambda x: x[:, :, None], r"must return one value .* got \(5, 3, 1\)"),
        (Logit(3), "label must be an integer >= 0 and <= 2, got 3"),
        (Margin(0, -1), "label must be an integer >= 0"),
    ],
)
def test_bad_scorers(scorer, message) -> None:
    f = EncoderText(encoder("bert", "logits"), PASSAGE, scorer)
    with pytest.raises(ValueError, match=message):
        f(some_masks(f.n, 5)[[0, 1, 2, 3, 4]])
    with pytest.raises(EvaluationError, match=message.replace("5, 3", r"\d+, 3")):
        evaluate(f, plan_uniform(f.n, 5))


# Bad input.


def test_all_features_removed_must_leave_a_token() -> None:
    with pytest.raises(ValueError, match="must leave a token when all features are removed"):
        EncoderText(encoder("bert"), PASSAGE, Logit(0), special_tokens=False)
    f = EncoderText(encoder("bert"), PASSAGE, lambda x: x, special_tokens=False, masking="replace")
    assert f(np.zeros((1, f.n), bool)).shape == (1, 32)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"text": "  "}, "text must not be blank"),
        ({"text": PASSAGE * 9}, r"text must have at most 200 tokens, got \d+; .* truncate=True"),
        ({"units": "lines"}, "units must be one of"),
        ({"masking": "drop"}, r"masking must be one of .*, got 'drop'"),
        ({"masking": "replace", "mask_token": "two words"}, "mask must be one token of the model"),
        ({"threads": 0}, "EncoderText: threads must be an integer >= 1, got 0"),
    ],
)
def test_bad_arguments(change, message) -> None:
    arguments = {"encoder": encoder("bert"), "text": PASSAGE, "scorer": Logit(0)} | change
    with pytest.raises(ValueError, match=message):
        EncoderText(**arguments)


def test_bad_encoders() -> None:
    with pytest.raises(ValueError, match=r"output must be one of .*, got 'last'"):
        as_encoder(tokenizer_of("bert"), model("bert"), output="last")
    net = packable(model("bert")).train()
    with pytest.raises(ValueError, match=r"must be in evaluation mode: model\.eval\(\)"):
        as_encoder(tokenizer_of("bert"), net)


def test_sizes_are_those_that_model_and_tokenizer_declare() -> None:
    assert encoder("bert").max_tokens == 200  # the tokenizer's
    tokens = tokenizer_of("roberta")
    long = type(tokens)(tokenizer_object=tokens.backend_tokenizer, pad_token="<pad>")
    assert as_encoder(long, model("roberta")).max_tokens == 300 - 2  # positions start at 2


def test_a_folder_is_loaded(tmp_path) -> None:
    model("bert", True).save_pretrained(tmp_path)
    tokenizer_of("bert").save_pretrained(tmp_path)
    f = EncoderText(load_encoder(tmp_path, output="logits"), PASSAGE, Logit(1))
    expected = EncoderText(encoder("bert", "logits"), PASSAGE, Logit(1))
    masks = some_masks(f.n, 6)
    assert np.abs(f(masks) - expected(masks)).max() <= 1e-6


def test_a_missing_extra_says_what_to_install(monkeypatch, tmp_path) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(MissingExtra, match=r"transformers.*pip install spex-core\[text\]"):
        load_encoder(tmp_path)
    with pytest.raises(MissingExtra, match=r"transformers.*pip install spex-core\[text\]"):
        packable(model("bert"))


# The attention itself.


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("lengths", [[1], [3, 3, 3], [5, 5, 2, 2, 1], [2, 7, 1, 4]])
def test_attention_stays_within_sequences(lengths, groups, causal, dtype) -> None:
    """In float64 by runs of one length; in float32, where it is built, by the compiled kernel."""
    generator = torch.Generator().manual_seed(0)
    total, scale = sum(lengths), 0.4
    query = torch.randn(1, 4, total, 8, generator=generator, dtype=dtype)
    key, value = torch.randn(2, 1, 4 // groups, total, 8, generator=generator, dtype=dtype)
    starts = [0, *np.cumsum(lengths).tolist()]
    pack = Pack(torch.zeros(total), torch.zeros(total), starts)
    out, _ = attend(
        torch.nn.Module(), query, key, value, None, spex_pack=pack, scaling=scale, is_causal=causal
    )
    sequence = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
    allowed = sequence[:, None] == sequence
    if causal:
        allowed &= torch.ones(total, total, dtype=torch.bool).tril()
    scores = query @ key.repeat_interleave(groups, 1).mT * scale
    weights = scores.masked_fill(~allowed, -torch.inf).softmax(-1)
    expected = (weights @ value.repeat_interleave(groups, 1)).transpose(1, 2)
    assert torch.allclose(out, expected, atol=1e-12 if dtype == torch.float64 else 1e-6)


@pytest.mark.parametrize(
    ("how", "dtypes"),
    [
        ("cpu", {torch.float32, torch.bfloat16}),
        ("triton", {torch.float32, torch.bfloat16, torch.float16}),
        ("reference", set()),
    ],
)
def test_which_attention_a_kernel_takes(how, dtypes, monkeypatch) -> None:
    from spex_core.values import packing

    monkeypatch.setattr(packing, "pick", lambda op, backend, device: how)
    for dtype in (torch.float64, torch.float32, torch.bfloat16, torch.float16):
        states = torch.zeros(3, 1, 2, 5, 4, dtype=dtype)
        assert packing.compiled(*states) == (dtype in dtypes)
        states.requires_grad_()
        assert not packing.compiled(*states)
        with torch.no_grad():
            assert packing.compiled(*states) == (dtype in dtypes)
            assert not packing.compiled(*states[:2], states[2, ..., :3])


@pytest.mark.parametrize(
    "option",
    [{"softcap": 30.0}, {"position_bias": 0}, {"s_aux": 0}, {"sliding_window": 9}],
    ids=lambda option: next(iter(option)),
)
def test_attention_refuses_what_it_does_not_heed(option) -> None:
    states = [torch.zeros(1, 2, 5, 4)] * 3
    pack = Pack(torch.zeros(5), torch.zeros(5), [0, 5])
    with pytest.raises(NotImplementedError, match=next(iter(option))):
        attend(torch.nn.Module(), *states, None, spex_pack=pack, **option)
    wide = {"sliding_window": 10}
    assert attend(torch.nn.Module(), *states, None, spex_pack=pack, **wide)[0].shape == (1, 5, 2, 4)


def test_decoders_run_packed_too() -> None:
    from transformers import LlamaConfig, LlamaModel

    torch.manual_seed(0)
    sizes = {"vocab_size": 50, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "initializer_range": 0.3}
    net = LlamaModel(LlamaConfig(**sizes, **heads)).double().eval()
    ids, starts = torch.arange(3, 23), [0, 7, 14, 20]
    positions = torch.cat([torch.arange(7), torch.arange(7), torch.arange(6)])
    with torch.no_grad():
        found = hidden_states(packable(net), Pack(ids, positions, starts))
        for a, b in itertools.pairwise(starts):
            alone = net(input_ids=ids[None, a:b]).last_hidden_state[0]
            assert (found[a:b] - alone).abs().max() <= 1e-12
