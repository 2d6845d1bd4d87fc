"""Gated components, against models whose weights or modules are changed by hand, mask by mask."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from spex_core.values.components import Components
from spex_core.values.gates import find_heads, find_layers, find_mlps

transformers = pytest.importorskip("transformers", reason="needs pip install spex-core[text]")

SMALL = {"vocab_size": 40, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
WIDTH = 24
BERT = {
    "hidden_size": WIDTH,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 20,
}
CONFIGS = {
    "Bert": SMALL | BERT,
    "Roberta": SMALL | BERT,
    "Llama": SMALL | BERT | {"num_attention_heads": 6, "num_key_value_heads": 3},
    "DistilBert": SMALL | {"dim": WIDTH, "n_layers": 2, "n_heads": 3, "hidden_dim": 20},
    "GPT2": SMALL | {"n_embd": WIDTH, "n_layer": 2, "n_head": 3},
    "OPT": SMALL | BERT | {"ffn_dim": 20, "word_embed_proj_dim": WIDTH},
}
PROJECTIONS = {
    "Bert": "encoder.layer.{}.attention.output.dense",
    "Roberta": "encoder.layer.{}.attention.output.dense",
    "Llama": "layers.{}.self_attn.o_proj",
    "DistilBert": "transformer.layer.{}.attention.out_lin",
    "GPT2": "h.{}.attn.c_proj",
    "OPT": "decoder.layers.{}.self_attn.out_proj",
}
LENGTHS = [7, 4, 6]  # of the examples, the shorter ones padded


@pytest.fixture(scope="module", params=list(CONFIGS))
def named(request):
    """(name, model): each kind, tiny, in float64, with weights large enough to matter."""
    name = request.param
    torch.manual_seed(0)
    config = getattr(transformers, f"{name}Config")(**CONFIGS[name])
    model = getattr(transformers, f"{name}Model")(config).double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(8) if parameter.ndim > 1 else parameter.add_(0.1)
    return name, model


def examples():
    ids = torch.randint(3, 40, (3, 7), generator=torch.Generator().manual_seed(1))
    attended = (torch.arange(7) < torch.tensor(LENGTHS)[:, None]).long()
    return {"input_ids": ids * attended, "attention_mask": attended}


def first_token(output, examples):
    return output.last_hidden_state[:, 0, :5]


def total(embeddings):
    """(masks, examples, 5) -> two outputs a mask."""
    return torch.stack([embeddings.sum((1, 2)), embeddings[:, 1, 3] ** 2], 1)


def by_hand(model, change, masks):
    """Values of masks, each by one plain forward of a copy that `change(copy, mask)` changes."""
    values = []
    for mask in masks:
        changed = copy.deepcopy(model)
        with torch.no_grad():
            change(changed, mask)
            values.append(total(first_token(changed(**examples()), None)[None])[0])
    return torch.stack(values).numpy()


def some_masks(n, rows=9):
    masks = np.random.default_rng(n).random((rows, n)) < 0.5
    masks[0], masks[1], masks[-1] = True, False, masks[3]
    return masks


def inputs_seen(model, names):
    """The input of each named module in the whole model, over the positions that are no padding."""
    seen, handles = {}, []
    keep = examples()["attention_mask"].bool()
    for name in names:
        module = model.get_submodule(name)
        handles.append(
            module.register_forward_pre_hook(
                lambda _, args, name=name: seen.update({name: args[0].reshape(3, 7, -1)[keep]})
            )
        )
    with torch.no_grad():
        model(**examples())
    for handle in handles:
        handle.remove()
    return seen


@pytest.mark.parametrize("absent", ["zero", "mean"])
@pytest.mark.parametrize("rescale", [False, True])
def test_heads_equal_changed_projection_weights(named, absent, rescale):
    name, model = named
    heads = model.config.num_attention_heads
    size = WIDTH // heads
    names = [PROJECTIONS[name].format(layer) for layer in range(2)]
    seen = inputs_seen(model, names)

    def change(copied, mask):
        for layer, projection in enumerate(names):
            module = copied.get_submodule(projection)
            weight = module.weight if isinstance(module, nn.Linear) else module.weight.T
            kept = mask[layer * heads : (layer + 1) * heads]
            for head in range(heads):
                columns = slice(head * size, (head + 1) * size)
                if kept[head]:
                    weight[:, columns] *= heads / kept.sum() if rescale else 1
                    continue
                if absent == "mean":
                    constant = weight[:, columns] @ seen[projection].mean(0)[columns]
                    if module.bias is None:
                        module.bias = nn.Parameter(torch.zeros(WIDTH).double())
                    module.bias += constant
                weight[:, columns] = 0

    f = Components(
        *(model, examples(), first_token),
        combine=total,
        absent=absent,
        rescale=rescale,
        tokens=50,
    )
    masks = some_masks(f.n)
    want = by_hand(model, change, masks)
    assert f.features[heads] == "layer 1 head 0"
    assert np.abs(f(masks) - want).max() <= 1e-6
    assert want.std(0).min() > 1e-3


class Identity(nn.Module):
    def forward(self, hidden_states, *_, **__):
        return hidden_states


class Zero(nn.Module):
    def forward(self, hidden_states):
        return torch.zeros(*hidden_states.shape[:-1], WIDTH).double()


def test_layers_equal_a_model_without_them(named):
    name, model = named
    blocks = PROJECTIONS[name].split(".{}")[0]

    def change(copied, mask):
        layers = copied.get_submodule(blocks)
        for layer in np.flatnonzero(~mask):
            layers[layer] = Identity()

    f = Components(model, examples(), first_token, combine=total, components="layers")
    masks = some_masks(2, 5)
    want = by_hand(model, change, masks)
    assert f.features == ("layer 0", "layer 1")
    assert np.abs(f(masks) - want).max() <= 1e-6
    assert want.std(0).min() > 1e-3


MLPS = {
    "Bert": "encoder.layer.{}.output.dense",
    "Roberta": "encoder.layer.{}.output.dense",
    "Llama": "layers.{}.mlp",
    "DistilBert": "transformer.layer.{}.ffn",
    "GPT2": "h.{}.mlp",
    "OPT": "decoder.layers.{}.fc2",
}


def test_mlps_equal_a_model_with_zeros_in_their_place(named):
    name, model = named

    def change(copied, mask):
        for layer in np.flatnonzero(~mask):
            copied.set_submodule(MLPS[name].format(layer), Zero())

    f = Components(model, examples(), first_token, combine=total, components="mlps")
    masks = some_masks(2, 5)
    want = by_hand(model, change, masks)
    assert np.abs(f(masks) - want).max() <= 1e-6
    assert want.std(0).min() > 1e-3


# ---- Any module, any nn.Module -------------------------------------------------------------------


class Net(nn.Module):
    """Images through two convolutions, one of them returning a tuple, and a linear layer."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(3)
        self.first, self.second = nn.Conv2d(2, 3, 3), nn.Conv2d(3, 4, 3)
        self.unused = nn.Linear(2, 2)
        self.drop, self.last = nn.Dropout(0.5), nn.Linear(4 * 4, 3)

    def forward(self, x, scale=1.0):
        x = self.second(self.first(x).relu()).relu()
        return self.last(self.drop(x).flatten(1)) * scale


