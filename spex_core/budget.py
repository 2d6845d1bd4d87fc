"""Stage 1, budget -> SamplingPlan: which masks SPEX and uniform sampling ask for with a budget.

Aliased masks are `x = M_g l + d_p` (plan.py). The columns of M_g are uniform over GF(2), or zero on
their first features (prefixes.py); d_0 = 0, d_1 .. d_r are the parity rows of a BCH code that tells
any two sets of at most `degree` features apart, and any delays after those are uniform.
Source: Kang et al. 2025 (SPEX), section 4; Erginbas et al. 2023 (q-SFT).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from . import masks as bits
from . import ops
from .codes import MAX_N, MAX_T, bch_code
from .errors import check, check_int
from .plan import SamplingPlan, first_rows
from .prefixes import branching_masks, hash_columns, profile_of
from .transfers import up

GROUPS = 3  # subsampling groups; C of the paper
MAX_DELAYS = 400
MIN_B, MAX_B = 3, 20
MAX_TABLE = 24  # n up to which a budget of 2**n asks for the whole table

# Streams of the uniform-mask table, beside that of plan.py: one for each use.
UNIFORM, DELAYS, HASH = 0, 1, 16

Draw = Callable[..., Tensor]  # as ops.uniform_masks: (rows, n, *, seed, stream, start, device)


def plan_spex(
    n: int,
    budget: int,
    *,
    degree: int = 5,
    seed: int = 0,
    prefix_sharing: bool | Sequence[float] = False,
    device: torch.device | None = None,
) -> SamplingPlan:
    """The plan that spends `budget` model calls on n features.

    A budget of 2**n or more asks for the whole table (n <= 24). Otherwise b is the largest for
    which three groups fit beside the held-out masks (a twentieth of the budget, 32 to 1,000). What
    is left buys the delays of a code that corrects more errors than `degree`, as many as fit (up to
    10), then further uniform delays, then uniform masks for the refit. For the same number of masks
    that gave a better held-out R2 than further groups, and both a far better one than uniform masks
    alone (bench/bench_budget.py). Masks that would come up twice are asked for once, and what that
    saves is spent on uniform masks.

    Args:    n: features, 1 to 2**19. budget: the most distinct masks to ask for. degree: the
             largest order of a term, 1 to 10. seed: in [0, 2**64). prefix_sharing: True, or the
             profile: masks that share their first features, as spex() says. device: where the plan
             is to be; columns and delays go there, masks that come up twice are found and uniform
             ones drawn there. By default the host; same bits anywhere.
    Raises:  ValueError if the budget is too small, with the least that works; TypeError,
             ValueError.
    """
    n = check_int("n", n, 1, MAX_N)
    budget = check_int("budget", budget, 1)
    degree = check_int("degree", degree, 1, MAX_T)
    seed = check_int("seed", seed, 0, 2**64 - 1)
    profile = profile_of(prefix_sharing)
    if n <= MAX_TABLE and budget >= 1 << n:
        return _at(device, _full_table(n, degree, seed, budget))
    shifts = bch_code(n, degree).delays
    least = least_budget(n, degree)
    check(
        budget >= least,
        "budget must be at least {} for n = {} and degree = {} ({}), got {}",
        *(least, n, degree, _buys(n, degree, least), budget),
    )
    holdout = _holdout(budget)
    usable = budget - holdout
    b = min((usable // (GROUPS * shifts)).bit_length() - 1, MAX_B, n)
    delays = min(usable // (GROUPS << b), MAX_DELAYS)
    corrects = max(t for t in range(degree, MAX_T + 1) if bch_code(n, t).delays <= delays)
    further = delays - bch_code(n, corrects).delays
    delayed = {"corrects": corrects, "further": further}
    plan = aliased_plan(n, b, degree=degree, seed=seed, prefix_sharing=profile, **delayed)
    return _filled_up(_at(device, plan), budget, holdout, ops.uniform_masks)


def plan_uniform(
    n: int,
    budget: int,
    *,
    seed: int = 0,
    prefix_sharing: bool = False,
    device: torch.device | None = None,
) -> SamplingPlan:
    """`budget` distinct uniform masks of n features, for ProxySPEX; the whole table where the
    budget is 2**n or more (n <= 24).

    Args:    n: features, 1 to 2**19. budget >= 1. seed: in [0, 2**64). prefix_sharing: draw the
             masks in groups that share their first features (branching_masks), as proxyspex() says.
             device: where they are drawn, as for plan_spex.
    Raises:  TypeError, ValueError.
    """
    n = check_int("n", n, 1, MAX_N)
    budget = check_int("budget", budget, 1)
    seed = check_int("seed", seed, 0, 2**64 - 1)
    if not isinstance(prefix_sharing, bool):
        raise TypeError(f"prefix_sharing must be a bool, got {prefix_sharing!r}")
    if n <= MAX_TABLE and budget >= 1 << n:
        return _at(device, _full_table(n, n, seed, budget))
    none = torch.zeros(0, bits.words(n), dtype=torch.int64, device=device)
    empty = SamplingPlan(n, n, seed, budget, 0, None, none[:, None], none, none, 0)
    draw = branching_masks if prefix_sharing else ops.uniform_masks
    return _filled_up(empty, budget, 0, draw)


def further_masks(plan: SamplingPlan, count: int) -> Tensor:
    """Up to `count` uniform masks that the plan does not have: packed int64 (count, W)."""
    seen = torch.from_numpy(plan.places.keys)
    if plan.n <= MAX_TABLE and 2 * (len(seen) + count) > 1 << plan.n:
        return _from_rest(plan, seen, count)
    return _drawn(plan, seen, count, ops.uniform_masks)


def aliased_plan(
    n: int,
    b: int,
    *,
    groups: int = GROUPS,
    degree: int = 5,
    seed: int = 0,
    corrects: int | None = None,
    further: int = 0,
    prefix_sharing: bool | Sequence[float] = False,
) -> SamplingPlan:
    """The aliased rows alone, none held out: groups (1 + r + further) 2**b masks, r the parities of
    the code that corrects so many errors (`degree`, unless more are asked for)."""
    n = check_int("n", n, 1, MAX_N)
    b = check_int("b", b, 0, min(MAX_B, n))
    groups = check_int("groups", groups, 1, 16)
    degree = check_int("degree", degree, 1, MAX_T)
    code = bch_code(n, check_int("corrects", degree if corrects is None else corrects, degree))
    further = check_int("further", further, 0, MAX_DELAYS - code.delays)
    coded = np.unpackbits(
        code.columns.numpy().view(np.uint8), axis=1, count=code.delays, bitorder="little"
    )
    uniform = ops.uniform_masks(further, n, seed=seed, stream=DELAYS)
    delays = torch.cat([bits.pack(coded.T.astype(np.bool_)), uniform])
    profile = profile_of(prefix_sharing)
    columns = torch.stack(
        [hash_columns(b, n, seed=seed, stream=HASH + g, profile=profile) for g in range(groups)]
    )
    return SamplingPlan(
        n=n,
        degree=degree,
        seed=seed,
        budget=groups * len(delays) << b,
        b=b,
        code=code,
        columns=columns,
        delays=delays,
        extra=delays[:0],
        holdout=0,
        profile=profile[:b],
    )


def most_masks(n: int, budget: int) -> int:
    """The distinct masks that a budget buys: all there are, at the most."""
    return min(budget, 1 << n) if n <= MAX_TABLE else budget


def least_budget(n: int, degree: int, b: int = MIN_B) -> int:
    """The fewest masks with which plan_spex reaches 2**b bins a group (or the whole table)."""
    aliased = GROUPS * bch_code(n, degree).delays << min(b, n)
    least = aliased + _holdout(aliased)
    while least - _holdout(least) < aliased:
        least += 1
    return most_masks(n, least)


def _buys(n: int, degree: int, budget: int) -> str:
    if n <= MAX_TABLE and budget == 1 << n:
        return "the whole table"
    shifts = bch_code(n, degree).delays
    return (
        f"{GROUPS} groups of {1 << MIN_B} bins at {shifts} delays, enough for about "
        f"{1 << MIN_B} terms, and {_holdout(budget)} held-out masks"
    )


def _holdout(budget: int) -> int:
    return min(max(budget // 20, 32), 1000)


def _full_table(n: int, degree: int, seed: int, budget: int) -> SamplingPlan:
    columns = bits.pack(np.eye(n, dtype=np.bool_))
    zero = torch.zeros(1, 1, dtype=torch.int64)
    return SamplingPlan(n, degree, seed, budget, n, None, columns[None], zero, zero[:0], 0)


def _at(device: torch.device | None, plan: SamplingPlan) -> SamplingPlan:
    """A plan of the host where it is to be."""
    return plan if device is None else plan.moved(lambda x: up(x, device))


def _filled_up(plan: SamplingPlan, budget: int, holdout: int, draw: Draw) -> SamplingPlan:
    """`plan`, which has no extra masks, with as many new uniform ones as make `budget` distinct,
    the last `holdout` of them held out, where its tensors are; `draw` makes ranges of their
    table."""
    seen = plan.row_names().unique()
    extra = budget - len(seen)
    if plan.n <= MAX_TABLE and 2 * budget > 1 << plan.n:
        masks = _from_rest(plan, seen, extra)
    else:
        masks = _drawn(plan, seen, extra, draw)
    return plan.with_extra(masks, budget=budget, holdout=holdout)


def _drawn(plan: SamplingPlan, seen: Tensor, extra: int, draw: Draw) -> Tensor:
    """The first `extra` masks of a uniform table that are new, their names not among those seen:
    packed int64 (extra, W)."""
    where: dict[str, Any] = {"seed": plan.seed, "stream": UNIFORM, "device": seen.device}
    parts, found, start = [plan.extra[:0]], 0, 0
    while found < extra:
        drawn = draw(extra, plan.n, start=start, **where)
        names = plan.names(drawn)
        first = first_rows(torch.cat([seen, names]))[0] - len(seen)
        fresh = first[first >= 0].sort()[0][: extra - found]
        parts.append(drawn[fresh])
        seen = torch.cat([seen, names[fresh]])
        found, start = found + len(fresh), start + extra
    return torch.cat(parts)


def _from_rest(plan: SamplingPlan, seen: Tensor, extra: int) -> Tensor:
    """`extra` of the masks not seen, in an order that the seed shuffles: packed int64 (extra, 1).
    For a budget of most of the table, where draws would nearly all be seen."""
    left = torch.ones(1 << plan.n, dtype=torch.bool, device=seen.device)
    left[seen] = False
    rest = left.nonzero()[:, 0]
    where: dict[str, Any] = {"seed": plan.seed, "stream": UNIFORM, "device": seen.device}
    shuffle = ops.uniform_masks(len(rest), 63, **where)[:, 0]
    return rest[shuffle.argsort(stable=True)[:extra]][:, None]
