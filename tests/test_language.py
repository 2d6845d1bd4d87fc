"""Text before a causal language model, against asking the model for one mask at a time."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("transformers", reason="needs the extra `text`")

import tiny_models as tiny

from spex_core import masks as bits
from spex_core.planner import distinct
from spex_core.proxyspex import proxyspex
from spex_core.spex import spex
from spex_core.values import trie
from spex_core.values.causal_scorers import AnswerLogprob, ClassLogit, LogitDifference
from spex_core.values.decoders import HOWS
from spex_core.values.language import CausalText

PREFIX, SUFFIX = "<s>Question: Was it cold?\n", "\nAnswer:"
MASKS = ["remove", "hide", "<unk>"]
MODELS = {"llama": tiny.llama, "gpt2": tiny.gpt2, "qwen": tiny.qwen, "mistral": tiny.mistral}
SCORER = LogitDifference(" yes", " no")


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Models this small wait longer for a second thread than they run."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return tiny.tokenizer()


@pytest.fixture(scope="module")
def llama() -> Any:
    return tiny.llama()


@pytest.fixture
def make(llama: Any, tokenizer: Any) -> Callable[..., CausalText]:
    def build(scorer: Any = SCORER, model: Any = llama, **options: Any) -> CausalText:
        if (mask := options.pop("mask", "remove")) == "<unk>":
            options |= {"masking": "replace", "mask_token": mask}
        else:
            options |= {"masking": options.get("masking", mask)}
        fixed = {"prefix": PREFIX, "suffix": SUFFIX}
        return CausalText(model, tokenizer, tiny.TEXT, scorer, **(fixed | options))

    return build


def some_masks(n: int, rows: int = 24) -> np.ndarray:
    """With the empty, the full one, and a repeated one."""
    masks = np.random.default_rng(5).random((rows, n)) < 0.5
    masks[0], masks[1], masks[3] = False, True, masks[2]
    return masks


def spans_of_words(text: str) -> list[tuple[int, int]]:
    words, at = [], 0
    for word in text.split():
        at = text.index(word, at)
        words.append((at, at + len(word)))
        at += len(word)
    return words


def logits_one_by_one(
    model: Any, tokenizer: Any, masks: np.ndarray, mask: str, answer: str = ""
) -> list[torch.Tensor]:
    """The logits (tokens, V) of each mask, from the whole text tokenised once, by a full-length
    call for what is hidden or replaced, and a call of the tokens left for what is removed. Tokens
    belong to the word in which their first letter stands."""
    out = tokenizer(PREFIX + tiny.TEXT + SUFFIX, return_offsets_mapping=True)
    whole = PREFIX + tiny.TEXT + SUFFIX
    words = spans_of_words(tiny.TEXT)
    owner = []
    for start, end in out["offset_mapping"]:
        piece = whole[start:end]
        blanks = len(piece) - len(piece.lstrip()) if piece.strip() else 0
        first = start + blanks - len(PREFIX)
        inside = [i for i, (a, b) in enumerate(words) if a <= first < b]
        owner.append(inside[0] if inside else -1)
    ids = torch.tensor(out["input_ids"])
    extra = torch.tensor(tokenizer(answer)["input_ids"], dtype=torch.long) if answer else ids[:0]
    found = []
    for row in masks:
        keep = torch.tensor([i < 0 or bool(row[i]) for i in owner] + [True] * len(extra))
        tokens = torch.cat([ids, extra])
        with torch.no_grad():
            if mask == "remove":
                found.append(model(input_ids=tokens[keep][None]).logits[0])
            elif mask == "hide":
                at = torch.arange(len(tokens))[None]
                out_ = model(input_ids=tokens[None], attention_mask=keep[None], position_ids=at)
                found.append(out_.logits[0, keep])
            else:
                replaced = torch.where(keep, tokens, tokenizer.get_vocab()[mask])
                found.append(model(input_ids=replaced[None]).logits[0])
    return found


# ---- Against one by one --------------------------------------------------------------------------


@pytest.mark.parametrize("how", HOWS)
@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
def test_values_are_those_of_one_mask_at_a_time(
    model: Callable, mask: str, how: str, make: Callable, tokenizer: Any
) -> None:
    model = model()
    f = make(model=model, mask=mask, how=how)
    masks = some_masks(f.n)
    yes, no = (tokenizer(label)["input_ids"][0] for label in (" yes", " no"))
    truth = [
        float(logits[-1, yes] - logits[-1, no])
        for logits in logits_one_by_one(model, tokenizer, masks, mask)
    ]
    assert np.std(truth) > 0.01
    found = f(masks)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, truth, atol=1e-6, rtol=0)


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
def test_a_trie_is_exact(model: Callable, mask: str, make: Callable) -> None:
    """Hidden states in float64, against separate passes of the model itself."""
    model = model(torch.float64)
    ours, separate = (make(lambda x: x, model, mask=mask, how=how) for how in ("trie", "separate"))
    packed = bits.pack(some_masks(ours.n))
    first, _ = distinct(packed)
    rows = packed[torch.from_numpy(first)]
    states, truth = ours.run(rows), separate.run(rows)
    assert states.dtype == torch.float64
    assert float(truth.std(0).min()) > 1e-3
    assert float((states - truth).abs().max()) < 1e-12


@pytest.mark.parametrize("how", HOWS)
@pytest.mark.parametrize("mask", MASKS)
def test_the_logprob_of_an_answer(mask: str, how: str, make: Callable, tokenizer: Any) -> None:
    model, answer = tiny.llama(), " no maybe"
    targets = tokenizer(answer)["input_ids"]
    assert len(targets) >= 2
    f = make(AnswerLogprob(answer, mean=True), model, mask=mask, how=how)
    masks = some_masks(f.n)
    truth = []
    for logits in logits_one_by_one(model, tokenizer, masks, mask, answer):
        logp = logits.double().log_softmax(-1)[-len(targets) - 1 : -1]
        truth.append(float(logp[range(len(targets)), targets].mean()))
    np.testing.assert_allclose(f(masks), truth, atol=1e-6, rtol=0)
    total = make(AnswerLogprob(answer), model, mask=mask, how=how)
    np.testing.assert_allclose(total(masks), np.array(truth) * len(targets), rtol=1e-6)


def test_one_answer_token_needs_no_further_token(make: Callable, tokenizer: Any) -> None:
    one, long = make(AnswerLogprob(" yes")), make(AnswerLogprob(" no maybe"))
    extra = len(tokenizer(" no maybe")["input_ids"]) - 1
    masks = bits.pack(some_masks(one.n))
    np.testing.assert_array_equal(long.cost(masks), one.cost(masks) + extra)


@pytest.mark.parametrize("how", HOWS)
def test_classes(how: str, make: Callable, tokenizer: Any) -> None:
    model = tiny.classifier()
    masks = some_masks(38)
    truth = torch.stack(logits_one_by_one(model, tokenizer, masks, "remove")).numpy()
    np.testing.assert_allclose(make(ClassLogit(), model, how=how)(masks), truth, atol=1e-6)
    second = make(ClassLogit("good"), model, how=how)(masks)
    np.testing.assert_allclose(second, truth[:, 1], atol=1e-6)
    margin = make(ClassLogit(1, against="bad"), model, how=how)(masks)
    np.testing.assert_allclose(margin, truth[:, 1] - truth[:, 0], atol=1e-6)


def test_a_custom_scorer_has_the_last_state(make: Callable) -> None:
    f = make(lambda states: torch.stack([states[:, 0], states.norm(dim=1)], 1))
    values = f(some_masks(f.n))
    assert values.shape == (24, 2)
    whole = f._decoder.states(bits.pack(np.ones((1, f.n), np.bool_)), f.choices).hidden[-1]
    np.testing.assert_allclose(values[1], [whole[0], whole.norm()], atol=1e-6)


# ---- Packs and costs -----------------------------------------------------------------------------


@pytest.mark.parametrize("mask", MASKS)
def test_what_masks_add_is_what_the_trie_has(mask: str, make: Callable) -> None:
    from spex_core import ops_inference as ops

    f = make(AnswerLogprob(" no maybe"), mask=mask)
    packed = bits.pack(some_masks(f.n, 200))
    first, _ = distinct(packed)
    rows = packed[torch.from_numpy(first)]
    ids, owner = f.choices.tokens(torch.device("cpu"))
    nodes = ops.pack_trie(f.choices.masks(rows), ids, owner, f.choices.n)
    added = f.added(rows)
    np.testing.assert_array_equal(added, nodes.starts.diff().numpy())
    np.testing.assert_array_equal(f.cost(rows), (nodes.starts.diff() + nodes.shared).numpy())
    assert added.sum() < 0.9 * f.cost(rows).sum()


def test_packs_of_any_size_give_the_same(make: Callable) -> None:
    masks = some_masks(38)
    truth = make()(masks)
    for tokens in (1, 60, 301):
        np.testing.assert_allclose(make(tokens=tokens)(masks), truth, atol=1e-6)


@pytest.mark.parametrize("how", HOWS)
def test_no_pack_is_larger_than_its_budget(how: str, make: Callable) -> None:
    f = make(how=how, tokens=200)
    sizes = []
    states = f._decoder.states
    f._decoder.states = lambda masks, choices: sizes.append(masks) or states(masks, choices)
    f(some_masks(f.n))
    assert len(sizes) > 3
    for rows in sizes:
        added = f.added(rows)
        total = f.cost(rows).sum() if added is None else f.cost(rows)[0] + added[1:].sum()
        assert total <= 200


def test_features_without_a_token_change_nothing(make: Callable, tokenizer: Any) -> None:
    """Two masks that differ in them alone end at the same node."""
    text = tiny.TEXT * 5
    model = tiny.llama(max_position_embeddings=100)
    f = CausalText(model, tokenizer, text, SCORER, prefix=PREFIX, truncate=True)
    assert 0 < len(f.inert) < f.n
    masks = some_masks(f.n, 40)
    masks[5:25] = masks[4]
    masks[5:25, list(f.inert)] = np.random.default_rng(0).random((20, len(f.inert))) < 0.5
    values = f(masks)
    np.testing.assert_allclose(values[4:25], values[4], atol=1e-6)
    assert len(np.unique(values)) > 15
    packed = bits.pack(masks[5:25])
    assert f.added(packed)[1:].sum() == 0


def test_spex_and_proxyspex_ask_it(make: Callable) -> None:
    f = make(units="sentences")
    whole = np.array([[bool(i >> j & 1) for j in range(f.n)] for i in range(1 << f.n)])
    for run in (spex, proxyspex):
        found = run(f, features=f.features, budget=1 << f.n)
        np.testing.assert_allclose(
            found.transform.predict(whole), f(whole), atol=1e-5, err_msg=run.__name__
        )


# ---- What a function is --------------------------------------------------------------------------


def test_the_three_ways_to_be_absent_differ(make: Callable) -> None:
    masks = some_masks(38)
    values = [make(mask=mask)(masks) for mask in MASKS]
    for i in range(3):
        for j in range(i):
            assert np.abs(values[i] - values[j])[4:].min() > 1e-5
            assert values[i][1] == pytest.approx(values[j][1], abs=1e-6)  # nothing absent


def test_fingerprints(make: Callable) -> None:
    assert make().fingerprint == make().fingerprint
    assert make(how="packed").fingerprint == make().fingerprint  # the same function
    with torch.no_grad():
        (other := tiny.llama()).lm_head.weight *= 1.01
    different = [
        make(),
        make(mask="hide"),
        make(mask="<unk>"),
        make(LogitDifference(" no", " yes")),
        make(AnswerLogprob(" yes")),
        make(lambda states: states[:, 0]),
        make(lambda states: states[:, 1]),
        make(suffix="\nAnswer"),
        make(units="sentences"),
        make(model=tiny.llama(torch.float64)),
        make(model=tiny.qwen()),
        make(model=other),
    ]
    assert len({f.fingerprint for f in different}) == len(different)


def test_the_callers_model_stays_as_it_is(make: Callable) -> None:
    model = tiny.llama()
    ids = torch.arange(9)[None]
    before, attention = model(ids).logits, model.config._attn_implementation
    make(model=model)(some_masks(38))
    assert model.config._attn_implementation == attention
    assert torch.equal(model(ids).logits, before)


def test_a_chat_template(make: Callable, llama: Any, tokenizer: Any) -> None:
    from spex_core.values.tokens import chat_affixes

    chatty = tiny.tokenizer()
    chatty.chat_template = (
        "<s>{% for m in messages %}[{{ m.role }}] {{ m.content }}\n{% endfor %}"
        "{% if add_generation_prompt %}[assistant]{% endif %}"
    )
    messages = [{"role": "user", "content": "Was it cold? {text}"}]
    prefix, suffix = chat_affixes(chatty, messages)
    f = CausalText(
        *(llama, chatty, tiny.TEXT, SCORER), prefix=prefix, suffix=suffix, special_tokens=False
    )
    whole = chatty.apply_chat_template(
        [{"role": "user", "content": "Was it cold? " + tiny.TEXT}],
        add_generation_prompt=True,
        tokenize=False,
    )
    np.testing.assert_array_equal(f.choices.layout.ids, tokenizer(whole)["input_ids"])


# ---- Which way -----------------------------------------------------------------------------------


def test_a_short_window_is_run_separately_and_says_so(make: Callable, tokenizer: Any) -> None:
    model = tiny.mistral(sliding_window=16)
    with pytest.warns(UserWarning, match=r"run separate: not trie, its window of 16 tokens"):
        f = make(model=model)
    assert f.how == "separate"
    masks = some_masks(f.n)
    yes, no = (tokenizer(label)["input_ids"][0] for label in (" yes", " no"))
    logits = logits_one_by_one(model, tokenizer, masks, "remove")
    truth = [float(x[-1, yes] - x[-1, no]) for x in logits]
    np.testing.assert_allclose(f(masks), truth, atol=1e-6)
    wide = make(model=tiny.mistral(sliding_window=512))
    assert wide.how == "trie"
    with pytest.raises(NotImplementedError, match="cannot be run: not packed, its window of 16"):
        make(model=model, how="packed")


def test_a_model_whose_layers_carry_a_state_is_run_separately(make: Callable) -> None:
    model = tiny.mamba()
    with pytest.warns(UserWarning, match="MambaForCausalLM is run separate: not trie, "):
        f = make(model=model)
    masks = some_masks(f.n, 6)
    alone = np.concatenate([f(row[None]) for row in masks])
    np.testing.assert_allclose(f(masks), alone, atol=1e-6)


def test_an_attention_that_mixes_sequences_is_noticed(
    make: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a model would whose attention does not heed the trie: every node sees all before it."""
    truth = make(how="separate")(some_masks(38))

    def chain(module: Any, query: Any, key: Any, value: Any, mask: Any, **given: Any) -> Any:
        tree = given.pop("spex_trie")
        end = torch.full_like(tree.subtree_end, len(tree.subtree_end))
        wrong = trie.Trie(tree.input_ids, tree.position_ids, end)
        return right(module, query, key, value, mask, spex_trie=wrong, **given)

    right = trie.attend
    monkeypatch.setattr(trie, "attend", chain)
    with pytest.warns(UserWarning, match="run packed: not trie, its states differ from those of"):
        f = make()
    assert f.how == "packed"
    np.testing.assert_allclose(f(some_masks(38)), truth, atol=1e-6)
    monkeypatch.undo()
    assert make().how == "trie"  # registers the right one again