NAMES = ["first", "second", "last"]
IMAGES = torch.randn(5, 2, 6, 6, generator=torch.Generator().manual_seed(0))
ALL = (np.arange(8)[:, None] >> np.arange(3) & 1).astype(bool)


def second_logit(output, examples):
    return output[:, 1]


@pytest.mark.parametrize("absent", ["zero", "mean"])
@pytest.mark.parametrize("rescale", [False, True])
@pytest.mark.parametrize("tokens", [1, 30, 10**6])
def test_named_modules_equal_one_forward_a_mask(absent, rescale, tokens):
    net = Net().eval()
    options = {"components": NAMES, "absent": absent, "rescale": rescale, "tokens": tokens}
    f = Components(net, IMAGES, second_logit, **options)
    with torch.no_grad():
        first = net.first(IMAGES)
        second = net.second(first.relu())
        means = [
            *(x.mean((0, 2, 3))[:, None, None] for x in (first, second)),
            net(IMAGES).mean(0),
        ]
        want = []
        for mask in ALL:
            scale = 3 / max(1, mask.sum()) if rescale else 1.0

            def gate(x, j, mask=mask, scale=scale):
                other = means[j] if absent == "mean" else 0.0
                return x * scale if mask[j] else torch.zeros_like(x) + other

            x = gate(net.second(gate(net.first(IMAGES), 0).relu()), 1).relu()
            want.append(gate(net.last(x.flatten(1)), 2)[:, 1].mean())
    assert f.features == tuple(NAMES)
    assert np.abs(f(ALL) - torch.stack(want).numpy()).max() <= 1e-6
    assert np.std(want) > 0.01


