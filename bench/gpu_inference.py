"""The kernels of masked inference on a device, beside their reference in plain torch there."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import gpu_timing as timing
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from spex_core import ops_inference


@dataclass(frozen=True)
class InferenceSizes:
    """Of the problems: masks whose lengths are taken, and their features; masks and tokens that are
    packed; patches and width of an image's embeddings; rows and heads (of 64) of attention; rows,
    width and tokens of a model's last layer; sequences, of up to `tokens` tokens each."""

    masks: int = 1_000_000
    features: int = 1024
    packed: int = 10_000
    tokens: int = 512
    patches: int = 196
    embedded: int = 768
    attended: int = 1_000_000
    heads: int = 12
    rows: int = 10_000
    width: int = 4096
    vocabulary: int = 128_256
    sequences: int = 1000


SMALL = InferenceSizes(99, 70, 9, 33, 10, 40, 60, 3, 7, 130, 300, 6)


@dataclass(frozen=True)
class Problem:
    """A call of an op; options are not tensors. rival: what is timed beside it, if not the
    reference."""

    op: str
    size: str
    arguments: tuple
    options: dict
    rival: Callable[[], object] | None = None

    def solved(self, device: torch.device, backend: str) -> tuple[Tensor, ...]:
        there = (x.to(device) if isinstance(x, Tensor) else x for x in self.arguments)
        found = getattr(ops_inference, self.op)(*there, **self.options, backend=backend)
        return (found,) if isinstance(found, Tensor) else tuple(found)


def problems(sizes: InferenceSizes, device: torch.device) -> list[Problem]:
    """One for each kernel. Numbers are whole, so that sums of them are exact."""

    def words(rows: int, n: int) -> Tensor:
        return torch.randint(-(2**63), 2**63 - 1, (rows, -(-n // 64)), device=device)

    def whole(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.randint(-2, 3, shape, device=device).to(dtype)

    def upto(count: int) -> Tensor:
        return torch.arange(count, device=device)

    s, half = sizes, torch.bfloat16
    packed = words(s.packed, s.tokens), upto(s.tokens), upto(s.tokens), s.tokens
    patches = whole(s.patches, s.embedded), whole(s.embedded), upto(s.patches), s.patches
    sequence = (upto(s.attended) * s.packed // s.attended).int()
    last = whole(s.rows, s.width, dtype=half), upto(s.rows).flip(0)
    vocabulary = whole(s.vocabulary, s.width, dtype=half)
    pack, layer = f"{s.packed} masks, {s.tokens} tokens", f"{s.rows} rows, d={s.width}"
    embed = f"{s.packed} masks, {s.patches} patches, d={s.embedded}"
    lengths = 1 + 37 * upto(s.sequences) % s.tokens
    starts = torch.nn.functional.pad(lengths.cumsum(0), (1, 0))
    rows = int(starts[-1])
    attention = f"{s.sequences} sequences, {rows} tokens, {s.heads} heads of 64"
    return [
        Problem(
            *("mask_lengths", f"{s.masks} masks, n={s.features}"),
            (words(s.masks, s.features), upto(s.features)),
            {"fixed": 2},
        ),
        Problem("pack_tokens", pack, packed, {}),
        Problem("pack_trie", pack, packed, {}),
        Problem("mask_embed", embed, (words(s.packed, s.patches), *patches), {}),
        Problem(
            *("head_scale", f"{s.attended} rows, {s.heads} heads of 64"),
            (whole(s.attended, s.heads, 64), words(s.packed, s.heads), sequence),
            {},
        ),
        *(
            Problem(
                *("packed_attention", f"{attention}, {str(dtype).removeprefix('torch.')}"),
                (*(whole(rows, s.heads, 64, dtype=dtype) for _ in range(3)), starts),
                {},
                functools.partial(padded_attention, lengths, int(lengths.max()), s.heads, dtype),
            )
            for dtype in (torch.float32, half)
        ),
        Problem(
            *("score_last", f"{layer}, 2 scores, bfloat16"),
            (*last, whole(2, s.width, dtype=half)),
            {},
        ),
        Problem(
            *("token_logprobs", f"{layer}, {s.vocabulary} tokens, bfloat16"),
            (*last, vocabulary, upto(s.rows) % s.vocabulary),
            {},
        ),
    ]


def padded_attention(lengths: Tensor, longest: int, heads: int, dtype: torch.dtype) -> Tensor:
    """Torch's own on a batch that is padded already; a launch for its mask beside it."""
    x = _padded_states(len(lengths), heads, longest, dtype, lengths.device)
    there = torch.arange(longest, device=lengths.device) < lengths[:, None]
    return scaled_dot_product_attention(x, x, x, attn_mask=there[:, None, None])


@functools.lru_cache(maxsize=1)
def _padded_states(
    rows: int, heads: int, longest: int, dtype: torch.dtype, device: torch.device
) -> Tensor:
    return torch.randn(rows, heads, longest, 64, device=device).to(dtype)


def inference_rows(
    device: torch.device,
    rate: float,
    seconds: float,
    sizes: InferenceSizes,
    deadline: timing.Deadline,
) -> Iterator[dict]:
    cpu = torch.device("cpu")
    for small, large in zip(problems(SMALL, cpu), problems(sizes, device), strict=True):
        if not deadline.allows(large.op, large.size):
            continue
        expected = small.solved(cpu, "reference")
        moved = nbytes(large.arguments) + nbytes(large.solved(device, "auto"))
        rival = large.rival or functools.partial(large.solved, device, "reference")
        plain = timing.milliseconds(rival, seconds)
        for backend in timing.backends(large.op, device):
            found = small.solved(device, backend)
            ms = timing.milliseconds(functools.partial(large.solved, device, backend), seconds)
            name = {"op": large.op, "size": large.size, "backend": backend}
            figures = {"ms": ms, "floor": moved / rate, "of copy": moved / rate / ms}
            yield name | figures | {"equal": same(found, expected), "over rival": plain / ms}


def nbytes(values: Sequence[object]) -> int:
    """Of the tensors among them: each read or written once."""
    return sum(x.nbytes for x in values if isinstance(x, Tensor))


def same(found: tuple[Tensor, ...], expected: tuple[Tensor, ...]) -> bool:
    """Whole numbers to the bit, as all but what exponentials are summed in are."""
    return all(
        a.dtype == b.dtype
        and torch.allclose(a.cpu(), b, rtol=0, atol=1e-4 if a.element_size() > 2 else 1e-2)
        for a, b in zip(found, expected, strict=True)
    )