def test_experts_with_a_capacity_are_run_one_by_one(make: Callable) -> None:
    model = tiny.llama()
    model.config.expert_capacity = 4
    with pytest.warns(UserWarning, match="its experts have a capacity"):
        f = make(model=model)
    rows = []
    model.base_model.register_forward_pre_hook(
        lambda module, args, given: rows.append(len(given["input_ids"])), with_kwargs=True
    )
    f(some_masks(f.n))
    assert set(rows) == {1}
    assert len(rows) == 23


def test_logits_that_the_head_does_not_make_are_refused(make: Callable) -> None:
    model = tiny.llama()
    forward = model.lm_head.forward
    model.lm_head.forward = lambda x: 30 * torch.tanh(forward(x))
    with pytest.raises(NotImplementedError, match="states differ from those of separate passes"):
        make(model=model)


def test_a_fixed_block_after_the_text_is_warned_of(make: Callable) -> None:
    with pytest.warns(UserWarning, match=r"fixed tokens follow the \d+ that masks choose from"):
        make(suffix="\n" + tiny.TEXT)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        make(prefix="<s>" + tiny.TEXT)


# ---- Bad input -----------------------------------------------------------------------------------


def test_nothing_left_is_refused(make: Callable) -> None:
    with pytest.raises(
        ValueError, match=r"a token must be left when all features are absent: .*<s>"
    ):
        make(prefix="", suffix="")
    assert np.isfinite(make(prefix="", suffix="", mask="<unk>")(some_masks(38))).all()
    assert np.isfinite(make(prefix="<s>", suffix="")(some_masks(38))).all()


