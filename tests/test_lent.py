"""The parts that are lent to a model: the same outputs, and the model as it was afterwards."""

import pytest
import torch

pytest.importorskip("transformers", reason="needs the extra: pip install spex-core[text]")
import encoders
import tiny_models

from spex_core.values import activations, lent
from spex_core.values.lent import lent_parts

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

    kernel = lent.packed_attention
    monkeypatch.setattr(lent, "packed_attention", counted)
    return made


@pytest.mark.parametrize("name", list(MODELS))
@pytest.mark.parametrize("length", [1, 7, 65])
@torch.inference_mode()
def test_equal_to_the_models_own(name, length, calls):
    model = MODELS[name]()
    ids = torch.arange(3 * length).view(3, length) * 37 % 300 + 5
    given = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    own = model.base_model(**given).last_hidden_state
    with lent_parts(model):
        got = model.base_model(**given).last_hidden_state
    assert torch.allclose(got, own, rtol=0, atol=1e-5)
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
    with lent_parts(model):
        got = model(input_ids=ids, attention_mask=keep).last_hidden_state
    assert torch.allclose(got[0], own[0], rtol=0, atol=1e-5)
    assert torch.allclose(got[1, :7], own[1, :7], rtol=0, atol=1e-5)
    assert not calls


@pytest.mark.parametrize("kind", ["eager", "plain"])
def test_other_models_are_left_alone(kind):
    if kind == "plain":
        model = torch.nn.Linear(2, 2)
    else:
        model = tiny_models.llama()
        model.set_attn_implementation("eager")
    with lent_parts(model):
        assert kind == "plain" or model.config._attn_implementation == "eager"


def test_the_model_is_as_it_was_after_an_error():
    model = tiny_models.llama()

    def fail():
        with lent_parts(model):
            assert model.config._attn_implementation == lent.ATTENTION
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert model.config._attn_implementation == "sdpa"


@pytest.fixture
def gelu_calls(monkeypatch):
    """How often the compiled GELU was asked; skips where torch's is as fast."""
    if not activations._faster():
        pytest.skip("no AVX-512, or no compiled module")
    made = []

    def counted(x):
        made.append(x.shape)
        return kernel(x)

    kernel = activations.gelu
    monkeypatch.setattr(activations, "gelu", counted)
    return made


def layout(model):
    """Every path of a module, and the very module that stands there."""
    return {path: id(m) for path, m in model.named_modules(remove_duplicate=False)}


class Shared(torch.nn.Module):
    """One activation in three places, one block in two, and GELUs that are not exact or do more."""

    def __init__(self):
        super().__init__()
        act = torch.nn.GELU()
        self.block = torch.nn.Sequential(torch.nn.Linear(5, 5), act, torch.nn.Linear(5, 5), act)
        self.again, self.act = self.block, act
        self.tanh = torch.nn.GELU(approximate="tanh")
        self.watched = torch.nn.GELU()
        self.seen = []
        self.watched.register_forward_hook(lambda *given: self.seen.append(given[2]))

    def forward(self, x):
        return self.watched(self.tanh(self.act(self.again(self.block(x)))))


@torch.inference_mode()
def test_shared_modules_and_those_left_alone(gelu_calls):
    model, x = Shared(), torch.linspace(-3, 3, 35).view(7, 5)
    before, order = layout(model), list(model.block._modules)
    want = model(x)
    with lent_parts(model):
        assert torch.allclose(model(x), want, rtol=0, atol=1e-6)
        assert len(gelu_calls) == 5
        assert layout(model)["tanh"] == before["tanh"]
    assert len(model.seen) == 2
    assert layout(model) == before
    assert list(model.block._modules) == order
    assert torch.equal(model(x), want)
    assert len(gelu_calls) == 5


@pytest.mark.parametrize("name", ["bert", "distilbert"])
@torch.inference_mode()
def test_the_gelu_of_an_encoder(name, gelu_calls):
    model = encoders.model(name)
    before = layout(model)
    with lent_parts(model):
        model.base_model(input_ids=torch.arange(5, 17).view(2, 6))
    assert len(gelu_calls) == 2  # layers
    assert layout(model) == before


def test_gradients_go_through_torch(gelu_calls):
    model = Shared()
    with lent_parts(model):
        model(torch.ones(2, 5)).sum().backward()
        assert model.block[0].weight.grad.abs().sum() > 0
        with torch.no_grad():
            model.double()(torch.ones(2, 5).double())
    assert not gelu_calls


def test_gelus_are_put_back_after_an_error(gelu_calls):
    model = Shared()
    before = layout(model)

    def fail():
        with lent_parts(model):
            assert layout(model) != before
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert layout(model) == before


def test_nothing_is_lent_where_the_kernel_is_no_faster(monkeypatch):
    monkeypatch.setattr(activations, "_faster", lambda: False)
    model = Shared()
    before = layout(model)
    with lent_parts(model):
        assert layout(model) == before
