"""Imports point upwards: a module of spex_core imports only what stands before it in ORDER."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

# The order in which the data meets the modules. `values` and `interop` are packages; their files
# may import one another, and so may the kernels of `triton_kernels`.
ORDER = [
    *(
        "errors",
        "memory",
        "transfers",
        "backend",
        "checks",
        "codes",
        "forest",
        "traced",
        "fakes",
        "reference",
        "reference_decode",
        "reference_boost",
        "reference_gp",
        "reference_inference",
        "reference_records",
        "native",
        "native_cuda",
        "boost_start",
        "boost_cuda",
        "triton_kernels",
        *("ops_decode", "ops_gp", "ops_trees", "ops", "ops_inference"),
    ),
    *(
        "masks",
        "planner",
        "value_function",
        "store_manifest",
        "records",
        "store_shards",
        "store_index",
        "store",
        "store_parquet",
        "stored",
        "prefixes",
        "plan",
        "budget",
        "given",
        "keep",
        "parts",
        "ledger",
        "patience",
        "progress",
        "evaluate",
        "alias",
        "peel",
        "refine",
        "shrink",
        *("subset_problem", "subset_tables", "subset_milp", "subset_search", "subsets"),
        "transform",
        "resident",
    ),
    *("tree_dumps", "trees", "samples", "prior", "ridge", "left_out", "hedge", "sparse"),
    *("proxy", "proxy_paper"),
    *("resident_prior", "resident_fit", "resident_uniform", "resident_proxy"),
    *(
        "lbfgs",
        "anova",
        "gp_prior",
        "gp_process",
        "sums",
        "gp_folds",
        "gp_scores",
        "gp",
        "gp_memory",
        "gp_acquire",
    ),
    *("hierarchy", "faithfulness", "weights", "indices", "shapiq_values", "regions", "picture"),
    *("plots", "page", "explanation", "recipe", "run", "uniform", "proxyspex", "gpspex", "spex"),
    *("auto", "fit", "asktell", "explain", "compare", "values", "interop", "demo", "inputs"),
    *("cli_runs", "cli_options", "cli"),
]
COMPILED = {"_cpu", "_cuda"}  # know nothing of Python
FACES = {"__init__", "__main__"}  # import what they show


def files() -> list[Path]:
    folders = (ROOT / "spex_core", ROOT / "triton_kernels")
    return sorted(path for folder in folders for path in folder.rglob("*.py"))


def module_of(path: Path) -> tuple[str, ...]:
    """The dotted name of a file below spex_core, as a tuple: ("values", "text")."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return parts[1:] if parts[0] == "spex_core" else parts


def imported(source: str, module: tuple[str, ...]) -> set[str]:
    """The modules directly below spex_core that `source` imports, wherever the statement stands."""
    names: set[tuple[str, ...]] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {tuple(alias.name.split(".")) for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            package = ("spex_core", *module[: len(module) - node.level]) if node.level else ()
            base = package + tuple(node.module.split(".") if node.module else ())
            names |= {(*base, alias.name) for alias in node.names}
    return {name[1] for name in names if name[0] == "spex_core" and len(name) > 1}


def out_of_order(source: str, module: tuple[str, ...]) -> set[str]:
    own = module[0]
    allowed = set(ORDER[: ORDER.index(own)]) | COMPILED | ({own} if len(module) > 1 else set())
    return imported(source, module) - allowed


@pytest.mark.parametrize("path", files(), ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_upwards(path: Path) -> None:
    module = module_of(path)
    if module[-1] in FACES:
        return
    assert module[0] in ORDER, f"{path.name} has no place in ORDER: say where it stands"
    assert not out_of_order(path.read_text(encoding="utf-8"), module)


@pytest.mark.parametrize(
    ("module", "source", "wrong"),
    [
        (("ops",), "from . import native", set()),
        (("ops",), "from .masks import pack", {"masks"}),
        (("ops",), "def f():\n    from . import spex", {"spex"}),
        (("ops",), "import spex_core.plan as p", {"plan"}),
        (("ops",), "from spex_core import reference, indices", {"indices"}),
        (("ops",), "from .triton_kernels.fwht import fwht", set()),
        (("ops",), "from . import ops", {"ops"}),
        (("ops",), "import torch\nfrom numpy import fft", set()),
        (("native",), "from . import _cpu", set()),
        (("values", "text"), "from ..errors import check\nfrom .tokens import split", set()),
        (("values", "text"), "from .. import cli", {"cli"}),
        (
            ("interop", "shapiq"),
            "import shapiq\nfrom ..spex import spex\nfrom .games import f",
            set(),
        ),
        (("interop", "shapiq"), "from ..cli import main", {"cli"}),
        (("explanation",), "def f():\n    from .interop.shapiq import SPEX", {"interop"}),
        (("triton_kernels", "fwht"), "from ..ops import fwht", {"ops"}),
    ],
)
def test_the_check_itself(module: tuple[str, ...], source: str, wrong: set[str]) -> None:
    assert out_of_order(source, module) == wrong
