"""Sphinx's settings. Build with ``make docs``; warnings are errors."""

from __future__ import annotations

import dask_petuum

project = "dask_petuum"
author = "dask_petuum developers"
copyright = f"2026, {author}"
version = release = dask_petuum.__version__

extensions = [
    "myst_parser",
    "numpydoc",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.mathjax",
    "sphinx.ext.viewcode",
]
exclude_patterns = ["_build"]
templates_path = ["_templates"]
myst_enable_extensions = ["colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3
autosummary_generate = True
autodoc_typehints = "signature"
autodoc_member_order = "bysource"
autoclass_content = "class"
numpydoc_show_class_members = False
numpydoc_validation_checks: set[str] = set()
python_use_unqualified_type_names = True
suppress_warnings = [
    # docstrings inherited from scikit-learn refer to its own glossary and guide
    "ref.term",
    "ref.ref",
]

html_theme = "pydata_sphinx_theme"
html_title = "dask_petuum"
html_static_path = ["_static"]
html_show_sourcelink = False
html_theme_options = {
    "show_toc_level": 2,
    "navigation_with_keys": False,
    "show_prev_next": False,
    "secondary_sidebar_items": ["page-toc"],
}
