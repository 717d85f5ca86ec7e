"""Damaged files: a clean error or right numbers, never a crash, a hang or a wrong number.

A *wrong number* would be one that differs from the undamaged file's although the pixel's own bytes are
undamaged: so bytes of the headers are flipped, and what is still read must hold to what planes promise
(finite, weights not negative, zero where there is no data).
"""

from __future__ import annotations

import bz2
import gzip
import os
import warnings

import h5py
import numpy as np
import pytest
from astropy.io import fits
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from deepfits.errors import InputError
from deepfits.survey.catalogue import read_catalogue
from deepfits.survey.find import find_fields
from deepfits.survey.fitsfile import peek_headers
from deepfits.survey.planes import ReadOptions, open_planes
from deepfits.survey.readers import open_cutouts, read_description
from deepfits.survey.store import Cutouts, CutoutStore, StoreInfo, create_store, shard_name, write_shard
from deepfits.tables import write_table
from tests.helpers.gaussian_sky import make_wcs

SHAPE = (24, 40)
# Thousands of cases: DEEPFITS_FUZZ=2000 python -m pytest tests/survey/test_fuzz.py
RUNS = settings(
    max_examples=int(os.environ.get("DEEPFITS_FUZZ", "60")),
    deadline=None,
    suppress_health_check=list(HealthCheck),
)


def image():
    return np.random.default_rng(0).normal(100, 5, SHAPE).astype(np.float32)


def make(path, kind):
    header = make_wcs(SHAPE).to_header()
    header["FILTER"], header["MAGZERO"] = "g", 31.4
    if kind == "rice":
        hdu = fits.CompImageHDU(image(), header, compression_type="RICE_1")
        fits.HDUList([fits.PrimaryHDU(), hdu]).writeto(path)
    elif kind == "calexp":
        mask = fits.ImageHDU(np.zeros(SHAPE, np.int32), name="MASK")
        mask.header["MP_BAD"] = 0
        variance = fits.ImageHDU(np.full(SHAPE, 25.0, np.float32), name="VARIANCE")
        fits.HDUList([fits.PrimaryHDU(), fits.ImageHDU(image(), header), mask, variance]).writeto(path)
    else:
        fits.writeto(path, image(), header)
    raw = path.read_bytes()
    path.unlink()
    return {"gz": gzip.compress, "bz2": bz2.compress}.get(kind, bytes)(raw)


NAMES = {"plain": "coadd-g.fits", "rice": "coadd-g.fits.fz", "calexp": "calexp-HSC-G-1-2,3.fits"}
NAMES |= {"gz": "coadd-g.fits.gz", "bz2": "coadd-g.fits.bz2"}


class Files(dict):
    """Files by kind, which do not print themselves."""

    def __repr__(self):
        return f"Files({list(self)})"


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    directory = tmp_path_factory.mktemp("fuzz")
    return Files({kind: make(directory / f"{kind}.fits", kind) for kind in NAMES})


def cleanly(function, name):
    """Return what `function` returns, or None for an InputError that names the file."""
    try:
        return function()
    except InputError as error:
        if name not in str(error):
            raise AssertionError(f"the error does not name {name}: {error}") from error
        return None


def read(path):
    """Return image and weight, or None for a clean error."""

    def planes_of():
        sources = find_fields([path])[0].images
        with open_planes(sources, ReadOptions()) as planes:
            return next(iter(planes.values())).read()

    return cleanly(planes_of, path.name)


def holds_together(result):
    """Hold what was read to the promises of `Plane.rows`."""
    if result is None:
        return
    flux, weight = result
    assert flux.shape == weight.shape
    assert flux.dtype == weight.dtype == np.float32
    assert np.isfinite(flux).all()
    assert np.isfinite(weight).all()
    assert (weight >= 0).all()
    assert not flux[weight == 0].any()


def damage(raw, flips, cut):
    data = bytearray(raw)
    for place, value in flips:
        data[int(place * (len(data) - 1))] ^= value
    return bytes(data[: int(cut * len(data))] if cut is not None else data)


flips = st.lists(st.tuples(st.floats(0, 1), st.integers(1, 255)), min_size=1, max_size=8)
cuts = st.one_of(st.none(), st.floats(0, 1))


