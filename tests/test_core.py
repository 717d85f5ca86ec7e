"""The small things everybody needs: whole-or-absent files, errors, held-out objects, lazy imports."""

import ast
import collections
import dataclasses
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import deepfits
from deepfits.errors import InputError, nearest
from deepfits.files import (
    TEMPORARY_PREFIX,
    fingerprint,
    read_json,
    read_text,
    remove_leftovers,
    write_json,
    writing,
)
from deepfits.splits import HELD_OUT_FRACTION, PerObject, is_held_out, unit_hash

SOURCE = Path(deepfits.__file__).parent


def test_writing_leaves_the_old_file_when_the_block_fails(tmp_path):
    path = tmp_path / "table.txt"
    path.write_text("old")

    def fail():
        with writing(path) as temporary:
            temporary.write_text("half of the new one")
            raise RuntimeError("killed")

    with pytest.raises(RuntimeError, match="killed"):
        fail()
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["table.txt"]


def test_writing_replaces_files_and_directories_whole(tmp_path):
    for content in ("one", "two"):
        with writing(tmp_path / "set") as temporary:
            temporary.mkdir()
            (temporary / "part").write_text(content)
    assert (tmp_path / "set" / "part").read_text() == "two"


def test_a_killed_writer_leaves_nothing_under_the_final_name(tmp_path):
    path = tmp_path / "out.bin"
    code = (
        "import os, signal, sys; from deepfits.files import writing\n"
        f"with writing({str(path)!r}) as t:\n"
        "    t.write_bytes(b'x' * 1000); os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -9
    assert not path.exists()
    assert len(list(tmp_path.glob(f"{TEMPORARY_PREFIX}*"))) == 1
    assert remove_leftovers(tmp_path) == 1
    assert list(tmp_path.iterdir()) == []


def test_json_round_trip_and_refusals(tmp_path):
    path = tmp_path / "a.json"
    write_json(path, {"x": [1, 2.5, None]})
    assert read_json(path) == {"x": [1, 2.5, None]}
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(path, {"x": float("nan")})
    assert read_json(path) == {"x": [1, 2.5, None]}
    path.write_text("[1]")
    with pytest.raises(InputError, match="not a JSON object"):
        read_json(path)
    path.write_text("{")
    with pytest.raises(InputError, match="cannot read"):
        read_json(path)
    with pytest.raises(InputError, match="no such"):
        read_json(tmp_path / "absent.json")
    path.write_text(json.dumps({"x": "y" * 100}))
    with pytest.raises(InputError, match="more than the 10"):
        read_text(path, max_bytes=10)


def test_fingerprint_changes_with_the_content(tmp_path):
    path = tmp_path / "f"
    path.write_bytes(b"a")
    first = fingerprint(path)
    path.write_bytes(b"b")
    assert len(first) == 16
    assert fingerprint(path) != first


def test_nearest_names_the_likely_key_or_all_of_them():
    assert "'steps'" in nearest("step", ["steps", "seed"])
    assert "seed, steps" in nearest("zzz", ["steps", "seed"])
    assert nearest("Q", ["q", "z"]) == "did you mean 'q'?"
    assert nearest("zzz", [f"c{n:03}" for n in range(700)]).endswith("c038, c039 and 660 more")


def test_held_out_fraction_and_independence_of_order():
    ids = np.arange(20_000)
    held = is_held_out(ids)
    # Binomial: the standard deviation of the fraction is 0.0028; five of them.
    assert abs(held.mean() - HELD_OUT_FRACTION) < 0.0142
    shuffled = np.random.default_rng(1).permutation(ids)
    np.testing.assert_array_equal(is_held_out(shuffled), held[shuffled])
    # Another salt is another assignment: the two are independent.
    other = unit_hash(ids, salt="other") < HELD_OUT_FRACTION
    assert abs((held & other).mean() - HELD_OUT_FRACTION**2) < 5 * np.sqrt(0.04 / 20_000)


@pytest.mark.parametrize("loaded", ["", "[load(name) for name in MODULES]"], ids=["package", "stages"])
def test_importing_loads_nothing_heavy(loaded):
    """So the help of every command is there at once."""
    code = (
        "import sys, deepfits, deepfits.cli\n"
        f"from deepfits.stages import MODULES, load\n{loaded}\n"
        "heavy = {'torch', 'astropy', 'sklearn', 'matplotlib', 'galsim', 'scipy', 'h5py', 'pandas'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    environment = {**os.environ, "PYTHONWARNINGS": "ignore"}
    done = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True, env=environment
    )
    assert done.stdout.strip() == "[]"


def test_images_are_read_without_pytorch():
    """So `check`, `detect` and `cutouts` begin within a second or two."""
    code = "import sys, deepfits.survey.build, deepfits.survey.inspection; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "False"


# Who may import whom: docs/inside/architecture.md. The modules at the top, but those that know the
# stages, are the ground that all parts stand on; the values list what a part may use beside it and itself.
_KNOW_THE_STAGES = {"__init__", "__main__", "cli", "options", "recipes"}
_SMALL = {path.stem for path in SOURCE.glob("*.py")} - _KNOW_THE_STAGES | {"tables", "plot"}
_DIRECTIONS = {
    "survey": {"scale"},  # the loop over shards
    "sky": set(),
    "models": {"survey.store", "survey.normalise", "survey.bands"},
    "training": {"survey.store", "survey.normalise", "survey.neighbours", "models", "fitting"},
    "fitting": {"survey.store", "survey.normalise", "survey.neighbours", "models"},
    "redshifts": {"survey.store", "survey.normalise", "survey.bands", "models"},
    "reporting": {"survey.store", "redshifts.results"},
    "explorer": {"survey", "models", "fitting", "reporting", "redshifts"},
    "scale": set(),
}
_BARE_NODE = {"torch", "numpy", "h5py", "pyarrow", "safetensors", "lightning"}


def _imports(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield node.module


def test_the_ground_uses_nothing_above_it():
    paths = [*SOURCE.glob("*.py"), *SOURCE.glob("tables/*.py"), *SOURCE.glob("plot/*.py")]
    for path in (p for p in paths if p.relative_to(SOURCE).parts[0].removesuffix(".py") in _SMALL):
        for used in _imports(path):
            inner = used.removeprefix("deepfits").lstrip(".").split(".")[0]
            assert not used.startswith("deepfits.") or inner in _SMALL, (
                f"{path.relative_to(SOURCE)} imports {used}"
            )


@pytest.mark.parametrize("part", sorted(_DIRECTIONS))
def test_parts_import_only_what_they_may(part):
    for path in sorted((SOURCE / part).rglob("*.py")):
        for name in _imports(path):
            if not name.startswith("deepfits"):
                continue
            inner = name.removeprefix("deepfits").lstrip(".")
            allowed = _SMALL | _DIRECTIONS[part] | {part}
            is_allowed = inner == "" or any(inner == a or inner.startswith(a + ".") for a in allowed)
            assert is_allowed, f"{path.relative_to(SOURCE)} imports {name}"


def _module_graph():
    """Return which module of the package names which others, inside functions and for types too."""
    names = {}
    for path in SOURCE.rglob("*.py"):
        parts = ("deepfits", *path.relative_to(SOURCE).with_suffix("").parts)
        names[".".join(parts).removesuffix(".__init__")] = path
    graph = {}
    for name, path in names.items():
        tree = ast.parse(path.read_text())
        used = set()
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom):
                wanted = [f"{node.module}.{alias.name}" for alias in node.names]
            else:
                wanted = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            for one in wanted:
                while one and one not in names:
                    one = one.rpartition(".")[0]
                used |= {one} - {"", name}
        graph[name] = used
    return graph


def test_no_module_imports_itself_by_way_of_others():
    graph = _module_graph()
    assert len(graph) > 150
    while leaves := {name for name, used in graph.items() if not used & graph.keys()}:
        graph = {name: used for name, used in graph.items() if name not in leaves}
    assert not graph


def test_no_two_classes_share_a_name():
    places = collections.defaultdict(list)
    for path in SOURCE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef):
                places[node.name].append(str(path.relative_to(SOURCE)))
    assert len(places) > 150
    shared = {name for name, where in places.items() if len(where) > 1}
    assert not shared


