"""The site of the documentation: `make docs` builds it into build/site, with warnings as errors.

Its figures are drawn first (figures.py); docstrings are made ready for it by docstrings.py.
"""

import sys
from importlib.metadata import version as installed
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
import docstrings
import figures

project = "spex-core"
version = release = installed("spex-core")
extensions = ["sphinx.ext.autodoc", "myst_parser"]
exclude_patterns = ["drawn"]
myst_heading_anchors = 3
smartquotes = False  # in docstrings quotes are of code
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
autodoc_member_order = "bysource"
add_module_names = False
python_use_unqualified_type_names = True
maximum_signature_line_length = 88
html_theme = "furo"
html_title = "spex-core"
html_show_sphinx = False
html_show_copyright = False
pygments_style, pygments_dark_style = "friendly", "monokai"


def setup(app):
    app.connect("builder-inited", lambda app: figures.draw_all())
    app.connect("autodoc-process-docstring", docstrings.process)