class Residual(nn.Module):
    """Two layers that add to what they get."""

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.self_attn = nn.ModuleDict({"o_proj": nn.Linear(6, 6)})

        def forward(self, hidden_states):
            return hidden_states + self.self_attn["o_proj"](hidden_states).tanh()

    def __init__(self):
        super().__init__()
        torch.manual_seed(4)
        self.layers = nn.ModuleList([self.Block(), self.Block()])

    def forward(self, x):
        return self.layers[1](hidden_states=self.layers[0](x))


@pytest.mark.parametrize("absent", ["zero", "mean"])
@pytest.mark.parametrize("rescale", [False, True])
def test_layers_by_what_they_add(absent, rescale):
    net = Residual()
    x = torch.randn(3, 4, 6, generator=torch.Generator().manual_seed(0))
    options = {"components": "layers", "absent": absent, "rescale": rescale}
    f = Components(net, x, lambda output, examples: output[:, 1, :2], **options)
    first, second = (layer.self_attn["o_proj"] for layer in net.layers)
    values, want = f(ALL[:4, :2]), []
    with torch.no_grad():
        whole = x + first(x).tanh()
        means = [first(x).tanh().mean((0, 1)), second(whole).tanh().mean((0, 1))]
        for mask in ALL[:4, :2]:
            h = x
            for j, projection in enumerate((first, second)):
                added = projection(h).tanh() * (2 / mask.sum() if rescale and mask[j] else 1)
                other = means[j] if absent == "mean" else torch.zeros(6)
                h = h + (added if mask[j] else other)
            want.append(h[:, 1, :2].mean(0))
    assert np.abs(values - torch.stack(want).numpy()).max() <= 1e-6
    assert values.std(0).min() > 0.01


def test_batches_of_different_length_positional_keyword_and_passed_through():
    net = Net().eval()
    f = Components(
        net,
        [(IMAGES[:2], 2.0), {"x": IMAGES[2:], "scale": 2.0}],
        lambda output, examples: output[:, 1] * (examples + 1),
        components=NAMES,
        combine=lambda scores: scores,
    )
    values = f(ALL)
    with torch.no_grad():
        want = 2 * net(IMAGES)[:, 1] * torch.arange(1, 6)
    assert values.shape == (8, 5)
    assert np.abs(values[-1] - want.numpy()).max() <= 1e-6


def test_the_model_is_left_as_it_was():
    net = Net().train()
    net.first.eval()
    before = copy.deepcopy(net.state_dict())
    f = Components(net, IMAGES, second_logit, components=NAMES)
    values = f(ALL)
    assert np.array_equal(values, f(ALL))  # no dropout
    assert net.training
    assert net.drop.training
    assert not net.first.training
    assert all(torch.equal(before[name], x) for name, x in net.state_dict().items())
    assert all(x.grad is None and x.requires_grad for x in net.parameters())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in net.modules())


