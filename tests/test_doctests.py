"""The examples in docstrings hold."""

import doctest
import importlib
from pathlib import Path

import pytest

import deepfits

ROOT = Path(deepfits.__file__).parent
MODULES = sorted(
    ".".join(("deepfits", *path.relative_to(ROOT).with_suffix("").parts)).removesuffix(".__init__")
    for path in ROOT.rglob("*.py")
    if any(">>> " in line and "+SKIP" not in line for line in path.read_text(encoding="utf-8").splitlines())
)


@pytest.mark.parametrize("name", MODULES)
def test_examples(name):
    found = doctest.testmod(importlib.import_module(name), optionflags=doctest.NORMALIZE_WHITESPACE)
    assert found.attempted > 0
    assert found.failed == 0
