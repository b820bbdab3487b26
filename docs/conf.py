"""Settings of the documentation: python -m sphinx -W -b html docs docs/_build/html

The build needs no network. Links into the documentation of other packages (AnnData, NumPy, ...) would need their
inventories, so they are made only where SCGIM_DOCS_INTERSPHINX=1 asks for it.
"""

from __future__ import annotations

import os
import sys
import tomllib
import warnings
from pathlib import Path
from typing import Any

from scgim import __version__

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))
# sphinx-autodoc-typehints calls what Sphinx 10 will remove, and says so for every function.
warnings.filterwarnings("ignore", message=".*sphinx_autodoc_typehints.* is deprecated")

PROJECT = tomllib.loads((HERE.parent / "pyproject.toml").read_text(encoding="utf-8"))["project"]

project = PROJECT["name"]
version = release = __version__
author = PROJECT["authors"][0]["name"]
copyright = author

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "extensions.returns",
    # Docstrings are in numpydoc's format, which tests/docs holds them to with numpydoc's validator. Napoleon reads
    # them here because sphinx-autodoc-typehints adds types to its fields, and not to those of numpydoc.
    "sphinx.ext.napoleon",
    "sphinx_autodoc_typehints",  # after napoleon
    "sphinx_copybutton",
    "sphinx_design",
    "extensions.command_line",
    "extensions.formulas",
    "extensions.tutorials",
]
if os.environ.get("SCGIM_DOCS_INTERSPHINX") == "1":
    extensions.append("sphinx.ext.intersphinx")
    intersphinx_mapping = {
        "anndata": ("https://anndata.readthedocs.io/en/stable/", None),
        "networkx": ("https://networkx.org/documentation/stable/", None),
        "numpy": ("https://numpy.org/doc/stable/", None),
        "pandas": ("https://pandas.pydata.org/docs/", None),
        "python": ("https://docs.python.org/3/", None),
        "torch": ("https://docs.pytorch.org/docs/stable/", None),
    }

source_suffix = {".rst": "restructuredtext", ".md": "myst-nb", ".ipynb": "myst-nb"}
exclude_patterns = ["_build", "generated/tutorials/gallery.md", "jupyter_execute", "**/.ipynb_checkpoints"]
templates_path = ["_templates"]

# Notebooks are committed with their outputs; a build shows these and runs nothing.
nb_execution_mode = "off"
myst_enable_extensions = ["colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3
myst_links_external_new_tab = False

# A function among the settings (typehints_formatter) cannot be compared with that of the last build; a dataclass
# inherits fields whose types its own module does not import.
suppress_warnings = ["config.cache", "sphinx_autodoc_typehints.forward_reference"]

autosummary_generate = True
autosummary_imported_members = True
autodoc_member_order = "bysource"
autodoc_class_signature = "mixed"
default_role = "py:obj"  # `X` is code, and a link where scgim has something of that name
napoleon_google_docstring = False
napoleon_use_ivar = True
typehints_defaults = "comma"
typehints_document_rtype = False  # the docstrings say what is returned


def typehints_formatter(annotation: object, config: object) -> str | None:
    """Short names for types that would be written out over many lines."""
    import numpy.typing as npt

    from scgim._rng import RngLike

    for known, name in ((npt.ArrayLike, "array_like"), (RngLike, "int | numpy.random.Generator")):
        if annotation == known:
            return f"``{name}``"
    return None


html_theme = "sphinx_book_theme"
html_title = f"{project} {version}"
html_static_path = ["_static"]
html_css_files = ["scgim.css"]
html_extra_path = ["llms.txt"]
html_math_renderer = "drawn"
html_show_sourcelink = False
html_copy_source = False
html_theme_options = {
    "logo": {"text": project},
    "navbar_persistent": [],  # the search is in the sidebar
    "show_navbar_depth": 1,
    "show_toc_level": 2,
    "use_download_button": False,
    "use_fullscreen_button": False,
}
html_sidebars = {"**": ["navbar-logo.html", "search-button-field.html", "sbt-sidebar-nav.html"]}
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True


def keep_errors_with_values(app: object, docname: str, source: list[str]) -> None:
    """In the tables of results, `0.98 ± 0.01` stays on one line."""
    if docname.startswith("results/"):
        source[0] = source[0].replace(" ± ", "\N{NO-BREAK SPACE}±\N{NO-BREAK SPACE}")


def setup(app: Any) -> None:
    app.connect("source-read", keep_errors_with_values)