def _top_level_imports(path):
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module


@pytest.mark.parametrize("part", ["models", "training", "fitting"])
def test_a_bare_gpu_node_can_train_and_fit(part):
    paths = [
        *(SOURCE / part).rglob("*.py"),
        *map(SOURCE.joinpath, ("observation.py", "gaussian_psf.py", "tensors.py")),
    ]
    paths += [SOURCE / f"survey/{name}.py" for name in ("store", "normalise", "bands")]
    for path in paths:
        for name in _top_level_imports(path):
            top = name.split(".")[0]
            is_fine = top in _BARE_NODE | {"deepfits"} | sys.stdlib_module_names
            assert is_fine, f"{path.relative_to(SOURCE)} imports {name} when it is loaded"


def test_profiles_of_psfs_are_expanded_without_scipy():
    code = """
import sys
sys.modules["scipy"] = None
from deepfits.gaussian_psf import moffat_psf
assert abs(moffat_psf(0.8, 3.0)[:, 0].sum() - 1) < 1e-6
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_rows_of_dataclasses_are_joined_as_they_were_taken():
    """Tensors in mappings became arrays, numbers of NumPy were indexed, and shared arrays repeated."""
    torch = pytest.importorskip("torch")

    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Rows(PerObject):
        SHARED = ("matrix",)

        number: np.ndarray
        named: dict
        matrix: np.ndarray
        scale: float
        more: PerObject | None

    named = {"a": torch.arange(3), "b": np.arange(3.0)}
    whole = Rows(number=np.arange(3), named=named, matrix=np.eye(2), scale=np.float64(0.2), more=None)
    parts = [dataclasses.replace(whole.take(slice(2)), more=whole.take(slice(2))), whole.take([2])]
    joined = Rows.join(parts)
    assert joined.number.tolist() == joined.named["b"].tolist() == [0, 1, 2]
    assert torch.equal(joined.named["a"], torch.arange(3))
    assert (joined.matrix.shape, joined.scale, joined.more) == ((2, 2), 0.2, None)


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ("{call}", 1),
        ("def main():\n    {call}\nmain()", 1),
        ("if __name__ == '__main__':\n    {call}", 0),
        ("def main():\n    {call}\nif __name__ == '__main__':\n    main()", 0),
    ],
)
def test_workers_need_a_main_guard_and_say_so_in_a_line(tmp_path, body, status):
    script = tmp_path / "mine.py"
    script.write_text(
        "from deepfits.processes import in_processes\n"
        "print('start')\n" + body.format(call="print(sorted(in_processes(abs, [-1, -2], 2)))") + "\n"
    )
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=120)
    assert done.returncode == status, done.stderr
    if status:
        last = done.stderr.strip().splitlines()[-1]
        assert "mine.py: line" in last
        assert "__main__" in last
        assert done.stdout == "start\n"
        assert done.stderr.count("Traceback") == 1
    else:
        assert "[1, 2]" in done.stdout


def test_a_script_from_standard_input_cannot_start_workers():
    body = "from deepfits.processes import in_processes\nlist(in_processes(abs, [-1, -2], 2))\n"
    done = subprocess.run([sys.executable, "-"], input=body, capture_output=True, text=True, timeout=120)
    assert "save it as a file, or use workers=1" in done.stderr.strip().splitlines()[-1]


def test_every_stage_is_listed_and_unknown_names_are_errors():
    assert {"simulate", "stack", "detect", "cutouts", "train", "fit"} < set(dir(deepfits))
    assert {"inpaint", "redshift", "report", "run", "demo", "check"} < set(dir(deepfits))
    with pytest.raises(AttributeError, match="no attribute 'sumulate'"):
        _ = deepfits.sumulate


def test_parts_of_the_package_are_loaded_on_first_use():
    code = "import deepfits; print(deepfits.errors.InputError, deepfits.tables.read_table, deepfits.plot)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "deepfits.errors.InputError" in done.stdout
    assert not hasattr(deepfits, "nothing")


def test_a_part_that_lacks_a_package_names_it():
    code = "import sys; sys.modules['pyarrow'] = None; import deepfits; deepfits.tables"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "pyarrow" in done.stderr.strip().splitlines()[-1]


def test_every_path_that_the_readme_names_exists():
    root = Path(__file__).resolve().parents[1]
    links = re.findall(r"\]\(([^)#]+)\)", (root / "README.md").read_text(encoding="utf-8"))
    paths = [link for link in links if not link.startswith("http")]
    assert len(paths) >= 10
    # Names in a list after a full path stand in the same directory.
    directory = ""
    for path in paths:
        if "/" in path:
            directory = path.rsplit("/", 1)[0]
        assert (root / path).exists() or (root / directory / path).exists(), path
