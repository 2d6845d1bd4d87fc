"""Every Python example of the README runs, in order, in one namespace, as a reader would run them.

So do the examples in the docstrings of public functions. The shell commands of the README are not
run here: some are targets of the Makefile, and of the command `spex` the options are checked.
"""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import spex_core
from spex_core import cli

README = Path(__file__).resolve().parent.parent / "README.md"


def examples(text: str) -> list[tuple[int, str]]:
    """The ```python blocks of a Markdown text: (line of the first statement, source)."""
    found = re.finditer(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return [(text.count("\n", 0, block.start(1)) + 1, block.group(1)) for block in found]


def run(blocks: list[tuple[int, str]], filename: str) -> None:
    """Tracebacks name the line of the file that the block comes from."""
    namespace = {"__name__": "__main__"}
    for line, source in blocks:
        exec(compile("\n" * (line - 1) + source, filename, "exec"), namespace)


def test_readme_examples_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blocks = examples(README.read_text(encoding="utf-8"))
    assert blocks, "the README has no ```python example"
    monkeypatch.chdir(tmp_path)
    run(blocks, str(README))


def test_the_shell_examples_are_options_that_there_are() -> None:
    lines = re.findall("^    (spex .*)$", README.read_text(encoding="utf-8"), re.MULTILINE)
    parsed = [cli._parser().parse_args(shlex.split(line, comments=True)[1:]) for line in lines]
    assert {args.command for args in parsed} == {"explain", "run", None}


@pytest.mark.parametrize(
    "name", ["interactions", "proxyspex", "explain", "spex", "SparseTransform"]
)
def test_docstring_examples_run(name: str) -> None:
    (example,) = re.findall(r"^ *Example: *(.*)$", getattr(spex_core, name).__doc__, re.MULTILINE)
    names = {each: getattr(spex_core, each) for each in spex_core.__all__}
    assert eval(example, names | {"np": np}) is not None


def test_a_failing_example_fails_and_says_where() -> None:
    fence = "```"
    text = f"{fence}python\nx = 1\n{fence}\n{fence}console\n$ false\n{fence}\n"
    text += f"\n{fence}python\nassert x == 2\n{fence}\n"
    blocks = examples(text)
    assert blocks == [(2, "x = 1\n"), (9, "assert x == 2\n")]
    with pytest.raises(AssertionError) as failure:
        run(blocks, "README.md")
    assert failure.traceback[-1].lineno + 1 == 9


def test_figures_are_those_of_the_bench_results() -> None:
    """Those in the README and in docs/measurements.md."""
    check = subprocess.run([sys.executable, README.parent / "bench" / "readme.py", "--check"])
    assert check.returncode == 0, "run: python bench/readme.py"
