"""anova_kernel and its gradient, against the power sums that are the obvious way to it, and
anova_cross against its reference.

    python bench/bench_anova_kernel.py    # a minute; writes bench/results/anova_kernel.json

The rival has e_d from Newton's identities: odd powers of the relevances are one product of +-1
matrices each, even ones are constants. It fails where one relevance dominates, which `newton's`
shows beside our `error`: the largest difference from exact rational arithmetic over some pairs, in
units of the diagonal. `of bias 0`: what a bias of one takes, in the same rounds. `cross`: 64 terms
of up to `orders` features, with all T masks. One thread, CPU time; every call is first checked
against the reference. GF/s: n (orders) multiply-adds a pair.
"""

from __future__ import annotations

import statistics
from functools import partial

import harness
import numpy as np
import torch
from race import isas, race, ratio

from spex_core import masks as bits
from spex_core import native, ops, reference_gp
from spex_core.reference_gp import signs

SIZES = [(300, 64, 4), (1000, 64, 4), (1000, 16, 2), (300, 1000, 4), (1000, 64, 8)]  # T, n, orders


def problem(T: int, n: int, orders: int, *, dominated: bool = False) -> tuple[torch.Tensor, ...]:
    """Masks, relevances (whole numbers, so that they are exact), variances."""
    rng = np.random.default_rng(0)
    relevances = rng.integers(1, 1000, n).astype(float)
    if dominated:
        relevances[0] = 2.0**50
    masks = bits.pack(rng.random((T, n)) < 0.5)
    variances = torch.ones(orders + 1, dtype=torch.float64) / (orders + 1)
    return masks, torch.from_numpy(relevances), variances


def newton(masks: torch.Tensor, relevances: torch.Tensor, variances: torch.Tensor) -> torch.Tensor:
    """The rival: e_d = 1/d sum_j (-1)**(j - 1) e_(d-j) p_j, p_j the power sums."""
    n, orders = len(relevances), len(variances) - 1
    z, rho = signs(masks, n), relevances / relevances.max()

    def polynomials(odd) -> list[torch.Tensor]:
        powers = [odd(rho**j) if j % 2 else (rho**j).sum() for j in range(1, orders + 1)]
        e = [torch.ones_like(powers[0])]
        for d in range(1, orders + 1):
            e.append(sum((-1) ** (j - 1) * e[d - j] * powers[j - 1] for j in range(1, d + 1)) / d)
        return e

    pairs, largest = polynomials(lambda power: (z * power) @ z.T), polynomials(lambda p: p.sum())
    return sum(s * e / most for s, e, most in zip(variances, pairs, largest, strict=True))


def exact(masks: torch.Tensor, relevances: torch.Tensor, variances: torch.Tensor) -> np.ndarray:
    """In integers of any size; a quotient of two of them is rounded once."""
    z = signs(masks, len(relevances)).numpy().astype(int)
    rho = [int(x) for x in relevances.tolist()]
    orders = len(variances) - 1

    def polynomials(x: list[int]) -> list[int]:
        e = [1] + [0] * orders
        for value in x:
            for d in range(orders, 0, -1):
                e[d] += value * e[d - 1]
        return e

    largest = polynomials(rho)
    out = np.zeros((len(z), len(z)))
    for i, a in enumerate(z):
        for j, b in enumerate(z):
            pair = polynomials([r * int(s) for r, s in zip(rho, a * b, strict=True)])
            out[i, j] = sum(
                s * (p / q) for s, p, q in zip(variances.tolist(), pair, largest, strict=True)
            )
    return out


def error(way, n: int, orders: int) -> float:
    few = problem(6, n, orders, dominated=True)
    return float(np.abs(way(*few).numpy() - exact(*few)).max())


def ours(masks, relevances, variances) -> torch.Tensor:
    return ops.anova_kernel(masks, masks, relevances, variances)


def terms(n: int, orders: int, count: int = 64) -> torch.Tensor:
    """Terms of 1 to `orders` features, as many of each size."""
    rng = np.random.default_rng(1)
    dense = np.zeros((count, n), bool)
    for row in range(count):
        dense[row, rng.permutation(n)[: 1 + row % orders]] = True
    return bits.pack(dense)


def crosses(isa: str, masks: torch.Tensor, relevances: torch.Tensor, variances: torch.Tensor):
    """anova_cross with bias 0 and 1, and its reference with 1; checked."""
    inputs = masks, terms(len(relevances), len(variances) - 1), relevances, variances
    calls = {f"cross {b}": partial(native.anova_cross_cpu, *inputs, b, isa=isa) for b in (0.0, 1.0)}
    calls["reference"] = partial(reference_gp.anova_cross, *inputs, 1.0)
    if not torch.allclose(calls["cross 1.0"](), calls["reference"](), rtol=1e-9, atol=1e-14):
        raise AssertionError(f"anova_cross is wrong at {tuple(masks.shape)}")
    return calls


def measure(T: int, n: int, orders: int) -> harness.Row:
    masks, relevances, variances = problem(T, n, orders)
    weights = torch.ones(T, T, dtype=torch.float64)
    inputs = masks, masks, relevances / relevances.max(), variances
    want = reference_gp.anova_kernel(masks[:9], masks[:9], *inputs[2:])
    calls = {}
    for isa in isas():
        calls[isa] = partial(native.anova_kernel_cpu, *inputs, isa=isa)
        calls[f"gradient {isa}"] = partial(native.anova_kernel_grad_cpu, *inputs, weights, isa=isa)
        if not torch.allclose(calls[isa]()[:9, :9], want, rtol=0, atol=1e-12):
            raise AssertionError(f"{isa} is wrong at {T, n, orders}")
    best = isas()[-1]
    biased = reference_gp.anova_kernel(masks[:9], masks[:9], *inputs[2:], 1.0)
    calls["bias 1"] = partial(native.anova_kernel_cpu, *inputs, 1.0, isa=best)
    calls["gradient, bias 1"] = partial(
        native.anova_kernel_grad_cpu, *inputs, weights, 1.0, isa=best
    )
    if not torch.allclose(calls["bias 1"]()[:9, :9], biased, rtol=1e-9, atol=1e-12):
        raise AssertionError(f"bias 1 is wrong at {T, n, orders}")
    calls |= crosses(best, masks, *inputs[2:])
    calls["newton"] = partial(newton, masks, relevances, variances)
    times = race(calls, 1.0)
    adds = T * (T + 1) / 2 * n * orders
    row = {"T": T, "n": n, "orders": orders}
    row |= {f"{isa} GF/s": adds / statistics.median(times[isa]) / 1e9 for isa in isas()}
    row["ms"] = 1e3 * statistics.median(times[best])
    row["gradient ms"] = 1e3 * statistics.median(times[f"gradient {best}"])
    row["bias 1 of bias 0"] = ratio(times, "bias 1", best)
    row["gradient, bias 1 of bias 0"] = ratio(times, "gradient, bias 1", f"gradient {best}")
    row["cross ms"] = 1e3 * statistics.median(times["cross 1.0"])
    row["cross, bias 0 ms"] = 1e3 * statistics.median(times["cross 0.0"])
    row["cross: x faster than reference"] = ratio(times, "reference", "cross 1.0")
    row["x faster than newton"] = ratio(times, "newton", best)
    return row | {"error": error(ours, n, orders), "newton's": error(newton, n, orders)}


def main() -> None:
    torch.set_num_threads(1)
    rows = [measure(*size) for size in SIZES]
    harness.table(rows, "anova_kernel of T masks with themselves")
    harness.write("anova_kernel", rows, threads=1)


if __name__ == "__main__":
    main()