def test_hooks_go_and_training_comes_back_when_the_score_fails():
    net = Net().train()

    def fail(output, examples):
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        Components(net, IMAGES, fail, components=NAMES)(ALL)
    with pytest.raises(RuntimeError, match="shape"):  # the model itself fails, in a forward pass
        Components(net, IMAGES[:, :, :5], second_logit, components=NAMES)(ALL)
    assert net.training
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in net.modules())


def test_a_pack_on_one_thread_does_not_see_the_gates_of_another():
    net = Net().eval()
    alone = Components(net, IMAGES, second_logit, components=NAMES)(ALL)
    f = Components(net, IMAGES, second_logit, components=NAMES, threads=3, tokens=1)
    for _ in range(5):
        assert np.abs(f(ALL) - alone).max() <= 1e-6


def test_a_forward_pass_holds_no_more_than_the_budget():
    sizes = []

    class Counted(Net):
        def forward(self, x):
            sizes.append(len(x))
            return super().forward(x)

    masks = np.random.default_rng(0).random((300, 3)) < 0.5
    for tokens, most in ((12, 1), (60, 5), (25 * 12, 25), (10**6, 8 * 5)):  # 12 an image
        sizes.clear()
        Components(Counted(), IMAGES, second_logit, components=NAMES, tokens=tokens)(masks)
        assert max(sizes) == most
        assert sum(sizes) == 8 * 5  # each distinct mask once


# ---- Bad input -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"model": second_logit}, TypeError, "model must be an nn.Module, got function"),
        ({"inputs": 3}, TypeError, "inputs must be a tensor, a tuple, a mapping"),
        ({"inputs": (IMAGES, IMAGES[:2])}, ValueError, r"same first axis, got \[\(5,\), \(2,\)\]"),
        ({"inputs": []}, ValueError, "inputs must hold an example, got none"),
        ({"inputs": IMAGES[:0]}, ValueError, "inputs must hold an example, got none"),
        ({"components": "neurons"}, ValueError, r"components must be one of .*got 'neurons'"),
        ({"components": []}, ValueError, "names must name a module, got none"),
        ({"components": ["last", "last"]}, ValueError, "names must differ"),
        ({"components": ["firs"]}, ValueError, "got 'firs'; close to it: first"),
        ({"components": "heads"}, ValueError, "attention with an output projection.*got Net"),
        ({"absent": "noise"}, ValueError, "absent must be zero or mean, got noise"),
        ({"tokens": 0}, ValueError, "tokens must be an integer >= 1, got 0"),
        ({"threads": 0}, ValueError, "threads must be an integer >= 1, got 0"),
    ],
)
def test_bad_arguments(change, error, message):
    given = {"model": Net(), "inputs": IMAGES, "score": second_logit, "components": NAMES} | change
    with pytest.raises(error, match=message):
        Components(**given)


@pytest.mark.parametrize(
    ("score", "combine", "error", "message"),
    [
        (lambda o, e: o[:2, 1], None, ValueError, r"score must return.*40 rows, got shape \(2,\)"),
        (lambda o, e: o[:, :0], None, ValueError, r"score must return.*got shape \(40, 0\)"),
        (lambda o, e: o[0, 0], None, ValueError, r"score must return.*got shape \(\)"),
        (lambda o, e: "good", None, TypeError, "score must return numbers.*got str"),
        (lambda o, e: o[:, 0].abs() + np.inf, None, ValueError, r"finite.*got inf.*40 of 40 rows"),
        (lambda o, e: o[:, 0] * np.nan, None, ValueError, "must return finite numbers, got nan"),
        (second_logit, lambda s: s[:2].mean(1), ValueError, "combine must return one value"),
        (second_logit, lambda s: s.mean(1) * np.nan, ValueError, "combine.*finite.*nan in row 0"),
        (second_logit, lambda s: s[:, :, None, None], ValueError, "one row of values per mask"),
    ],
)
def test_bad_scores(score, combine, error, message):
    f = Components(Net(), IMAGES - 2, score, combine=combine, components=NAMES)
    with pytest.raises(error, match=message):
        f(ALL)