@pytest.mark.parametrize("kind", list(NAMES))
def test_undamaged(files, tmp_path, kind):
    path = tmp_path / NAMES[kind]
    path.write_bytes(files[kind])
    flux, weight = read(path)
    tolerance = 0.5 if kind == "rice" else 1e-4
    np.testing.assert_allclose(flux, image(), atol=tolerance)
    assert (weight > 0).all()


@pytest.mark.parametrize("kind", list(NAMES))
@RUNS
@given(where=flips, cut=cuts)
def test_flipped_bytes_and_cut_ends(files, tmp_path, kind, where, cut):
    path = tmp_path / NAMES[kind]
    path.write_bytes(damage(files[kind], where, cut))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        holds_together(read(path))


@pytest.mark.parametrize("kind", ["plain", "rice", "calexp"])
@RUNS
@given(where=st.lists(st.tuples(st.floats(0, 1), st.integers(32, 126)), min_size=1, max_size=3))
@example(where=[(0.44561699981496206, 32)])  # a ZNAXIS that is text
def test_changed_letters_in_headers(files, tmp_path, kind, where):
    """Only the headers change, to other printable letters, which makes far more files that still open."""
    data = bytearray(files[kind])
    headers = [i for i in range(0, len(data), 80) if data[i : i + 8].strip().isalnum()]
    for place, letter in where:
        card = headers[int(place * (len(headers) - 1))]
        data[card + int(place * 7919) % 80] = letter
    path = tmp_path / NAMES[kind]
    path.write_bytes(bytes(data))
    holds_together(read(path))


@RUNS
@given(st.binary(max_size=6000))
@example(b"SIMPLE  =                    T" + b" " * 5730)
@example(b"")
def test_any_bytes(tmp_path, content):
    path = tmp_path / "coadd-g.fits"
    path.write_bytes(content)
    holds_together(read(path))
    cleanly(lambda: peek_headers(path), path.name)


@RUNS
@given(where=flips, cut=cuts)
def test_damaged_stores(tmp_path_factory, where, cut):
    directory = tmp_path_factory.mktemp("store")
    info = StoreInfo(bands=("g", "r"), size=8, pixel_scale_arcsec=0.2)
    create_store(directory, info)
    rng = np.random.default_rng(1)
    arrays = rng.normal(size=(2, 5, 2, 8, 8)).astype(np.float32)
    cutouts = Cutouts(object_id=np.arange(5), image=arrays[0], weight=np.abs(arrays[1]))
    path = directory / shard_name(0)
    write_shard(path, cutouts, info)
    path.write_bytes(damage(path.read_bytes(), where, cut))
    found = cleanly(lambda: CutoutStore(directory).read_shard(0), path.name)
    if found is not None:
        assert found.image.shape == (5, 2, 8, 8)
        assert (found.weight >= 0).all()
        assert np.isfinite(found.image[found.weight > 0]).all()


@RUNS
@given(where=flips, cut=cuts)
def test_damaged_catalogues(tmp_path_factory, where, cut):
    path = tmp_path_factory.mktemp("cat") / "catalogue.parquet"
    write_table(
        path, {"object_id": np.arange(40), "ra": np.linspace(1, 2, 40), "dec": np.zeros(40)}, info={"a": 1}
    )
    path.write_bytes(damage(path.read_bytes(), where, cut))
    found = cleanly(lambda: read_catalogue(path), path.name)
    if found is not None:
        assert len({len(v) for v in found.values()}) == 1


@RUNS
@given(where=flips, cut=cuts)
@example(where=[(0.198, 128)], cut=None)  # exponents of floats: values of 1e-39, weights of 1e76
def test_damaged_arrays(tmp_path_factory, where, cut):
    directory = tmp_path_factory.mktemp("arrays")
    with h5py.File(directory / "c.h5", "w") as file:
        file["image"] = np.random.default_rng(0).normal(size=(5, 2, 8, 8)).astype(np.float32)
        file["object_id"] = np.arange(5)
    text = 'file = "c.h5"\nbands = ["g", "r"]\nzero_point = 27.0\npixel_scale_arcsec = 0.2\n'
    (directory / "c.toml").write_text(text)
    path = directory / "c.h5"
    path.write_bytes(damage(path.read_bytes(), where, cut))
    try:
        with open_cutouts(read_description(directory / "c.toml")) as found:
            flux, weight = found.read(0, found.number, 8)
    except InputError:
        return
    assert flux.shape == weight.shape
    assert np.isfinite(flux).all()
    assert np.isfinite(weight).all()
