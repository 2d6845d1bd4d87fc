"""ProxySPEX after the values are known, against the public implementations on the same samples.

    SPEX_PEERS_PYTHON=... [SPEX_GAMES=shared/games] python bench/bench_proxyspex.py

CPU seconds of a whole fit, from masks and values to Fourier coefficients, ours and the peer's in
turn, one thread each, the peers in a process of their own; ours the least of five runs. R2 is on
4,000 (of a game: its test) masks that neither has seen. spectralexplain's process is ended after
LIMIT CPU seconds; where it did not finish, its seconds are that limit.
"""

from __future__ import annotations

import time

import games
import torch
from harness import Peers, Row, table, write
from peers_proxy import samples

import spex_core

GAMES = ["digits_ridge_datapoints_n256", "digits_knn5_datapoints_n200"]
SAMPLES = [1000, 3000]
LIMIT = 120


def ours(case: Row, preset: str) -> Row:
    fit, test = samples(**case)
    spent = []
    for _ in range(5):
        start = time.process_time()
        ex = spex_core.fit(*fit, preset=preset)
        spent.append(time.process_time() - start)
    return {"cpu": min(spent), "r2": ex.transform.score(*test)}


def theirs(case: Row) -> Row:
    peers = Peers("peers_proxy.py")
    run = peers.run(peer="shapiq", **case)
    return {"cpu": run["cpu"], "r2": run["r2"]}


def slower_peer(case: Row) -> Row:
    """spectralexplain, in a process that the kernel ends after LIMIT seconds."""
    try:
        run = Peers("peers_proxy.py").run(peer="spectralexplain", most_cpu=LIMIT, **case)
    except RuntimeError:
        return {"spectralexplain_cpu": f"> {LIMIT}"}
    return {"spectralexplain_cpu": run["cpu"], "spectralexplain_r2": run["r2"]}


def main() -> None:
    torch.set_num_threads(1)
    peers = Peers("peers_proxy.py")
    if peers.why_not:
        print(f"bench_proxyspex: {peers.why_not}")
        return
    there = [name for name in GAMES if name in games.names()]
    cases = [{"n": 256, "samples": count, "seed": 0} for count in SAMPLES]
    cases += [{"game": name, "samples": count, "seed": 0} for name in there for count in SAMPLES]
    rows = []
    for case in cases:
        default, paper, peer = ours(case, "default"), ours(case, "paper"), theirs(case)
        rows.append(
            {"function": case.get("game", f"hierarchical n={case.get('n')}")}
            | {"samples": case["samples"], "shapiq_cpu": peer["cpu"], "shapiq_r2": peer["r2"]}
            | {"default_cpu": default["cpu"], "default_r2": default["r2"]}
            | {"default_faster": peer["cpu"] / default["cpu"]}
            | {"paper_cpu": paper["cpu"], "paper_r2": paper["r2"]}
            | {"paper_faster": peer["cpu"] / paper["cpu"]}
        )
        table(rows[-1:])
    for case in [{"n": 14, "samples": 100, "seed": 0}, {"n": 256, "samples": 1000, "seed": 0}]:
        slow = slower_peer(case)
        row = {"function": f"hierarchical n={case['n']}", "samples": case["samples"]} | slow
        rows.append(row | {f"default_{k}": v for k, v in ours(case, "default").items()})
    table(rows, "ProxySPEX, CPU seconds of a fit, one thread")
    write("proxyspex", rows, peers=peers.versions, limit=LIMIT)


if __name__ == "__main__":
    main()
