"""What the machine refuses (space, memory) is one line that names the file and the remedy."""

from __future__ import annotations

import errno
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import save_file

from deepfits.errors import InputError, explain, is_out_of_memory, naming, no_space
from deepfits.files import remove_leftovers, writing
from deepfits.stages.fit import fit
from tests.helpers.limits import largest_file
from tests.helpers.small_model import make_model, make_store

BIG = np.random.default_rng(1).normal(size=200_000)


def _hdf5(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file.create_dataset("x", data=BIG)


def _xgboost(path: Path) -> None:
    xgboost = pytest.importorskip("xgboost")
    generator = np.random.default_rng(0)
    data = xgboost.DMatrix(generator.normal(size=(2000, 5)), label=generator.normal(size=2000))
    xgboost.train({"max_depth": 8, "nthread": 1}, data, num_boost_round=20).save_model(path)


def _fits(path: Path) -> None:
    from astropy.io import fits

    fits.PrimaryHDU(BIG).writeto(path)


def _figure(path: Path) -> None:
    figure = pytest.importorskip("matplotlib.figure").Figure(figsize=(10, 10))
    figure.subplots().imshow(BIG.reshape(500, 400), interpolation="nearest")
    figure.savefig(path)


WRITERS: dict[str, Callable[[Path], object]] = {
    "x.txt": lambda path: path.write_bytes(BIG.tobytes()),
    "x.npy": lambda path: np.save(path, BIG),
    "x.npz": lambda path: np.savez(path, BIG),
    "x.h5": _hdf5,
    "x.parquet": lambda path: pq.write_table(pa.table({"a": BIG}), path),
    "x.safetensors": lambda path: save_file({"a": torch.from_numpy(BIG)}, path),
    "x.pt": lambda path: torch.save(torch.from_numpy(BIG), path),
    "x.ubj": _xgboost,
    "x.fits": _fits,
    "x.png": _figure,
}


@pytest.mark.parametrize("name", WRITERS)
def test_no_space_is_one_line_whichever_library_writes(tmp_path: Path, name: str):
    path = tmp_path / name
    with largest_file(20_000), pytest.raises(OSError, match=name) as caught, writing(path) as temporary:
        WRITERS[name](temporary)
    assert caught.value.errno in (errno.EFBIG, errno.ENOSPC)
    line = explain(caught.value)
    assert line is not None
    assert line.startswith(f"{path}: ")
    assert "make space" in line
    assert "\n" not in line
    assert list(tmp_path.iterdir()) == []
    with writing(path) as temporary:
        WRITERS[name](temporary)
    assert path.stat().st_size > 20_000


def test_no_space_is_found_in_what_led_to_an_error():
    error = RuntimeError("could not close")
    error.__cause__ = OSError(errno.ENOSPC, "No space left on device", "a.h5")
    assert no_space(error) == errno.ENOSPC
    assert explain(error) == (
        "a.h5: No space left on device; make space, or write elsewhere, and run the same command again"
    )


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (InputError("say it"), "say it"),
        (
            OSError(errno.EROFS, "Read-only file system", "a"),
            "a: Read-only file system; write elsewhere, and",
        ),
        (PermissionError(errno.EACCES, "Permission denied", "a"), "a: Permission denied; check the path"),
        (OSError(errno.EMFILE, "Too many open files", "a"), "too many open files; permit more"),
        (OSError("half a file\nor less"), "cannot read or write: half a file or less"),
        (MemoryError(), "out of memory (MemoryError); use fewer"),
        (
            UnicodeEncodeError("utf-8", "a\udcff.csv", 1, 2, "surrogates not allowed"),
            "a\udcff.csv: is not valid UTF-8",
        ),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), "out of memory (DefaultCPU"),
        (RuntimeError("shapes do not match"), None),
        (ZeroDivisionError("division by zero"), None),
        (KeyError("errno"), None),
    ],
)
def test_what_a_person_can_mend_is_explained(error: Exception, line: str | None):
    found = explain(error)
    assert found is None if line is None else found is not None and found.startswith(line)


