"""Parts of a torch model: what its attention heads, layers, MLPs or named modules contribute.

A mask says which components work. Many masks share one batch: each example is there once for every
mask of the pack, and each row has the gates of its own mask.
"""

from __future__ import annotations

import contextlib
import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from .. import masks as bits
from .. import ops_inference
from ..errors import check, check_int
from ..value_function import ValueFunction
from .answers import check_rows, device_of, evaluation_mode
from .fingerprint import digest
from .gates import Gate, Hooks, find_heads, find_layers, find_mlps, find_modules
from .lent import lent_parts

Score = Callable[[Any, Tensor], Tensor]
FINDERS = {"heads": find_heads, "layers": find_layers, "mlps": find_mlps}


class Components(ValueFunction):
    """f(m) = the score of a model in which only the components of m work, over given examples.

    Absent heads, MLPs and modules give 0 in place of their output, and an absent layer passes on
    what it gets. With `absent="mean"` they give what they give on average, over all examples and
    positions, in the whole model: a head or module its mean output (along the last axis, or along
    axis 1 of four), a layer its mean change.

    Args:
        model: any nn.Module whose components compute on batches: first axis examples. Its weights
            are left alone, and it runs in evaluation mode without gradients.
        inputs: the examples: a tensor, a tuple of tensors for positional or a mapping for keyword
            arguments, each tensor with the same first axis; what is no tensor is passed on as it
            is. Or a list of such batches, for examples that differ in length.
        score: (output of the model, example of each of its rows int64 (rows,)) -> (rows, ...):
            what to keep of each row. Examples are numbered from 0 in the order of `inputs`.
        combine: what was kept, (masks, examples, ...) -> (masks,) or (masks, q); by default the
            mean over the examples.
        components: "heads", "layers" or "mlps" of a transformers model, or a list of names of
            modules (as in `model.named_modules()`).
        absent: "zero" or "mean".
        rescale: multiply what is kept by the share that it is of all: heads by heads over kept
            heads of their layer, others by components over kept components.
        heads: of one layer, for a model whose configuration does not say.
        tokens: the budget of a forward pass, masks times tokens of an example (for inputs that are
            not whole numbers: elements over the last axis); by default what a CPU's caches like,
            2,048, and 65,536 on a GPU.
        threads: forward passes at a time, each on one torch thread.
    Raises:   ValueError for a module that the model does not have, or that does not run; heads that
              do not divide the projection's inputs; no example; a score of the wrong shape or NaN.
    Accuracy: one forward pass for each mask, to the rounding of batched products: 1e-6 in float32.
    Cost:     a forward pass over all examples for each mask; what memory a pack of `tokens` needs.
    Example:  config = transformers.BertConfig(num_hidden_layers=2)
              model = transformers.BertForSequenceClassification(config)
              f = Components(model, {"input_ids": torch.randint(0, 999, (4, 7))},
                             lambda output, examples: output.logits[:, 1] - output.logits[:, 0])
              spex_core.proxyspex(f, features=f.features, budget=1000)
    """

    order = "any"

    def __init__(
        self,
        model: torch.nn.Module,
        inputs: Any,
        score: Score,
        *,
        combine: Callable[[Tensor], Tensor] | None = None,
        components: str | Sequence[str] = "heads",
        absent: Literal["zero", "mean"] = "zero",
        rescale: bool = False,
        heads: int | None = None,
        tokens: int | None = None,
        threads: int = 1,
    ):
        if not isinstance(model, torch.nn.Module):
            raise TypeError(f"Components: model must be an nn.Module, got {type(model).__name__}")
        check(absent in ("zero", "mean"), "Components: absent must be zero or mean, got {}", absent)
        self.model, self.score, self.combine = model, score, combine
        self.gates = _find(model, components, heads)
        self.features = tuple(name for gate in self.gates for name in gate.names)
        self.absent, self.rescale = absent, rescale
        if tokens is None:
            tokens = 1 << 11 if device_of(model).type == "cpu" else 1 << 16
        tokens = check_int("Components: tokens", tokens, 1)
        self.threads = check_int("Components: threads", threads, 1)
        self._batches = _batches(inputs, device_of(model))
        sizes = [batch.rows * batch.positions for batch in self._batches]
        self._passes = sum(sizes) / max(sizes)  # of a pack, whose largest batch is to fill one
        self.tokens = int(tokens * self._passes)
        self._hooks: Any = None  # Hooks, while an evaluation lasts
        self._means: dict[Gate, Tensor] | None = None  # of the first evaluation

    @property
    def device(self) -> torch.device:
        return device_of(self.model)

    @property
    def fingerprint(self) -> str:
        """Model, inputs, gates, masking, score and combine; hashes the model's weights."""
        inputs = [(batch.args, batch.kwargs) for batch in self._batches]
        gates = [(gate.module, gate.kind, gate.names) for gate in self.gates]
        how = gates, self.absent, self.rescale, self.score, self.combine
        return "components-" + digest(self.model, inputs, how)

    def cost(self, masks: Tensor) -> np.ndarray:
        return np.full(len(masks), sum(b.rows * b.positions for b in self._batches), np.int64)

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        with (
            evaluation_mode(self.model),
            lent_parts(self.model),
            Hooks(self.model, self.gates) as self._hooks,
        ):
            if self.absent == "mean" and self._means is None:
                self._means = self._averages()
            yield

    @torch.inference_mode()
    def run(self, masks: Tensor) -> Tensor:
        kept, examples = [], 0
        for batch in self._batches:
            most = max(1, int(self.tokens / self._passes) // (len(masks) * batch.positions))
            for part in batch.parts(most):
                change = _Switch(self, masks, part.rows)
                with self._hooks.doing(change):
                    args, kwargs = part.repeated(len(masks))
                    output = self.model(*args, **kwargs)
                number = torch.arange(examples, examples + part.rows, device=change.keep.device)
                score = self.score(output, number.repeat(len(masks)))
                rows = check_rows("Components: score", score, len(masks) * part.rows)
                kept.append(rows.reshape(len(masks), part.rows, *rows.shape[1:]))
                examples += part.rows
        values = torch.cat(kept, 1)  # (masks, examples, ...)
        values = values.double().mean(1) if self.combine is None else self.combine(values)
        return check_rows("Components: combine", values, len(masks))

    @torch.inference_mode()
    def _averages(self) -> dict[Gate, Tensor]:
        """What each gate's components give on average: (H, D), (D,), or a layer's change (D,)."""
        means = _Means()
        for batch in self._batches:
            for part in batch.parts(max(1, self.tokens // batch.positions)):
                means.attended = part.kwargs.get("attention_mask")
                with self._hooks.doing(means):
                    self.model(*part.args, **part.kwargs)
        return {gate: total / means.count[gate] for gate, total in means.total.items()}


def _find(model: torch.nn.Module, components: str | Sequence[str], heads: int | None) -> list[Gate]:
    if not isinstance(components, str):
        return find_modules(model, components)
    check(
        components in FINDERS,
        "Components: components must be one of {} or a list of module names, got {!r}",
        *(list(FINDERS), components),
    )
    return find_heads(model, heads) if components == "heads" else FINDERS[components](model)


# ---- What an absent component gives --------------------------------------------------------------


class _Switch:
    """The gates of the rows of a pack, `examples` rows a mask, for `Hooks`."""

    def __init__(self, f: Components, masks: Tensor, examples: int):
        self.masks = masks.to(f.device)
        self.keep = bits.unpack_there(self.masks, f.n)  # (masks, n)
        self.means = f._means
        self.examples, self.rescale = examples, f.rescale

    def __call__(self, gate: Gate, value: Tensor, came: Tensor | None) -> Tensor:
        keep = self.keep[:, gate.first : gate.first + gate.count]  # (masks, count)
        among = keep if gate.kind == "heads" else self.keep
        scale = among.shape[1] / among.sum(1).clamp(min=1) if self.rescale else None  # (masks,)
        mean = None if self.means is None else self.means[gate].to(value.dtype)
        row = self._mask_of_row(gate, value)
        if gate.kind == "heads":
            heads = value.reshape(-1, gate.count, value.shape[-1] // gate.count)  # (N, H, D)
            row = row.repeat_interleave(len(heads) // len(row))
            scaled = ops_inference.head_scale(
                *(heads, self.masks, row), first=gate.first, mean=mean, scale=scale
            )
            return scaled.view(value.shape)
        scale = None if scale is None else scale[row].to(value.dtype)
        return _switched(value, came, keep[row], scale, mean)

    def _mask_of_row(self, gate: Gate, value: Tensor) -> Tensor:
        """The mask of each row of an activation, int64 (rows,)."""
        rows = len(self.keep) * self.examples
        check(
            value.ndim >= 2 and len(value) % rows == 0,
            "components: {} must compute on a batch of {} rows, got shape {}",
            *(gate.module, rows, tuple(value.shape)),
        )
        each = self.examples * (len(value) // rows)
        return torch.arange(len(self.keep), device=value.device).repeat_interleave(each)


def _switched(
    value: Tensor, came: Tensor | None, keep: Tensor, scale: Tensor | None, mean: Tensor | None
) -> Tensor:
    """Outputs (rows, ...) of a module, or of a layer that `came` went into, by gates (rows, 1)."""
    ones = (1,) * (value.ndim - 1)
    absent = torch.zeros_like(value) if came is None else came
    if mean is not None:
        absent = absent + (mean.view(-1, 1, 1) if value.ndim == 4 else mean)
    if scale is not None:
        factor = scale.view(-1, *ones)
        value = value * factor if came is None else came + (value - came) * factor
    return torch.where(keep.view(-1, *ones), value, absent)


class _Means:
    """Sums and counts of what the components of each gate give, for `Hooks`."""

    def __init__(self) -> None:
        self.total: dict[Gate, Tensor] = {}
        self.count: dict[Gate, int] = {}
        self.attended: Tensor | None = None  # which positions of the batch are no padding

    def __call__(self, gate: Gate, value: Tensor, came: Tensor | None) -> Tensor:
        given = value if came is None else value - came
        if gate.kind == "heads":
            given = given.unflatten(-1, (gate.count, -1)).flatten(0, -3)
        else:
            given = (given.movedim(1, -1) if given.ndim == 4 else given).flatten(0, -2)
        if self.attended is not None and self.attended.numel() == len(given):
            given = given[self.attended.reshape(-1).bool()]
        self.total[gate] = self.total.get(gate, 0) + given.double().sum(0)
        self.count[gate] = self.count.get(gate, 0) + len(given)
        return value


# ---- Examples ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Batch:
    """Examples that go through the model together."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    rows: int

    @property
    def positions(self) -> int:
        """Tokens of one example; of a floating point one, elements over the last axis."""
        first = next(x for x in (*self.args, *self.kwargs.values()) if isinstance(x, Tensor))
        per_row = first[0].numel()
        return max(1, per_row // first.shape[-1] if first.is_floating_point() else per_row)

    def map(self, change: Callable[[Tensor], Tensor], rows: int) -> _Batch:
        args, kwargs = (
            [change(x) if isinstance(x, Tensor) else x for x in values]
            for values in (self.args, self.kwargs.values())
        )
        return _Batch(tuple(args), dict(zip(self.kwargs, kwargs, strict=True)), rows)

    def parts(self, most: int) -> Iterator[_Batch]:
        """The examples, at most `most` at a time."""
        for start in range(0, self.rows, most):
            stop = min(start + most, self.rows)
            yield self.map(operator.itemgetter(slice(start, stop)), stop - start)

    def repeated(self, times: int) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Arguments with every example once for each of `times` masks, mask by mask."""
        many = self.map(lambda x: x.repeat(times, *[1] * (x.ndim - 1)), times * self.rows)
        return many.args, many.kwargs


def _batches(inputs: Any, device: torch.device) -> list[_Batch]:
    """What a user gives as examples, as batches on the model's device; or an error."""
    batches = []
    for part in inputs if isinstance(inputs, list) else [inputs]:
        if isinstance(part, Tensor):
            part = (part,)
        if not isinstance(part, tuple | Mapping):
            raise TypeError(
                "Components: inputs must be a tensor, a tuple, a mapping or a list of them, got "
                f"{type(part).__name__}"
            )
        args = part if isinstance(part, tuple) else ()
        kwargs = {} if isinstance(part, tuple) else dict(part)
        first = [x.shape[:1] for x in (*args, *kwargs.values()) if isinstance(x, Tensor)]
        check(
            bool(first) and len(set(first)) == 1 and len(first[0]) == 1,
            "Components: inputs must be tensors with the same first axis, got {}",
            [tuple(shape) for shape in first],
        )
        batches.append(_Batch(args, kwargs, first[0][0]).map(lambda x: x.to(device), first[0][0]))
    rows = sum(batch.rows for batch in batches)
    check(rows > 0, "Components: inputs must hold an example, got none")
    return batches
