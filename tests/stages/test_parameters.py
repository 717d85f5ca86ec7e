"""Every parameter of a stage is documented, and stated once: in its configuration or a group it inherits."""

import inspect

import pytest

from deepfits.stages import MODULES, load
from deepfits.stages.stage import documentation


def documented_by(kind):
    """Return the parameters that the docstring of this class itself documents."""
    _, _, section = inspect.cleandoc(kind.__dict__.get("__doc__") or "").partition("Parameters\n----------\n")
    lines = [line for line in section.splitlines() if line and not line.startswith((" ", "-"))]
    return {name.strip() for line in lines for name in line.split(",")}


@pytest.mark.parametrize("name", MODULES)
def test_every_parameter_is_documented_once(name):
    config = load(name).config
    classes = config.__mro__
    assert set(documentation(config)) == set(inspect.signature(config).parameters)
    for kind in classes:
        # who documents a parameter states its type and default too, be it in place of a group's
        assert documented_by(kind) <= set(inspect.get_annotations(kind)), kind
    for field in inspect.signature(config).parameters:
        stated = [kind for kind in classes if field in inspect.get_annotations(kind)]
        said = [kind for kind in classes if field in documented_by(kind)]
        assert said
        assert len(said) <= len(stated)
