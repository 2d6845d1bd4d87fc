"""Best subsets, quickly: tabu search from many starts at once, for any number of features.

Each start takes one step at a time: it flips the feature that raises f the most, or lowers it the
least, among those not flipped lately, and remembers the best mask it has seen. What a flip changes
is the sign of the terms that hold the feature, and through them the gains of the features in those.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from . import ops
from .backend import Backend
from .masks import pack, pack_sets
from .subset_problem import SubsetProblem
from .subset_tables import small_tables

STEPS = 4, 200  # steps per live feature, and beside them
LONGEST = 16  # steps for which a flip stays
PHASE = 8  # steps in which a swap adds before it drops; then as many the other way round


@dataclass(frozen=True)
class _Incidence:
    """Which features are in which terms, as tables padded with one feature and one term too many.

    Attributes: of_term: int64 (S + 1, d), the features of each term; L beyond the last.
                of_feature: int64 (L + 1, D), the terms of each feature; S beyond the last.
    """

    of_term: Tensor
    of_feature: Tensor


def search(
    problem: SubsetProblem, starts: int, seed: int, device: torch.device | str, backend: Backend
) -> tuple[np.ndarray, float]:
    """The best live mask seen, and an upper bound: of small tables the sum of largest entries.

    Cost: for each step and start the terms of one feature, and a pass over all features.
    """
    live = len(problem.live)
    terms = list(problem.terms)
    coefs = torch.tensor(list(problem.terms.values()), dtype=torch.float64, device=device)
    incidence = _incidence(terms, live, device)
    masks = _starts(problem, starts, seed, device, backend)  # (R, L)
    contribution = _contributions(masks, terms, coefs, backend)  # (R, S + 1)
    best, value = _climb(problem, masks, contribution, incidence)
    bound = problem.constant + small_tables(problem.terms, live).most()
    return best[int(value.argmax())].cpu().numpy(), bound


def _incidence(terms: list[tuple[int, ...]], live: int, device: torch.device | str) -> _Incidence:
    of_feature: list[list[int]] = [[] for _ in range(live + 1)]
    for s, term in enumerate(terms):
        for j in term:
            of_feature[j].append(s)
    return _Incidence(
        _padded([*terms, ()], live).to(device), _padded(of_feature, len(terms)).to(device)
    )


def _padded(rows: list, fill: int) -> Tensor:
    width = max(map(len, rows))
    return torch.tensor([[*row, *[fill] * (width - len(row))] for row in rows])


def _starts(
    problem: SubsetProblem, starts: int, seed: int, device: torch.device | str, backend: Backend
) -> Tensor:
    """Uniform masks, bool (starts, L), with features joined or left out until the size fits."""
    live = len(problem.live)
    words = ops.uniform_masks(starts * live, 64, seed=seed, device=device, backend=backend)
    key = words.view(starts, live)  # its sign is the mask, present where negative
    size = (key < 0).sum(1).clamp(problem.least, problem.most)
    rank = key.argsort(1).argsort(1)
    return rank < size[:, None]


def _contributions(
    masks: Tensor, terms: list[tuple[int, ...]], coefs: Tensor, backend: Backend
) -> Tensor:
    """F[k] (-1)**|k and m| of each mask and term, and a column of zeros: float64 (R, S + 1)."""
    support = pack_sets(terms, masks.shape[1]).to(masks.device)
    bits = ops.parity_bits(pack(masks).to(masks.device), support, backend=backend)  # (S, R / 64)
    row = torch.arange(len(masks), device=masks.device)
    odd = bits[:, row // 64] >> (row % 64) & 1  # (S, R)
    return torch.nn.functional.pad(coefs * (1 - 2 * odd.T), (0, 1))


def _climb(
    problem: SubsetProblem, masks: Tensor, contribution: Tensor, incidence: _Incidence
) -> tuple[Tensor, Tensor]:
    """The best mask of each start, bool (R, L), and its value without the constant, (R,).

    A start may leave the window by one feature, and then the next step returns: that is a swap.
    """
    starts, live = masks.shape
    row = torch.arange(starts, device=masks.device)
    present = torch.nn.functional.pad(masks, (0, 1))  # (R, L + 1): the last feature is padding
    gain = _gains(contribution, incidence)
    value, size = contribution.sum(1), masks.sum(1)
    best, best_value = present.clone(), value.clone()
    free_at = torch.zeros_like(gain, dtype=torch.int64)
    lengths = min(
        LONGEST, (live + 1) // 2
    )  # of a stay, all in turn: one length would go in circles
    for step in range(STEPS[0] * live + STEPS[1]):
        over = (step // PHASE + row) % 2  # whether the window may be left above, or below
        grow, drop = size < problem.most + over, size > problem.least - 1 + over
        fits = torch.where(present, drop[:, None], grow[:, None])
        better = value[:, None] + gain > best_value[:, None]
        allowed = fits & ((free_at <= step) | better)
        allowed[:, live] = False
        flip = gain.masked_fill(~allowed, -torch.inf).argmax(1)  # (R,)
        moves = allowed[row, flip]
        flip = torch.where(moves, flip, live)
        value = value + torch.where(moves, gain[row, flip], 0.0)
        size = size + torch.where(moves, 1 - 2 * present[row, flip].long(), 0)
        present[row, flip] ^= moves
        free_at[row, flip] = step + 2 + (step + row) * 7 % lengths
        _flip(contribution, gain, incidence, flip)
        found = (value > best_value) & (size >= problem.least) & (size <= problem.most)
        best = torch.where(found[:, None], present, best)
        best_value = torch.where(found, value, best_value)
    return best[:, :live], best_value


def _gains(contribution: Tensor, incidence: _Incidence) -> Tensor:
    """What flipping each feature would add: -2 times the sum of its terms, float64 (R, L + 1)."""
    gain = contribution.new_zeros(len(contribution), len(incidence.of_feature))
    at = incidence.of_term.flatten().expand(len(contribution), -1)
    each = contribution.repeat_interleave(incidence.of_term.shape[1], dim=1)
    return gain.scatter_add_(1, at, -2 * each)


def _flip(contribution: Tensor, gain: Tensor, incidence: _Incidence, flip: Tensor) -> None:
    """Turn the signs of the terms of feature flip[r] in row r, and the gains with them."""
    terms = incidence.of_feature[flip]  # (R, D)
    old = contribution.gather(1, terms)
    contribution.scatter_(1, terms, -old)
    features = incidence.of_term[terms].flatten(1)  # (R, D d)
    change = 4 * old.repeat_interleave(incidence.of_term.shape[1], dim=1)
    gain.scatter_add_(1, features, change)
