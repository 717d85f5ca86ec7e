"""The same small inputs for every test of all stages."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.helpers.stage_runs import RUNS, make_base


@pytest.fixture(scope="session")
def base(tmp_path_factory) -> Path:
    return make_base(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="session")
def first(base: Path, tmp_path_factory) -> Callable[[str], Path]:
    """Give the result of a stage's first run, made once."""
    made: dict[str, Path] = {}

    def of(stage: str) -> Path:
        if stage not in made:
            made[stage] = tmp_path_factory.mktemp(stage) / "out"
            RUNS[stage](base, made[stage])
        return made[stage]

    return of
