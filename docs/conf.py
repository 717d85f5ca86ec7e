"""Sphinx configuration: Markdown pages, executed notebooks, and the public functions' docstrings."""

import importlib.metadata

project = "deepfits"
author = "The deepfits developers"
copyright = "2026, the deepfits developers"
release = importlib.metadata.version("deepfits")
extensions = [
    "myst_nb",  # the Markdown of myst_parser, and notebooks written in it
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",  # every docstring links to its source
]
myst_enable_extensions = ["dollarmath", "colon_fence", "deflist"]
myst_heading_anchors = 3
# The tutorials run when the site is built, each in a directory of its own; what has not changed is kept.
nb_execution_mode = "cache"
nb_execution_in_temp = True
nb_execution_timeout = 900
nb_execution_raise_on_error = True
nb_merge_streams = True
nb_execution_show_tb = True
napoleon_google_docstring = False
napoleon_use_rtype = False
autodoc_typehints = "none"
default_role = "code"
exclude_patterns = ["_build", "jupyter_execute"]
html_theme = "furo"
html_title = "deepfits"
# References to functions and classes must resolve; types in docstrings are prose ("path", "array").
nitpicky = True
nitpick_ignore_regex = [("py:class", ".*")]
