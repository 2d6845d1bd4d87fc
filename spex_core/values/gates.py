"""Where in a torch model a component can be switched off, and the hooks that do so, for every row
of a batch by a mask of its own.

A head is switched before the attention's output projection, whose input holds one slice a query
head (so models whose query heads share keys need nothing special). An MLP or any other module is
switched at its output, a layer by passing on what came in.
"""

from __future__ import annotations

import contextlib
import difflib
import re
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor, nn

from ..errors import check, check_int

Kind = Literal["heads", "layer", "output"]


@dataclass(frozen=True)
class Gate:
    """Components first .. first + count - 1, all switched at one module of the model."""

    module: str  # its name in the model
    kind: Kind
    first: int
    names: tuple[str, ...]

    @property
    def count(self) -> int:
        return len(self.names)


# ---- Where: the modules of a model ---------------------------------------------------------------

# The output projection of self-attention, in the names of transformers: BERT and its kin; Llama,
# Mistral, Qwen, ViT; GPT-2; DistilBERT; OPT, BART, CLIP; GPT-NeoX, Falcon, BLOOM, Phi; MPNet; T5.
PROJECTION = re.compile(
    r"(.*\.)?(attention\.output\.dense|o_proj|attn\.c_proj|attention\.out_lin|"
    r"(self_attn|attn)\.out_proj|(self_attention|self_attn|attention)\.dense|"
    r"attention\.attn\.o|SelfAttention\.o)"
)
BLOCK = re.compile(r"((?:[^.]+\.)*?\d+)\..*")  # a module in a numbered block: the block's name
MLP = re.compile(r"output\.dense|(.*\.)?(mlp|ffn|DenseReluDense)|fc2")  # its name in the block


def find_heads(model: nn.Module, heads: int | None = None) -> list[Gate]:
    """The attention heads of a transformers model, layer by layer.

    Args:   heads: query heads of a layer; by default what the model's configuration says.
    Raises: ValueError where no output projection is found, no number of heads is known, or a
            projection's input does not split into that many heads.
    """
    found = _projections(model)
    if heads is None:
        heads = getattr(getattr(model, "config", None), "num_attention_heads", None)
        check(
            isinstance(heads, int),
            "find_heads: heads must be given for a model whose configuration has no "
            "num_attention_heads, got {}",
            type(model).__name__,
        )
    heads = check_int("find_heads: heads", heads, 1)
    gates = []
    for layer, name in enumerate(found):
        width = _width(model.get_submodule(name))
        check(
            width % heads == 0,
            "find_heads: heads must divide the {} inputs of {}, got {}",
            *(width, name, heads),
        )
        names = tuple(f"layer {layer} head {head}" for head in range(heads))
        gates.append(Gate(name, "heads", layer * heads, names))
    return gates


def find_layers(model: nn.Module) -> list[Gate]:
    """The layers of a transformers model: the numbered blocks that have attention in them."""
    blocks = [match.group(1) for name in _projections(model) if (match := BLOCK.fullmatch(name))]
    check(bool(blocks), "find_layers: model must have numbered layers, got {}", _kind(model))
    return [
        Gate(name, "layer", layer, (f"layer {layer}",))
        for layer, name in enumerate(dict.fromkeys(blocks))
    ]


def find_mlps(model: nn.Module) -> list[Gate]:
    """The MLP of each layer of a transformers model: what the layer adds to its residual stream."""
    gates = []
    for layer in find_layers(model):
        inside = (name for name, _ in model.get_submodule(layer.module).named_modules())
        mlps = [name for name in inside if MLP.fullmatch(name)]
        check(bool(mlps), "find_mlps: layer {} must have an MLP, got none", layer.module)
        name = f"{layer.module}.{mlps[0]}"
        gates.append(Gate(name, "output", layer.first, (f"layer {layer.first} mlp",)))
    return gates