@pytest.mark.parametrize(
    ("scorer", "error", "message"),
    [
        (lambda x: x[:, 0] * float("nan"), ValueError, "values must be finite"),
        (lambda x: x[:-1, 0], ValueError, "one value or one row of values per mask"),
        (lambda x: x[None], ValueError, "one value or one row of values per mask"),
        (LogitDifference(" yes no", " no"), ValueError, "a label must be one token, got ' yes no'"),
        (
            LogitDifference(" yes", 10_000),
            ValueError,
            r"a token id must be in \[0, 400\), got 10000",
        ),
        (AnswerLogprob(""), ValueError, "text must have at least one token, got ''"),
        (ClassLogit(0), ValueError, "model must be a sequence classifier"),
        (3, TypeError, "scorer must be a Scorer or a function, got 3"),
    ],
)
def test_bad_scorers(scorer: Any, error: type[Exception], message: str, make: Callable) -> None:
    with pytest.raises(error, match=message):
        make(scorer)(some_masks(38))


def test_bad_classes(make: Callable) -> None:
    for label in ("fine", 7, -1):
        with pytest.raises(
            ValueError, match=r"label must be one of the classes \['bad', 'good'\], got"
        ):
            make(ClassLogit(label), tiny.classifier())(some_masks(38))


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"masking": "drop"}, ValueError, "masking must be one of .* got 'drop' and None"),
        ({"mask_token": "<unk>"}, ValueError, "with a mask_token for 'replace' only, got 'remove'"),
        ({"masking": "replace"}, ValueError, "mask_token must be one token of the model, .* None"),
        (
            {"masking": "replace", "mask_token": "[NOPE]"},
            ValueError,
            r"one token of the model, such as one of \['<s>'.*\], got '\[NOPE\]'",
        ),
        ({"how": "fast"}, ValueError, "how must be one of"),
        ({"units": "letters"}, ValueError, "units must be one of"),
        ({"units": [(0, 5), (3, 9)]}, ValueError, "do not overlap"),
        ({"tokens": 0}, ValueError, "tokens must be an integer >= 1, got 0"),
        ({"prefix": None}, TypeError, "prefix must be a string"),
        ({"prefix": "word " * 300}, ValueError, "tokens"),
    ],
)
def test_bad_options(options: dict, error: type[Exception], message: str, make: Callable) -> None:
    with pytest.raises(error, match=message):
        make(**options)


def test_bad_models(make: Callable, tokenizer: Any) -> None:
    with pytest.raises(TypeError, match="model must be a causal language model of transformers"):
        make(model=torch.nn.Linear(2, 2))
    with pytest.raises(TypeError, match="model must have a head, got LlamaModel"):
        make(model=tiny.llama().model)
    with pytest.raises(ValueError, match=r"in evaluation mode: model\.eval\(\)"):
        make(model=tiny.llama().train())
    with pytest.raises(ValueError, match="text must not be blank"):
        CausalText(tiny.llama(), tokenizer, "  ", SCORER, prefix=PREFIX)