def test_another_place_is_advised_where_nothing_can_be_written(tmp_path):
    """Not for files that cannot be read."""
    (tmp_path / "there").write_text("")
    for name, is_advised in (("new", True), ("there", False), ("", True)):
        error = PermissionError(errno.EACCES, "Permission denied", str(tmp_path / name))
        assert str(explain(error, "write elsewhere (--out)")).endswith("(--out)") == is_advised, name


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (PermissionError(errno.EACCES, "Permission denied", "a"), "a: Permission denied; change its perm"),
        (
            OSError("unable to open file: name = 'a', errno = 13, error message"),
            "a: Permission denied; change",
        ),
        (OSError(errno.EMFILE, "Too many open files"), "a: Too many open files; permit more"),
        (
            OSError("Detail: [errno 116] Stale file handle"),
            "a: Stale file handle; run the same command again",
        ),
        (OSError("errno = 0, truncated file"), "a: damaged (errno = 0, truncated file); fit again"),
        (ValueError("not a table"), "a: damaged (not a table); fit again"),
    ],
)
def test_files_that_the_system_refuses_are_not_called_damaged(error: Exception, line: str):
    with pytest.raises(InputError) as raised, naming("a", "damaged", "fit again"):
        raise error
    assert str(raised.value).startswith(line)


@pytest.mark.parametrize(
    ("module", "package", "extra"),
    [
        ("survey.psf_variation", "sklearn.gaussian_process", "survey"),
        ("redshifts.learning", "sklearn.model_selection", "redshift"),
        ("redshifts.methods.tpot_worker", "dask", "redshift"),
        ("scale.cluster", "dask", "scale"),
        ("stages.partitions", "pandas", "lsdb"),
        ("reporting.map", "PIL", "report"),
    ],
)
def test_a_missing_package_is_of_the_extra_that_is_used(module: str, package: str, extra: str):
    part = {"__name__": f"deepfits.{module}"}
    with pytest.raises(ModuleNotFoundError) as caught:
        exec(f"raise ModuleNotFoundError('No module', name={package!r})", part)
    command = f"pip install 'deepfits[{extra}]'"
    assert explain(caught.value) == f"this needs {package!r}; install it with `{command}`"


def test_features_that_are_all_nan_are_no_result(tmp_path: Path):
    model = make_model(tmp_path / "model")
    store = make_store(tmp_path / "store", model, (3,))
    with h5py.File(store / "shard-00000.h5", "r+") as file:
        file["weight"][:] = 0
    for _ in range(2):
        with pytest.raises(InputError, match=r"none of 3 objects has a fit \(.*3\); check the weights"):
            fit(store, tmp_path / "model", tmp_path / "features", num_steps=2, threads=1)


OUT_OF_MEMORY = """
import resource, torch
from deepfits.errors import is_out_of_memory
torch.zeros(1)
resource.setrlimit(resource.RLIMIT_AS, (2**32, 2**32))
for make in (lambda: torch.zeros(2**31), lambda: torch.nn.Conv2d(1, 64, 3)(torch.zeros(64, 1, 1024, 1024))):
    try:
        make()
    except Exception as error:
        assert is_out_of_memory(error), repr(error)
        print("recognised")
"""


@pytest.mark.slow
def test_pytorch_without_memory_is_recognised():
    run = subprocess.run([sys.executable, "-c", OUT_OF_MEMORY], capture_output=True, text=True, check=False)
    assert run.stdout == "recognised\nrecognised\n", run.stderr
    assert not is_out_of_memory(RuntimeError("size mismatch"))


def test_what_a_killed_process_left_goes_at_every_depth(tmp_path: Path):
    for name in ("a/b/.writing-1-x.fits", ".writing-2-y/.writing-3-z", ".writing-4-n.fits", "a/kept.fits"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("1")
    assert remove_leftovers(tmp_path, of="n.fits") == 1
    assert remove_leftovers(tmp_path) == 3
    assert [path.name for path in sorted(tmp_path.rglob("*")) if path.is_file()] == ["kept.fits"]
