"""The one adaptor to the compiled kernels: tensors in, addresses and sizes down, tensors out.

Arguments are checked in ops.py. Threads: as many as `torch.get_num_threads()` says, so a caller
limits these kernels with the `torch.set_num_threads` it already uses. `isa` names an instruction
set of csrc/isa.h for tests and benches; the default is the best this CPU has. Inputs are never
changed.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from . import _cpu  # type: ignore[attr-defined]
from .codes import BchCode
from .reference_inference import offsets

ISAS = {"portable": 0, "avx2": 1, "avx512": 2, "gfni": 3}


def best_isa() -> str:
    """The best instruction set of csrc/isa.h on this CPU."""
    return list(ISAS)[_cpu.best_isa()]


def _how(isa: str | None) -> tuple[int, int]:
    return -1 if isa is None else ISAS[isa], torch.get_num_threads()


def fwht_cpu(x: Tensor, *, out: Tensor | None = None, isa: str | None = None) -> Tensor:
    """out may be x itself (in place) or any contiguous tensor of its shape and dtype."""
    if x.dtype not in (torch.float32, torch.float64):  # float16, bfloat16: sums in float32
        return fwht_cpu(x.float(), isa=isa).to(x.dtype)
    x = x.contiguous()
    out = torch.empty_like(x) if out is None else out
    width = x.shape[-1]
    call = _cpu.fwht_f32 if x.dtype == torch.float32 else _cpu.fwht_f64
    call(x.data_ptr(), out.data_ptr(), x.numel() // width, width.bit_length() - 1, *_how(isa))
    return out


def affine_masks_cpu(columns: Tensor, offsets: Tensor, *, isa: str | None = None) -> Tensor:
    columns, offsets = columns.contiguous(), offsets.contiguous()
    (b, width), shifts = columns.shape, len(offsets)
    out = torch.empty(shifts, 1 << b, width, dtype=torch.int64)
    _cpu.affine_masks(
        columns.data_ptr(), offsets.data_ptr(), b, shifts, width, out.data_ptr(), *_how(isa)
    )
    return out


def uniform_masks_cpu(
    rows: int, n: int, *, seed: int, stream: int, start: int, isa: str | None = None
) -> Tensor:
    out = torch.empty(rows, -(-n // 64), dtype=torch.int64)
    _cpu.uniform_masks(seed, stream, start, rows, n, out.data_ptr(), *_how(isa))
    return out


def parity_bits_cpu(masks: Tensor, support: Tensor, *, isa: str | None = None) -> Tensor:
    masks, support = masks.contiguous(), support.contiguous()
    (samples, width), terms = masks.shape, len(support)
    out = torch.empty(terms, -(-samples // 64), dtype=torch.int64)
    _cpu.parity_bits(
        masks.data_ptr(), support.data_ptr(), samples, terms, width, out.data_ptr(), *_how(isa)
    )
    return out


def parity_predict_cpu(
    masks: Tensor, support: Tensor, coefs: Tensor, *, isa: str | None = None
) -> Tensor:
    masks, support, coefs = masks.contiguous(), support.contiguous(), coefs.contiguous()
    (samples, width), terms = masks.shape, len(support)
    out = torch.empty(samples, dtype=torch.float64)
    where = masks.data_ptr(), support.data_ptr(), coefs.data_ptr()
    _cpu.parity_predict(*where, samples, terms, width, out.data_ptr(), *_how(isa))
    return out


def parity_adjoint_cpu(
    masks: Tensor, support: Tensor, values: Tensor, *, isa: str | None = None
) -> Tensor:
    masks, support, values = masks.contiguous(), support.contiguous(), values.contiguous()
    (samples, width), terms = masks.shape, len(support)
    out = torch.empty(terms, dtype=torch.float64)
    where = masks.data_ptr(), support.data_ptr(), values.data_ptr()
    _cpu.parity_adjoint(*where, samples, terms, width, out.data_ptr(), *_how(isa))
    return out


def parity_gram_cpu(columns: Tensor, samples: int, *, isa: str | None = None) -> Tensor:
    columns = columns.contiguous()
    terms = len(columns)
    out = torch.empty(terms, terms, dtype=torch.float64)
    _cpu.parity_gram(columns.data_ptr(), terms, samples, out.data_ptr(), *_how(isa))
    return out


def anova_kernel_cpu(
    masks: Tensor,
    others: Tensor,
    relevances: Tensor,
    variances: Tensor,
    bias: float = 0.0,
    *,
    isa: str | None = None,
) -> Tensor:
    inputs = _contiguous(masks, others, relevances, variances)
    out = torch.empty(len(masks), len(others), dtype=torch.float64)
    _cpu.anova_kernel(_anova(bias, *inputs), out.data_ptr(), *_how(isa))
    return out


def anova_kernel_grad_cpu(
    masks: Tensor,
    others: Tensor,
    relevances: Tensor,
    variances: Tensor,
    weights: Tensor,
    bias: float = 0.0,
    *,
    isa: str | None = None,
) -> tuple[Tensor, Tensor]:
    *inputs, weights = _contiguous(masks, others, relevances, variances, weights)
    out = torch.empty_like(inputs[2]), torch.empty_like(inputs[3])
    where = weights.data_ptr(), *(part.data_ptr() for part in out)
    _cpu.anova_kernel_grad(_anova(bias, *inputs), *where, *_how(isa))
    return out


def anova_cross_cpu(
    masks: Tensor,
    support: Tensor,
    relevances: Tensor,
    variances: Tensor,
    bias: float,
    *,
    isa: str | None = None,
) -> Tensor:
    inputs = _contiguous(support, masks, relevances, variances)
    out = torch.empty(len(support), len(masks), dtype=torch.float64)
    _cpu.anova_cross(_anova(bias, *inputs), out.data_ptr(), *_how(isa))
    return out


def _contiguous(masks: Tensor, others: Tensor, *rest: Tensor) -> list[Tensor]:
    """One tensor stays one: the kernel then does half of the work."""
    first = masks.contiguous()
    return [first, first if others is masks else others.contiguous()] + [
        x.contiguous() for x in rest
    ]


def _anova(
    bias: float, masks: Tensor, others: Tensor, relevances: Tensor, variances: Tensor
) -> _cpu.AnovaKernel:
    """The compiled view of the kernel; the tensors must outlive it."""
    shape = len(masks), len(others), masks.shape[1], len(relevances)
    parameters = relevances.data_ptr(), variances.data_ptr(), len(variances) - 1, bias
    return _cpu.AnovaKernel(masks.data_ptr(), others.data_ptr(), *shape, *parameters)


def _code(code: BchCode, columns: Tensor) -> _cpu.BchCode:
    """The compiled view of `code`, with `columns` for its delays; both must outlive it."""
    tables = (code.exp, code.log, code.syndromes, columns)
    addresses = (table.data_ptr() for table in tables)
    return _cpu.BchCode(code.m, code.t, code.parities, code.n, *addresses, columns.shape[1])


def bch_decode_cpu(readings: Tensor, code: BchCode, chase: int) -> tuple[Tensor, Tensor]:
    readings = readings.contiguous()
    rows = len(readings)
    features = torch.empty(rows, code.t, dtype=torch.int32)
    counts = torch.empty(rows, dtype=torch.int32)
    view = _code(code, code.columns)
    where = features.data_ptr(), counts.data_ptr()
    _cpu.bch_decode(view, readings.data_ptr(), rows, chase, *where, torch.get_num_threads())
    return features, counts


def peel_many_cpu(
    bins: Tensor,
    code: BchCode,
    columns: Tensor,
    hashes: Tensor,
    degree: int,
    floors: list[float],
    chase: int,
    *,
    isa: str | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    bins, columns, hashes = bins.contiguous(), columns.contiguous(), hashes.contiguous()
    outputs, groups, shifts, width = bins.shape
    most = groups * width * max(1, shifts // 4)  # capacity() of csrc/peel.h
    features = torch.empty(outputs, most, code.t, dtype=torch.int32)
    coefs = torch.empty(outputs, most, dtype=torch.float64)
    counts = torch.empty(outputs, dtype=torch.int64)
    rounding = torch.tensor(floors, dtype=torch.float64)
    _cpu.peel_many(
        *(_code(code, columns), groups, shifts, width.bit_length() - 1),
        *(hashes.data_ptr(), bins.data_ptr(), degree, outputs, rounding.data_ptr(), chase),
        *(features.data_ptr(), coefs.data_ptr(), counts.data_ptr(), *_how(isa)),
    )
    features, coefs = (
        torch.cat([own[:count] for own, count in zip(x, counts.tolist(), strict=True)])
        for x in (features, coefs)
    )
    return features, coefs, counts


def tree_fourier_cpu(
    roots: Tensor,
    feature: Tensor,
    absent: Tensor,
    present: Tensor,
    value: Tensor,
    n: int,
    group: Tensor | None,
    groups: int,
    limit: int | None,
) -> tuple[Tensor, Tensor]:
    arrays = [x.contiguous() for x in (roots, feature, absent, present, value)]
    columns = torch.zeros_like(roots) if group is None else group.contiguous()
    roots_at, *nodes_at = (x.data_ptr() for x in arrays)
    how = -1 if limit is None else limit, torch.get_num_threads()
    where = roots_at, len(roots), *nodes_at, n, columns.data_ptr(), groups
    spectrum = _cpu.tree_fourier(*where, *how)
    support = torch.empty(spectrum.size(), -(-n // 64), dtype=torch.int64)
    coefs = torch.empty(spectrum.size(), groups, dtype=torch.float64)
    spectrum.write(support.data_ptr(), coefs.data_ptr(), torch.get_num_threads())
    return support, coefs


def superset_sums_cpu(support: Tensor, coefs: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    support, coefs, weights = support.contiguous(), coefs.contiguous(), weights.contiguous()
    where = support.data_ptr(), coefs.data_ptr(), *support.shape, weights.data_ptr()
    found = _cpu.SupersetSums(*where, *weights.shape)
    sets = torch.empty(found.size(), len(weights), dtype=torch.int32)
    sums = torch.empty(found.size(), dtype=torch.float64)
    found.write(sets.data_ptr(), sums.data_ptr())
    return sets, sums


def boost_cpu(
    masks: Tensor,
    values: Tensor,
    n: int,
    bags: Tensor,
    watch: Tensor,
    settings: list[tuple],
    stages: list[int],
    seed: int,
    *,
    isa: str | None = None,
) -> tuple[Tensor, ...]:
    """The fields of ops.Boosted; values, bags and settings have a row for each of J fits."""
    samples, rows = len(masks), len(masks) + len(watch)
    masks = torch.cat([masks, watch]) if len(watch) else masks.contiguous()
    values = values.contiguous()
    bags = torch.nn.functional.pad(bags, (0, -(-rows // 64) - bags.shape[1])).contiguous()
    at = torch.tensor(stages, dtype=torch.int32)
    staged = torch.empty(len(settings), len(stages), rows, dtype=torch.float64)
    forests = _cpu.boost(
        *(masks.data_ptr(), samples, rows, n, at.data_ptr(), len(stages), seed),
        [_cpu.BoostSettings(*fit) for fit in settings],
        *([row.data_ptr() for row in values], [row.data_ptr() for row in bags]),
        *(staged.data_ptr(), *_how(isa)),
    )
    trees = sum(forest.trees for forest in forests)
    nodes = sum(forest.nodes for forest in forests)
    roots, group = (torch.empty(trees, dtype=torch.int32) for _ in range(2))
    links = [torch.empty(nodes, dtype=torch.int32) for _ in range(3)]
    value = torch.empty(nodes, dtype=torch.float64)
    tree = node = 0
    for j, forest in enumerate(forests):
        into = roots[tree:], *(x[node:] for x in (*links, value))
        forest.copy(node, *(x.data_ptr() for x in into))
        group[tree : tree + forest.trees] = j
        tree, node = tree + forest.trees, node + forest.nodes
    bias = torch.tensor([forest.bias for forest in forests], dtype=torch.float64)
    return roots, group, *links, value, bias, staged


def mask_lengths_cpu(masks: Tensor, lengths: Tensor, fixed: int) -> Tensor:
    masks, lengths = masks.contiguous(), lengths.contiguous()
    out = torch.empty(len(masks), dtype=torch.int64)
    where = masks.data_ptr(), lengths.data_ptr()
    _cpu.mask_lengths(
        *where, len(masks), len(lengths), fixed, out.data_ptr(), torch.get_num_threads()
    )
    return out


def pack_tokens_cpu(
    masks: Tensor, ids: Tensor, owner: Tensor, n: int, original_positions: bool
) -> tuple[Tensor, ...]:
    """The fields of ops_inference.PackedTokens."""
    masks, ids, owner = masks.contiguous(), ids.contiguous(), owner.contiguous()
    counts = torch.bincount(owner, minlength=n + 1)
    starts = offsets(mask_lengths_cpu(masks, counts[:n], int(counts[n])))
    input_ids, position_ids = torch.empty(2, int(starts[-1]), dtype=torch.int64)
    sequence = torch.empty(len(input_ids), dtype=torch.int32)
    _cpu.pack_tokens(
        *(_cpu.TokenLayout(ids.data_ptr(), owner.data_ptr(), len(ids), n), masks.data_ptr()),
        *(len(masks), starts.data_ptr(), original_positions, input_ids.data_ptr()),
        *(position_ids.data_ptr(), sequence.data_ptr(), torch.get_num_threads()),
    )
    return input_ids, position_ids, sequence, starts


def pack_trie_cpu(
    masks: Tensor, ids: Tensor, owner: Tensor, n: int, original_positions: bool
) -> tuple[Tensor, ...]:
    """The fields of ops_inference.PackedTrie."""
    masks, ids, owner = masks.contiguous(), ids.contiguous(), owner.contiguous()
    layout = _cpu.TokenLayout(ids.data_ptr(), owner.data_ptr(), len(ids), n)
    where, threads = (layout, masks.data_ptr(), len(masks)), torch.get_num_threads()
    first, shared, added, last = (torch.empty(len(masks), dtype=torch.int64) for _ in range(4))
    _cpu.trie_prefixes(*where, first.data_ptr(), shared.data_ptr(), added.data_ptr(), threads)
    starts = offsets(added)
    input_ids, position_ids, subtree_end = torch.empty(3, int(starts[-1]), dtype=torch.int64)
    _cpu.pack_trie(
        *(*where, first.data_ptr(), shared.data_ptr(), starts.data_ptr(), original_positions),
        *(input_ids.data_ptr(), position_ids.data_ptr(), subtree_end.data_ptr()),
        *(last.data_ptr(), threads),
    )
    return input_ids, position_ids, subtree_end, last, starts, shared


def packed_attention_cpu(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    starts: Tensor,
    causal: bool,
    scale: float,
    *,
    isa: str | None = None,
) -> Tensor:
    if query.dtype == torch.float16:  # which the kernel lacks
        query, key, value = (x.float() for x in (query, key, value))
        return packed_attention_cpu(query, key, value, starts, causal, scale, isa=isa).half()
    given = [x if x.stride(2) == 1 else x.contiguous() for x in (query, key, value)]
    starts = starts.long().contiguous()
    out = torch.empty(query.shape, dtype=query.dtype)
    call = _cpu.packed_attention_f32 if query.dtype == torch.float32 else _cpu.packed_attention_bf16
    call(
        *((x.data_ptr(), x.stride(0), x.stride(1)) for x in (*given, out)),
        *(starts.data_ptr(), len(starts) - 1, query.shape[1], key.shape[1], query.shape[2]),
        *(scale, causal, *_how(isa)),
    )
    return out


def gelu_cpu(x: Tensor, *, isa: str | None = None) -> Tensor:
    x = x.contiguous()
    out = torch.empty_like(x)
    call = _cpu.gelu_f32 if x.dtype == torch.float32 else _cpu.gelu_bf16
    call(x.data_ptr(), out.data_ptr(), x.numel(), *_how(isa))
    return out


def unpack_masks_cpu(masks: np.ndarray, n: int, *, isa: str | None = None) -> np.ndarray:
    """int64 (T, W) -> bool (T, n)."""
    out = np.empty((len(masks), n), np.bool_)
    level = -1 if isa is None else ISAS[isa]
    _cpu.unpack_masks(len(masks), n, np.ascontiguousarray(masks), out, level)
    return out


def settle_cpu(values: np.ndarray, out: np.ndarray, there: np.ndarray) -> bool:
    """All contiguous; whether it was done."""
    return _cpu.settle(len(there), values.size // max(len(there), 1), values, out, there)


def mask_keys_cpu(masks: np.ndarray) -> np.ndarray:
    keys = np.empty(len(masks), np.uint64)
    _cpu.mask_keys(*masks.shape, np.ascontiguousarray(masks), keys)
    return keys


def fill_records_cpu(
    masks: np.ndarray, values: np.ndarray, marks: np.ndarray, identity: int
) -> tuple[np.ndarray, np.ndarray]:
    """All contiguous."""
    (rows, words), count = masks.shape, values.shape[1]
    records = np.empty((rows, words + count + 1), np.uint64)
    keys = np.empty(rows, np.uint64)
    _cpu.fill_records(rows, words, count, identity, masks, values, marks, records, keys)
    return records, keys


def check_records_cpu(
    records: np.ndarray, words: int, identity: int
) -> tuple[np.ndarray, np.ndarray]:
    rows, width = records.shape
    keys, state = np.empty(rows, np.uint64), np.empty(rows, np.uint8)
    count = width - words - 1
    _cpu.check_records(rows, words, count, identity, np.ascontiguousarray(records), keys, state)
    return keys, state
