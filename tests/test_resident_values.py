"""Value functions on a device: masks, tokens and values stay there, and a whole run asks for them.
The CPU stands for a device (two_worlds.py), its kernels for those of one."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from test_resident import never
from torch import Tensor
from two_worlds import TwoWorlds, kernels_unseen, on_host

import spex_core
from spex_core import EvaluationError, resident
from spex_core import masks as bits
from spex_core.budget import plan_spex, plan_uniform
from spex_core.plan import SamplingPlan
from spex_core.planner import lexicographic
from spex_core.transfers import Transfers
from spex_core.value_function import ValueFunction
from spex_core.values import CausalText, Components, EncoderText, ImageRegions, Similarity
from spex_core.values.causal_scorers import LogitDifference

CPU = torch.device("cpu")
TEXT = "The old ferry crossed the narrow strait twice a day, and nobody ever looked back."
KERNELS = {
    "spex_core.ops": ("uniform_masks", "parity_bits"),
    "spex_core.ops_inference": ("mask_lengths", "pack_tokens", "pack_trie", "head_scale"),
    "spex_core.values.masking": ("mask_lengths", "pack_tokens"),
    "spex_core.values.packing": ("packed_attention",),
    "spex_core.values.activations": ("gelu",),
}


def encoder_text(masking: str) -> EncoderText:
    pytest.importorskip("transformers", reason="needs the extra `text`")
    from encoders import model, tokenizer_of

    encoder = spex_core.values.as_encoder(tokenizer_of("bert"), model("bert"))
    width = encoder.model.config.hidden_size
    target = torch.randn(width, generator=torch.Generator().manual_seed(0))
    how = {"masking": masking} | ({"mask_token": "[MASK]"} if masking == "replace" else {})
    f = EncoderText(encoder, TEXT, Similarity(target), lossy=True, threads=1, **how)
    f.tokens = 150
    return f


def causal_text(masking: str, how: str) -> CausalText:
    pytest.importorskip("transformers", reason="needs the extra `text`")
    import tiny_models as tiny

    given = {"masking": masking} | ({"mask_token": "<unk>"} if masking == "replace" else {})
    scorer = LogitDifference(" yes", " no")
    fixed = {"prefix": "<s>Question:\n", "suffix": "\nAnswer:", "tokens": 300}
    return CausalText(tiny.llama(), tiny.tokenizer(), TEXT, scorer, how=how, **fixed, **given)


def image_regions() -> ImageRegions:
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 8 * 8, 2))
    return ImageRegions(model, torch.rand(3, 8, 8), (4, 4), target=1, pixels=640)


def components() -> Components:
    pytest.importorskip("transformers", reason="needs the extra `text`")
    import tiny_models as tiny

    model, ids = tiny.llama(), torch.arange(10).reshape(2, 5)
    model.set_attn_implementation("eager")  # its own is replaced where it runs on a CPU
    return Components(model, {"input_ids": ids}, lambda out, _: out.logits[:, -1, 3], tokens=100)


MAKERS: dict[str, Callable[[], ValueFunction]] = {
    "encoder": lambda: encoder_text("remove"),
    "encoder, hide": lambda: encoder_text("hide"),
    "encoder, replace": lambda: encoder_text("replace"),
    "trie": lambda: causal_text("remove", "trie"),
    "trie, replace": lambda: causal_text("replace", "trie"),
    "packed": lambda: causal_text("hide", "packed"),
    "separate": lambda: causal_text("remove", "separate"),
    "image": image_regions,
    "components": components,
}


@pytest.fixture
def a_device(monkeypatch: pytest.MonkeyPatch, set_threads: Callable) -> None:
    set_threads(1)
    kernels_unseen(monkeypatch, KERNELS)
    for module in ("planner", "value_function", "values.choices"):
        monkeypatch.setattr(f"spex_core.{module}.readable", on_host)


# Bytes a mask to the host: its order, its cost, where its tokens start and what it adds. To the
# device: its place in a pack and among the masks, and where its tokens start.
EACH = {"encoder": (24, 20), "encoder, hide": (24, 20), "encoder, replace": (8, 20)}
EACH |= {"trie": (40, 16), "trie, replace": (16, 16), "packed": (24, 20), "separate": (16, 16)}
EACH |= {"image": (8, 16), "components": (8, 16)}


@pytest.mark.parametrize("name", MAKERS)
def test_nothing_but_what_says_which_masks_go_together_moves(
    name: str, a_device: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    f, moved, packs = MAKERS[name](), [], []
    run = f.run
    expected = f(bits.unpack(plan_uniform(f.n, 90, seed=1).extra, f.n))
    monkeypatch.setattr(f, "run", lambda rows: packs.append(len(rows)) or run(rows))
    f.tokens = 10**6  # one pack
    for count in (30, 90):
        plan = plan_uniform(f.n, 90, seed=1, device=CPU)
        plan = plan.with_extra(plan.extra[:count])
        with TwoWorlds(monkeypatch):
            transfers = Transfers(CPU)
            values, used = resident.evaluate(f, plan, transfers, never, batch_size=9)
        assert used == packs.pop() == count
        assert not packs
        assert not on_host(values)
        np.testing.assert_allclose(values.numpy(), expected[:count], rtol=1e-4, atol=1e-5)
        moved.append((transfers.to_host, transfers.to_device))
    (host, device), (more_host, more_device) = moved
    lengths = 40 * 8 if name == "separate" else 0  # which lengths there are
    assert EACH[name][0] * 60 <= more_host - host <= EACH[name][0] * 60 + lengths
    assert 0 <= EACH[name][1] * 60 - (more_device - device) <= 8 * 200  # tokens, kept from then on


@pytest.mark.parametrize("n", [1, 8, 63, 64, 65, 129])
def test_the_order_on_a_device_is_that_of_the_host(n: int, monkeypatch) -> None:
    masks = bits.pack(np.random.default_rng(n).random((200, n)) < 0.5)
    expected = lexicographic(masks)
    monkeypatch.setattr("spex_core.planner.readable", lambda x: False)
    assert np.array_equal(lexicographic(masks), expected)


class Weights(ValueFunction):
    """Sums of weights; a pack is three masks. fails: of which pack, and with what."""

    order, tokens, device = "length", 3, CPU

    def __init__(self, fails: Exception | None = None, outputs: int = 1) -> None:
        self.features = [str(i) for i in range(9)]
        self.fails, self.outputs, self.asked = fails, outputs, []

    fingerprint = "weights"

    def cost(self, masks: Tensor) -> np.ndarray:
        return np.ones(len(masks), np.int64)

    def run(self, masks: Tensor) -> Tensor:
        self.asked.append(masks)
        if self.fails and len(self.asked) == 5:
            raise self.fails
        weighed = bits.unpack_there(masks, 9).float() @ torch.arange(1.0, 10)
        return weighed if self.outputs == 1 else torch.stack([weighed, -weighed], 1)


def run(f: ValueFunction, **options) -> resident.Run:
    def plan(device: torch.device | None) -> SamplingPlan:
        return plan_spex(9, 400, degree=2, device=device)

    how = {"decoder": "soft", "progress": None, "backend": "auto", "budget": 400, "batch_size": 9}
    return resident.run(f, 9, plan, CPU, lambda _: nullcontext(), **how | options)


@pytest.mark.parametrize("outputs", [1, 2])
def test_a_whole_run(outputs: int) -> None:
    f, done = Weights(outputs=outputs), []
    found = run(f, progress=lambda *x: done.append(x))
    assert done == [*((i, 400) for i in range(3, 400, 3)), (400, 400)]
    assert found.several == (outputs == 2)
    expected = spex_core.spex(Weights(), budget=400, degree=2).transform
    for sign, fitted in zip((1, -1), found.outputs, strict=False):
        terms = {k: sign * v for k, v in fitted.transform.to_dict().items()}
        assert terms == pytest.approx(expected.to_dict(), abs=1e-4)


def test_what_was_paid_for_is_kept() -> None:
    f = Weights(RuntimeError("gone"))
    with pytest.raises(EvaluationError, match=r"after 12 of 400 .*RuntimeError: gone") as failed:
        run(f)
    masks, values = failed.value.known
    assert np.array_equal(masks, bits.unpack(torch.cat(f.asked[:4]), 9))
    assert np.array_equal(values, masks @ np.arange(1.0, 10))


def test_smaller_packs_where_memory_runs_out() -> None:
    f = Weights(torch.OutOfMemoryError("out of memory"))
    assert run(f).outputs[0].r2 == pytest.approx(1)
    assert [len(pack) for pack in f.asked[3:7]] == [3, 3, 1, 1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda values: values.to("meta"), "values must be on the device of the masks, cpu"),
        (lambda values: values / 0, r"Weights: values must be finite, got (inf|nan) for mask 0"),
        (lambda values: values[1:], "one value or one row of values per mask"),
    ],
)
def test_values_that_are_refused(change, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    f = Weights()
    monkeypatch.setattr("spex_core.value_function.readable", lambda x: False)
    monkeypatch.setattr(f, "run", lambda masks: change(Weights.run(f, masks)))
    with pytest.raises(EvaluationError, match=message):
        run(f)


def test_functions_that_take_masks_elsewhere_are_refused() -> None:
    there = torch.device("meta")
    for device, takes in ((None, "the host"), (CPU, "cpu")):
        f = Weights()
        f.device = device
        for explain in (spex_core.spex, spex_core.proxyspex):
            with pytest.raises(TypeError, match=f"on tensors of meta, .* on {takes}"):
                explain(f, budget=400, device="meta")
    f.device = there
    assert resident.usable_device("spex", "meta", f, {}) == there