def test_a_module_that_never_runs_is_refused():
    with pytest.raises(ValueError, match=r"run in a forward pass, unused did not \(1 of 2\)"):
        Components(Net(), IMAGES, second_logit, components=["first", "unused"])(ALL[:, :2])


def test_attention_that_computes_past_its_projection_is_refused():
    class Attention(nn.Module):
        def __init__(self):
            super().__init__()
            self.self_attn = nn.MultiheadAttention(6, 2, batch_first=True)

        def forward(self, x):
            return self.self_attn(x, x, x)[0]

    f = Components(Attention(), torch.randn(2, 3, 6), lambda o, e: o[:, 0, 0], heads=2)
    with pytest.raises(ValueError, match=r"self_attn\.out_proj did not"):
        f(np.ones((1, 2), dtype=bool))


def test_a_module_that_returns_no_tensor_or_flattens_examples_is_refused():
    class Odd(Net):
        def forward(self, x):
            return self.last(super().forward(x).mean(0)[:1].expand(16)[None])

    with pytest.raises(
        ValueError, match=r"last must compute on a batch of 5 rows, got shape \(1, 3"
    ):
        Components(Odd(), IMAGES, second_logit, components=["last"], tokens=60)(ALL[:1, :1])

    class Text(nn.Identity):
        def forward(self, x):
            return "text"

    net = Net()
    net.drop = Text()
    with pytest.raises(TypeError, match=r"drop must return a tensor.*got str"):
        Components(net, IMAGES, second_logit, components=["drop"])(ALL[:, :1])


def test_heads_that_do_not_fit_are_refused(named):
    _, model = named
    with pytest.raises(ValueError, match=f"heads must divide the {WIDTH} inputs of .*, got 7"):
        find_heads(model, 7)
    assert len(find_layers(model)) == len(find_mlps(model)) == 2


def test_heads_without_a_configuration_have_to_be_given():
    net = nn.ModuleDict({"o_proj": nn.Linear(6, 6)})
    with pytest.raises(ValueError, match=r"heads must be given for a model.*got ModuleDict"):
        find_heads(net)
    assert [gate.count for gate in find_heads(net, 3)] == [3]
    with pytest.raises(ValueError, match="model must have numbered layers"):
        find_layers(net)


def test_cross_attention_is_no_self_attention():
    config = transformers.BertConfig(**CONFIGS["Bert"], is_decoder=True, add_cross_attention=True)
    names = [gate.module for gate in find_heads(transformers.BertModel(config))]
    assert names == [PROJECTIONS["Bert"].format(layer) for layer in range(2)]


# ---- The fingerprint -----------------------------------------------------------------------------


def test_the_fingerprint_is_of_all_that_values_depend_on():
    def make(net=None, inputs=IMAGES, score=second_logit, **options):
        return Components(net or Net(), inputs, score, **{"components": NAMES} | options)

    other = Net()
    with torch.no_grad():
        other.last.weight[0, 0] += 1e-6
    fingerprints = [
        f.fingerprint
        for f in (
            make(),
            make(other),
            make(Net().double(), IMAGES.double()),
            make(inputs=IMAGES + 1e-6),
            make(inputs=[IMAGES]),  # the same examples
            make(score=lambda o, e: o[:, 0]),
            make(score=lambda o, e: o[:, 2]),
            make(combine=lambda s: s.sum(1)),
            make(absent="mean"),
            make(rescale=True),
            make(components=NAMES[::-1]),
            make(tokens=3, threads=2),  # the same values
        )
    ]
    assert fingerprints[0] == fingerprints[4] == fingerprints[-1] == make().fingerprint
    assert len(set(fingerprints)) == len(fingerprints) - 2
    assert fingerprints[0].startswith("components-")
