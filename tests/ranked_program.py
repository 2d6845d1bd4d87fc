"""What `torchrun` runs in each process: the same program, told apart by its rank.

python -m torch.distributed.run --nproc-per-node 2 ranked_program.py STORE FOLDER
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from spread import Spread

from spex_core.spex import spex
from spex_core.store import Store
from spex_core.store_manifest import Manifest
from spex_core.values.ranked import Ranked


def main(store: str, folder: str) -> None:
    f = Spread(folder=folder)
    with Store.open(store, Manifest.of(f)) as kept:
        ranked = Ranked(f, kept, stall=600)
        spex(ranked, budget=1500, seed=1).save(Path(folder) / f"rank{ranked.rank}.npz")
    assert os.environ["WORLD_SIZE"] == "2"


if __name__ == "__main__":
    main(*sys.argv[1:])