def find_modules(model: nn.Module, names: Sequence[str]) -> list[Gate]:
    """Modules by their names in `model.named_modules()`, switched at their outputs.

    Raises: ValueError for a name that the model does not have, with the closest that it has.
    """
    known = {name for name, _ in model.named_modules() if name}
    check(len(names) > 0, "find_modules: names must name a module, got none")
    check(len(set(names)) == len(names), "find_modules: names must differ, got {}", list(names))
    for name in names:
        close = difflib.get_close_matches(str(name), known, n=3) if name not in known else ()
        check(
            name in known,
            "find_modules: names must be modules of the model, got {!r}; close to it: {}",
            *(name, ", ".join(close) or "none"),
        )
    return [Gate(name, "output", j, (name,)) for j, name in enumerate(names)]


def _projections(model: nn.Module) -> list[str]:
    found = [name for name, _ in model.named_modules() if PROJECTION.fullmatch(name)]
    check(
        bool(found),
        "components: model must have attention with an output projection of a known name, got {}; "
        "name its modules instead",
        _kind(model),
    )
    return found


def _width(projection: nn.Module) -> int:
    """Inputs of a linear layer, torch's (out, in) or GPT-2's Conv1D (in, out)."""
    axis = 1 if isinstance(projection, nn.Linear) else 0
    return projection.weight.shape[axis]


def _kind(model: nn.Module) -> str:
    return type(model).__name__


# ---- How: hooks ----------------------------------------------------------------------------------

# What a hook does to the activation of a gate; a layer's comes with what came into the layer.
Change = Callable[[Gate, Tensor, "Tensor | None"], Tensor]


_hooking = threading.RLock()  # hooks belong to a model, which others may share: one user at a time


class Hooks:
    """Hooks at the gates of a model while the `with` block lasts; what they do is for each thread
    to say, with `doing`, since packs run on several threads and share the model.

    The activation of heads is the projection's input (..., H D), else the module's output.
    """

    def __init__(self, model: nn.Module, gates: Sequence[Gate]):
        self.model, self.gates = model, gates
        self._thread = threading.local()
        self._handles: list[Any] = []

    def __enter__(self) -> Hooks:
        _hooking.acquire()
        for gate in self.gates:
            module = self.model.get_submodule(gate.module)
            self._handles.append(
                module.register_forward_pre_hook(self._before(gate))
                if gate.kind == "heads"
                else module.register_forward_hook(self._after(gate), with_kwargs=True)
            )
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        _hooking.release()

    @contextlib.contextmanager
    def doing(self, change: Change) -> Iterator[None]:
        """Every gate's activation goes through `change` in the forward passes of this thread.

        Raises: ValueError on leaving where a gate's module never ran: torch's own attention layers
                compute past their modules.
        """
        self._thread.change, self._thread.ran = change, set()
        try:
            yield
        finally:
            del self._thread.change
        missed = [gate.module for gate in self.gates if gate.module not in self._thread.ran]
        check(
            not missed,
            "components: every module must run in a forward pass, {} did not ({} of {})",
            *("".join(missed[:1]), len(missed), len(self.gates)),
        )

    def _changed(self, gate: Gate, value: Tensor, came: Tensor | None = None) -> Tensor:
        if not hasattr(self._thread, "change"):
            return value
        self._thread.ran.add(gate.module)
        return self._thread.change(gate, value, came)

    def _before(self, gate: Gate) -> Callable[..., Any]:
        return lambda _, args: (self._changed(gate, args[0]), *args[1:])

    def _after(self, gate: Gate) -> Callable[..., Any]:
        def hook(_: Any, args: Any, kwargs: Any, output: Any) -> Any:
            came = None
            if gate.kind == "layer":
                came = args[0] if args else kwargs["hidden_states"]
            value = self._changed(gate, _first(gate, output), came)
            return (value, *output[1:]) if isinstance(output, tuple) else value

        return hook


def _first(gate: Gate, output: object) -> Tensor:
    value = output[0] if isinstance(output, tuple) and output else output
    if not isinstance(value, Tensor):
        raise TypeError(
            f"components: {gate.module} must return a tensor, or a tuple that begins with one, got "
            f"{type(output).__name__}"
        )
    return value
