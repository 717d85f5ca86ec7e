"""A small run, drawn by its own model, as the explorer loads it."""

import pytest


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    from tests.helpers.drawn_run import make_run

    return make_run(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def loaded(run):
    from tests.helpers.drawn_run import load

    return load(run)
