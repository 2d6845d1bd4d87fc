"""The attention that is lent to a model: the same outputs, and the model as it was afterwards."""

import pytest
import torch

pytest.importorskip("transformers", reason="needs the extra: pip install spex-core[text]")
import encoders
import tiny_models

from spex_core.values import batch_attention
from spex_core.values.batch_attention import faster_attention

MODELS = {
    "bert": lambda: encoders.model("bert"),
    "distilbert": lambda: encoders.model("distilbert"),
    "llama": tiny_models.llama,  # keys are shared
    "qwen": tiny_models.qwen,
    "gpt2": tiny_models.gpt2,
}


@pytest.fixture
def calls(monkeypatch):
    """How often the compiled kernel was asked."""
    made = []

    def counted(*args, **options):
        made.append(args[0].shape)
        return kernel(*args, **options)

    kernel = batch_attention.packed_attention
    monkeypatch.setattr(batch_attention, "packed_attention", counted)
    return made


@pytest.mark.parametrize("name", list(MODELS))
@pytest.mark.parametrize("length", [1, 7, 65])
@torch.inference_mode()
def test_equal_to_the_models_own(name, length, calls):
    model = MODELS[name]()
    ids = torch.arange(3 * length).view(3, length) * 37 % 300 + 5
    given = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    own = model.base_model(**given).last_hidden_state
    with faster_attention(model):
        lent = model.base_model(**given).last_hidden_state
    assert torch.allclose(lent, own, rtol=0, atol=1e-5)
    assert len(calls) == 2  # layers
    assert model.config._attn_implementation == "sdpa"
    assert torch.equal(model.base_model(**given).last_hidden_state, own)
    assert len(calls) == 2


@torch.inference_mode()
def test_padding_is_left_to_the_models_own(calls):
    model = encoders.model("bert")
    ids = torch.arange(24).view(2, 12) + 5
    keep = torch.ones_like(ids)
    keep[1, 7:] = 0
    own = model(input_ids=ids, attention_mask=keep).last_hidden_state
    with faster_attention(model):
        lent = model(input_ids=ids, attention_mask=keep).last_hidden_state
    assert torch.equal(lent[0], own[0])
    assert torch.equal(lent[1, :7], own[1, :7])
    assert not calls


@pytest.mark.parametrize("kind", ["eager", "plain"])
def test_other_models_are_left_alone(kind):
    if kind == "plain":
        model = torch.nn.Linear(2, 2)
    else:
        model = tiny_models.llama()
        model.set_attn_implementation("eager")
    with faster_attention(model):
        assert kind == "plain" or model.config._attn_implementation == "eager"


def test_the_model_is_as_it_was_after_an_error():
    model = tiny_models.llama()

    def fail():
        with faster_attention(model):
            assert model.config._attn_implementation == batch_attention.ATTENTION
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert model.config._attn_implementation == "sdpa"
