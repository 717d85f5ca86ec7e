"""Sphinx configuration: Markdown pages and the public functions' docstrings."""

import importlib.metadata

project = "deepfits"
author = "The deepfits developers"
copyright = "2026, the deepfits developers"
release = importlib.metadata.version("deepfits")
extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
]
myst_enable_extensions = ["dollarmath", "colon_fence", "deflist"]
myst_heading_anchors = 3
napoleon_google_docstring = False
napoleon_use_rtype = False
autodoc_typehints = "none"
default_role = "code"
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = "deepfits"
