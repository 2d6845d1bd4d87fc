"""The docstrings of this package as reStructuredText, for the reference of the site.

They are plain text with sections, `Args:   x: ...`, whose further lines hang below the first word
of the text. Formulas, as (-1)**<k, m>, are no markup; tables are Markdown's.
"""

from __future__ import annotations

import re
import textwrap
from itertools import groupby

SECTIONS = "Args|Attributes|Returns|Raises|Accuracy|Cost|Source|Example"
LISTED = ("Args", "Attributes")  # their entries are `name: text`


def process(app, what, name, obj, options, lines: list[str]) -> None:
    """A hook of sphinx.ext.autodoc: rewrites the lines of one docstring."""
    lines[:] = restructured("\n".join(lines)).splitlines()


def restructured(docstring: str) -> str:
    parts = re.split(rf"^({SECTIONS}):(?:[ ]|$)", docstring, flags=re.MULTILINE)
    out = [prose(parts[0])]
    for name, text in zip(parts[1::2], parts[2::2], strict=True):
        body = dedented(text)
        if name == "Example":
            out.append(f"**Example**\n\n.. code-block:: python\n\n{textwrap.indent(body, '   ')}")
        else:
            out.append(f"**{name}**\n\n{entries(body) if name in LISTED else prose(body)}")
    return "\n\n".join(out) + "\n"


def dedented(text: str) -> str:
    """A section's text: its first line is where the others hang from, or they stand below."""
    first, _, rest = text.partition("\n")
    return f"{first.strip()}\n{textwrap.dedent(rest)}".strip()


def entries(body: str) -> str:
    """`name: text`, and its further lines, as a list; what stands before the first as prose."""
    items: list[str] = []
    for line in body.splitlines():
        entry = re.match(r"([*\w]+(?:, [*\w]+)*)(?: \([^)]*\))?: (.*)", line)
        if entry:
            items.append(f"- ``{entry[1]}``: {escaped(entry[2])}")
        elif items:
            items[-1] += f"\n  {escaped(line.strip())}"
        else:
            items.append(escaped(line) + "\n")
    return "\n".join(items)


def prose(text: str) -> str:
    """Paragraphs as they are, without markup, and tables."""
    out = []
    for is_table, group in groupby(text.splitlines(), key=lambda line: line.startswith("| ")):
        lines = list(group)
        out.append(table(lines) if is_table else escaped("\n".join(lines)))
    return "\n".join(out)


def table(lines: list[str]) -> str:
    """A Markdown table as a list-table; its second line is a rule."""
    out = ["", ".. list-table::", "   :header-rows: 1", ""]
    for line in (lines[0], *lines[2:]):
        cells = [escaped(cell.strip()) for cell in re.split(r" \| ", line.strip("| "))]
        out += [
            f"   {mark} - {cell}" for mark, cell in zip("*" + " " * len(cells), cells, strict=False)
        ]
    return "\n".join([*out, ""])


def escaped(text: str) -> str:
    """What is between backticks is code; of all else nothing is markup."""
    pieces = re.split(r"`+([^`]*)`+", text)
    pieces[::2] = [re.sub(r"([*_|\\])", r"\\\1", piece) for piece in pieces[::2]]
    pieces[1::2] = [f"``{piece}``" for piece in pieces[1::2]]
    return "".join(pieces)
