"""Cutouts from elsewhere: the same objects in every format give the same store."""

from __future__ import annotations

import logging

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from astropy.io import fits
from hypothesis import given, settings
from hypothesis import strategies as st

import deepfits
from deepfits.errors import InputError
from deepfits.gaussian_psf import fwhm_of
from deepfits.survey.foreign_cutouts import to_shape
from deepfits.survey.readers import open_cutouts, read_description
from deepfits.survey.store import CutoutStore

N, B, SIDE = 11, 3, 40
BANDS = 'bands = ["g", "r", "HSC-I"]\npixel_scale_arcsec = 0.168\nzero_point = [31.4, 27.0, 22.5]\n'
FACTOR = np.array([1.0, 57.543993, 3630.780547])[:, None, None]


@pytest.fixture(scope="module")
def arrays():
    rng = np.random.default_rng(0)
    image = rng.normal(size=(N, B, SIDE, SIDE)).astype(np.float32)
    ivar = rng.uniform(0.5, 2, image.shape).astype(np.float32)
    mask = rng.random(image.shape) < 0.05
    return {
        "image": image,
        "ivar": ivar,
        "mask": mask,
        "object_id": np.arange(100, 100 + N),
        "z_spec": rng.random(N),
    }


def describe(path, text):
    path.write_text(text)
    return path


def read(description, out, size=32, **options):
    store = CutoutStore(deepfits.cutouts(description, out, size=size, shard_size=4, **options))
    return store, store.take(np.arange(len(store)))


def expected(arrays, size=32):
    start = SIDE // 2 - size // 2
    window = np.s_[:, :, start : start + size, start : start + size]
    weight = np.where(arrays["mask"], 0, arrays["ivar"] / FACTOR**2)[window]
    return np.where(weight > 0, (arrays["image"] * FACTOR)[window], 0), weight


def check(found, arrays):
    image, weight = expected(arrays)
    np.testing.assert_allclose(found.image, image, rtol=1e-5)
    np.testing.assert_allclose(found.weight, weight, rtol=1e-5)


def test_hdf5(arrays, tmp_path):
    with h5py.File(tmp_path / "c.h5", "w") as file:
        for name, values in arrays.items():
            file[name] = values
        file["name"] = np.array([b"galaxy"] * N)
    keys = 'file = "c.h5"\nweight = "ivar"\nmask = "mask"\nmask_nonzero_is = "bad"\n'
    store, found = read(describe(tmp_path / "c.toml", keys + BANDS), tmp_path / "store")
    check(found, arrays)
    assert store.info.bands == ("g", "r", "i")
    assert found.object_id.tolist() == list(range(100, 100 + N))
    np.testing.assert_array_equal(found.catalogue["z_spec"], arrays["z_spec"])
    assert set(found.catalogue["name"]) == {"galaxy"}
    assert set(found.catalogue["filter_wavelength_i"]) == {7703.0}  # of HSC-I; g and r may be anyone's
    assert "filter_wavelength_g" not in found.catalogue
    assert len(store.shards) == 3


@pytest.mark.parametrize(("kind", "function"), [("variance", lambda v: 1 / v), ("rms", lambda v: v**-0.5)])
def test_numpy_with_channels_last_and_other_weights(arrays, tmp_path, kind, function):
    moved = {k: np.moveaxis(arrays[k], 1, 3) for k in ("image", "mask")}
    noise = np.moveaxis(function(arrays["ivar"]), 1, 3)
    np.savez(
        tmp_path / "c.npz", pictures=moved["image"], noise=noise, good=~moved["mask"], id=arrays["object_id"]
    )
    said = f'weight_is = "{kind}"\n' if kind == "variance" else ""  # "noise" says it
    keys = f'file = "c.npz"\nimage = "pictures"\nweight = "noise"\n{said}axes = "NHWB"\n'
    keys += 'mask = "good"\nmask_nonzero_is = "good"\nobject_id = "id"\n'
    _, found = read(describe(tmp_path / "c.toml", keys + BANDS), tmp_path / "store")
    check(found, arrays)
    assert found.object_id[0] == 100


def test_multimodal_universe(arrays, tmp_path):
    with h5py.File(tmp_path / "001-of-001.hdf5", "w") as file:
        file["image_flux"], file["image_ivar"] = arrays["image"], arrays["ivar"]
        file["image_mask"] = arrays["mask"]
        file["image_band"] = np.array([[b"hsc-g", b"hsc-r", b"hsc-i"]] * N)
        file["image_scale"] = np.full((N, B), 0.168)
        file["image_psf_fwhm"] = np.tile([0.8, 0.7, 0.6], (N, 1))
        file["object_id"] = np.array([f"obj{i}".encode() for i in range(N)])
        file["healpix"] = np.arange(N)
    keys = 'file = "001-of-001.hdf5"\nformat = "multimodal-universe"\nzero_point = [31.4, 27.0, 22.5]\n'
    with pytest.raises(InputError, match=r"give the meaning of non-zero pixels: mask_nonzero_is"):
        read(describe(tmp_path / "c.toml", keys), tmp_path / "store")
    keys += 'mask_nonzero_is = "bad"\n'
    store, found = read(describe(tmp_path / "c.toml", keys), tmp_path / "store")
    check(found, arrays)
    assert store.info.bands == ("g", "r", "i")
    assert store.info.fwhm_arcsec == pytest.approx((0.8, 0.7, 0.6))
    assert found.object_id[3] == "obj3"
    assert "healpix" in found.catalogue
    given = describe(tmp_path / "given.toml", keys + "fwhm_arcsec = [1.1, 1.2, 1.3]\n")
    store, _ = read(given, tmp_path / "given")
    assert store.info.fwhm_arcsec == pytest.approx((1.1, 1.2, 1.3))


@pytest.mark.parametrize("layout", ["struct of lists", "list of structs"])
def test_multimodal_universe_in_parquet(arrays, tmp_path, layout, monkeypatch):
    """As Hugging Face's datasets write it, a few objects in each row group."""
    parts = {
        "band": [["HSC-G", "HSC-R", "HSC-I"]] * N,
        "flux": arrays["image"].tolist(),
        "ivar": arrays["ivar"].tolist(),
        "mask": arrays["mask"].astype(bool).tolist(),
        "psf_fwhm": [[0.8, 0.7, 0.6]] * N,
        "scale": [[0.168] * B] * N,
    }
    images = [dict(zip(parts, row, strict=True)) for row in zip(*parts.values(), strict=True)]
    if layout == "list of structs":
        images = [
            [dict(zip(parts, band, strict=True)) for band in zip(*row.values(), strict=True)]
            for row in images
        ]
    names = [f"obj{i}" for i in range(N)]
    content = pa.table({"image": images, "z_spec": arrays["z_spec"], "object_id": names})
    pq.write_table(content, tmp_path / "train-00000-of-00001.parquet", row_group_size=4)
    keys = 'file = "train-00000-of-00001.parquet"\nformat = "multimodal-universe"\nmask_nonzero_is = "bad"\n'
    store, found = read(
        describe(tmp_path / "c.toml", keys + "zero_point = [31.4, 27.0, 22.5]\n"), tmp_path / "store"
    )
    check(found, arrays)
    assert store.info.bands == ("g", "r", "i")
    assert store.info.fwhm_arcsec == pytest.approx((0.8, 0.7, 0.6))
    assert found.object_id.tolist() == names
    np.testing.assert_allclose(found.catalogue["z_spec"], arrays["z_spec"])
    monkeypatch.setattr("deepfits.tables.parquet.MOST_OF_SMALL_FILES", 1 << 16)
    pq.write_table(
        pa.table({"image": [{"flux": np.zeros((1, 1000, 1000), bool).tolist()}]}),
        tmp_path / "train-00000-of-00001.parquet",
    )
    with pytest.raises(InputError, match="declares 1000000 values in a file of"):
        read(tmp_path / "c.toml", tmp_path / "other")
    pq.write_table(content.drop(["image"]), tmp_path / "train-00000-of-00001.parquet")
    with pytest.raises(InputError, match="no nested column 'image'"):
        read(tmp_path / "c.toml", tmp_path / "other")


def test_directory_of_fits_cubes(arrays, tmp_path):
    (tmp_path / "cubes").mkdir()
    for index in range(N):
        parts = [fits.PrimaryHDU(arrays["image"][index])]
        parts += [fits.ImageHDU(arrays["ivar"][index], name="IVAR")]
        parts += [fits.ImageHDU(arrays["mask"][index].astype(np.uint8), name="MASK")]
        fits.HDUList(parts).writeto(tmp_path / "cubes" / f"galaxy{index:02d}.fits")
    keys = 'file = "cubes"\nformat = "fits"\nweight = "IVAR"\nmask = "MASK"\nmask_nonzero_is = "bad"\n'
    _, found = read(describe(tmp_path / "c.toml", keys + BANDS), tmp_path / "store")
    check(found, arrays)
    assert found.object_id[2] == "galaxy02"
    (tmp_path / "cubes" / "galaxy05.fits").write_bytes(b"SIMPLE  = nonsense" * 999)
    with pytest.raises(InputError, match=r"galaxy05\.fits: truncated in the header"):
        read(tmp_path / "c.toml", tmp_path / "other")


def test_without_weights_the_noise_is_measured(arrays, tmp_path):
    np.save(tmp_path / "c.npy", arrays["image"] * 3)
    description = describe(tmp_path / "c.toml", 'file = "c.npy"\n' + BANDS)
    store, found = read(description, tmp_path / "store")
    assert store.info.extra["remarks"] == [
        "no weights: constant weight from the noise measured on the cutouts' rims"
    ]
    sigma = found.weight[0, :, 0, 0] ** -0.5 / FACTOR[:, 0, 0]
    np.testing.assert_allclose(sigma, 3, rtol=0.03)


@pytest.mark.parametrize("is_alike", [True, False])
def test_without_weights_objects_of_unlike_noise_have_each_their_own(tmp_path, is_alike):
    rng = np.random.default_rng(3)
    y, x = np.mgrid[:SIDE, :SIDE] - SIDE // 2
    sigma = np.ones((300, 3)) if is_alike else rng.choice([1.0, 4.0], (300, 1)) * np.ones(3)
    sigma[:, 2] = 2.0  # one band is as deep everywhere
    image = rng.normal(0, sigma[..., None, None], (300, 3, SIDE, SIDE))
    # A galaxy as large as the cutout in a tenth of them: its light is no noise.
    image[::10] += 100 * np.exp(-np.hypot(x, y) / 6)
    image[7, :, :, 8:] = np.nan  # hardly anything to measure on
    np.save(tmp_path / "c.npy", image.astype(np.float32))
    description = describe(tmp_path / "c.toml", 'file = "c.npy"\n' + BANDS)
    store, found = read(description, tmp_path / "store")
    measured = found.weight.max(axis=(2, 3)) ** -0.5 / FACTOR[:, 0, 0]
    is_there = np.arange(300) != 7
    assert len(np.unique(measured[is_there, 2])) == 1
    if is_alike:
        assert len(np.unique(measured[is_there, 0])) == 1
        np.testing.assert_allclose(measured[is_there], sigma[is_there], rtol=0.25)
        return
    # 350 differences: 5% each, four times that; the largest galaxies add a little.
    np.testing.assert_allclose(measured[is_there, :2], sigma[is_there, :2], rtol=0.25)
    assert abs(np.median(measured[is_there, :2] / sigma[is_there, :2]) - 1) < 0.05
    assert "the noise in g, r differs between objects" in " ".join(store.info.extra["remarks"])


@pytest.mark.parametrize("ending", ["npz", "h5"])
def test_tables_beside_the_images_and_columns_of_one_value_are_kept(arrays, tmp_path, ending):
    table = np.zeros(N, dtype=[("object_id", "i8"), ("z_spec", "f4"), ("class", "S8")])
    table["object_id"], table["z_spec"], table["class"] = np.arange(N) + 2**60, arrays["z_spec"], b"GALAXY"
    content = {"image": arrays["image"], "labels": table, "mag": np.full((N, 1), 21.5)}
    path = tmp_path / f"c.{ending}"
    if ending == "npz":
        np.savez(path, **content, notes=np.array({"by": "somebody"}, dtype=object))
    else:
        with h5py.File(path, "w") as file:
            file.update(content)
    _, found = read(describe(tmp_path / "c.toml", f'file = "{path.name}"\n' + BANDS), tmp_path / "store")
    np.testing.assert_array_equal(found.object_id, table["object_id"])
    np.testing.assert_array_equal(found.catalogue["z_spec"], table["z_spec"])
    assert found.catalogue["class"].tolist() == ["GALAXY"] * N
    assert (found.catalogue["mag"] == 21.5).all()


def write_parts(directory, arrays, **changed):
    for number, rows in enumerate((slice(0, 5), slice(5, 6), slice(6, N))):
        path = directory / f"healpix={number}" / "001-of-001.hdf5"
        path.parent.mkdir(parents=True, exist_ok=True)
        with h5py.File(path, "w") as file:
            for name, values in arrays.items():
                file[name] = values[rows]
            if number == 2:
                for name, values in changed.items():
                    file.pop(name, None)
                    file[name] = values
    return directory


def test_hdf5_files_in_a_directory_are_one(arrays, tmp_path, caplog):
    """As those of the Multimodal Universe; a directory was taken for one of FITS files."""
    arrays = {**arrays, "name": np.array([f"galaxy {n}".encode() for n in range(N)])}
    keys = 'file = "parts"\nweight = "ivar"\nmask = "mask"\nmask_nonzero_is = "bad"\n' + BANDS
    write_parts(tmp_path / "parts", arrays, extra=np.arange(5))
    _, found = read(describe(tmp_path / "c.toml", keys), tmp_path / "store")
    check(found, arrays)
    np.testing.assert_array_equal(found.object_id, arrays["object_id"])
    np.testing.assert_array_equal(found.catalogue["z_spec"], arrays["z_spec"])
    assert found.catalogue["name"].tolist() == [f"galaxy {n}" for n in range(N)]
    assert "columns that some of 3 files lack are left out: extra" in caplog.text
    assert len(deepfits.check(tmp_path / "c.toml").rows) == B
    smaller = {name: arrays[name][6:, :, 1:-1, 1:-1] for name in ("image", "ivar", "mask")}
    for changed, words in (
        ({"object_id": np.arange(100, 105)}, "object_id"),
        (smaller, r"healpix=2/001-of-001\.hdf5: cutouts have 38 × 38, but 40 × 40 in .*healpix=0"),
    ):
        write_parts(tmp_path / "parts", arrays, **changed)
        with pytest.raises(InputError, match=words):
            read(describe(tmp_path / "c.toml", keys), tmp_path / "other")


def test_columns_in_groups_are_kept(arrays, tmp_path):
    """They were lost, positions and redshifts included, and the objects numbered."""
    with h5py.File(tmp_path / "c.h5", "w") as file:
        for name in ("image", "ivar", "mask"):
            file[f"pixels/{name}"] = arrays[name]
        file["catalogue/object_id"], file["catalogue/z_spec"] = arrays["object_id"], arrays["z_spec"]
        file["z_spec"], file["catalogue/other"] = arrays["z_spec"] + 1, np.arange(N + 1)
        file["table/rows"] = np.rec.fromarrays([np.arange(N) + 0.5], names="ra")
    keys = 'file = "c.h5"\nimage = "pixels/image"\nweight = "pixels/ivar"\nmask = "pixels/mask"\n'
    text = f'{keys}mask_nonzero_is = "bad"\n{BANDS}'
    _, found = read(describe(tmp_path / "c.toml", text), tmp_path / "store")
    check(found, arrays)
    np.testing.assert_array_equal(found.object_id, arrays["object_id"])
    np.testing.assert_array_equal(found.catalogue["z_spec"], arrays["z_spec"] + 1)
    np.testing.assert_array_equal(found.catalogue["catalogue_z_spec"], arrays["z_spec"])
    np.testing.assert_array_equal(found.catalogue["ra"], np.arange(N) + 0.5)


def test_identities_that_are_objects_of_python_are_refused(arrays, tmp_path):
    names = np.array([f"A{n}" for n in range(N)], dtype=object)
    np.savez(tmp_path / "c.npz", image=arrays["image"], object_id=names)
    with pytest.raises(InputError, match=r"object_id holds Python objects, .* save it as numbers or text"):
        read(describe(tmp_path / "c.toml", 'file = "c.npz"\n' + BANDS), tmp_path / "store")
    images = np.empty(2, dtype=object)
    images[:] = [arrays["image"][0], arrays["image"][1, :, :30]]
    np.save(tmp_path / "c.npy", images)
    with pytest.raises(InputError, match=r"c\.npy: holds Python objects, such as images of different sizes"):
        read(describe(tmp_path / "d.toml", 'file = "c.npy"\n' + BANDS), tmp_path / "other")


def test_one_band_needs_no_axis(arrays, tmp_path):
    np.savez(tmp_path / "c.npz", image=arrays["image"][:, 0], ivar=arrays["ivar"][:, 0])
    keys = 'file = "c.npz"\nweight = "ivar"\nbands = ["g"]\npixel_scale_arcsec = 0.168\nzero_point = 31.4\n'
    with pytest.raises(InputError, match="NBHW are needed, or axes = 'NHW' for one band"):
        read(describe(tmp_path / "c.toml", keys), tmp_path / "store")
    _, found = read(describe(tmp_path / "c.toml", keys + 'axes = "NHW"\n'), tmp_path / "store")
    np.testing.assert_allclose(found.image, arrays["image"][:, :1, 4:36, 4:36], rtol=1e-5)
    np.testing.assert_allclose(found.weight, arrays["ivar"][:, :1, 4:36, 4:36], rtol=1e-5)


def test_a_sky_that_is_left_in_is_said(arrays, tmp_path, caplog):
    np.save(tmp_path / "c.npy", arrays["image"] + 100)
    read(describe(tmp_path / "c.toml", 'file = "c.npy"\n' + BANDS), tmp_path / "store")
    for band in "gri":
        assert f"WARNING: c.toml: {band}: the sky at the cutouts' rims lies at" in caplog.text


def test_larger_store_pads_with_weight_zero(arrays, tmp_path):
    np.savez(tmp_path / "c.npz", image=arrays["image"], ivar=arrays["ivar"])
    description = describe(tmp_path / "c.toml", 'file = "c.npz"\nweight = "ivar"\n' + BANDS)
    _, found = read(description, tmp_path / "store", size=64)
    assert not found.weight[..., :12, :].any()
    np.testing.assert_allclose(found.image[..., 12:52, 12:52], arrays["image"] * FACTOR, rtol=1e-5)


def test_other_files_than_arrays_are_called_so(tmp_path, caplog):
    (tmp_path / "c.zarr").mkdir()
    (tmp_path / "c.pkl").write_bytes(b"\x80\x04 a pickle")
    (tmp_path / "c.parquet").write_bytes(b"PAR1" + bytes(100) + b"PAR1")
    other = "not an HDF5, Parquet, NumPy or FITS file; write the images as one array .* into \\.h5 or \\.npz"
    arrays = "no FITS file found .*; for arrays, give the \\.h5 or \\.npz file itself"
    for name, words in (("c.zarr", arrays), ("c.pkl", other), ("c.parquet", "not a readable Parquet")):
        with pytest.raises(InputError, match=f"{name}: {words}"):
            read(describe(tmp_path / "c.toml", f'file = "{name}"\n' + BANDS), tmp_path / "store")


@pytest.mark.parametrize("where", ["array", "attribute of the file", "attribute of the image", "npz"])
def test_bands_that_the_file_itself_says_in_another_order_are_refused(arrays, tmp_path, where):
    def write(path, bands):
        if where == "npz":
            np.savez(path.with_suffix(".npz"), image=arrays["image"], bands=bands.split(","))
            return path.with_suffix(".npz").name
        with h5py.File(path, "w") as file:
            image = file.create_dataset("image", data=arrays["image"])
            if where == "array":
                file["filters"] = np.array(bands.split(","), "S")
            elif where == "attribute of the file":
                file.attrs["bands"] = bands.split(",")
            else:
                image.attrs["filters"] = bands
        return path.name

    for bands in ("DES-G,DES-R,DES-I", "a,b,c"):  # the same, and names that say nothing
        name = write(tmp_path / "c.h5", bands)
        read(describe(tmp_path / "c.toml", f'file = "{name}"\n' + BANDS), tmp_path / f"store{bands[0]}")
    name = write(tmp_path / "c.h5", "i,r,g")
    with pytest.raises(InputError, match=r"lists its bands as i, r, g, .* the description as g, r, HSC-I"):
        read(describe(tmp_path / "c.toml", f'file = "{name}"\n' + BANDS), tmp_path / "other")


def test_a_unit_of_the_file_that_is_another_than_the_zero_point_is_warned_of(arrays, tmp_path, caplog):
    with h5py.File(tmp_path / "c.h5", "w") as file:
        file.create_dataset("image", data=arrays["image"]).attrs["unit"] = "nanomaggies"
    read(describe(tmp_path / "c.toml", 'file = "c.h5"\n' + BANDS), tmp_path / "store")
    assert [f"zero_point {point} is used as given" in caplog.text for point in ("31.4", "27", "22.5")] == [
        True,
        True,
        False,
    ]


@pytest.mark.parametrize("kind", ["attribute", "column"])
def test_numbers_of_the_file_that_are_others_than_the_descriptions_are_warned_of(
    arrays, tmp_path, caplog, kind
):
    """Objects with zero points of their own, as in cutouts of several tiles, were all taken at one."""
    keys = describe(tmp_path / "c.toml", 'file = "c.h5"\n' + BANDS)
    for point, scale in ((27.0, 0.168), (0.0, 0.2)):
        with h5py.File(tmp_path / "c.h5", "w") as file:
            file["image"] = arrays["image"]
            if kind == "attribute":
                file.attrs["Zero_Point"], file.attrs["PIXEL_SCALE"] = point, scale
            else:
                file["magzero"], file["pixscale"] = np.repeat([27.0, point], [5, 6]), np.full(N, scale)
        caplog.clear()
        read(keys, tmp_path / f"store{point}")
        said = [
            text in caplog.text.lower() for text in ("but zero_point of c.toml", "but pixel_scale_arcsec of")
        ]
        assert said == [not point, scale == 0.2]


def test_files_that_hold_no_data_or_need_a_plugin_are_called_so(arrays, tmp_path):
    np.savez(tmp_path / "a.npz", image=arrays["image"], ivar=(1e-9 * arrays["ivar"]).astype(np.float16))
    keys = describe(tmp_path / "a.toml", 'file = "a.npz"\nweight = "ivar"\n' + BANDS)
    with pytest.raises(InputError, match=f"none of {N} sampled cutouts has a pixel with data"):
        read(keys, tmp_path / "a")
    with h5py.File(tmp_path / "b.h5", "w") as file:
        plan = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        plan.set_chunk(arrays["image"].shape)
        plan.set_filter(32001, h5py.h5z.FLAG_OPTIONAL)  # Blosc, by hdf5plugin
        space = h5py.h5s.create_simple(arrays["image"].shape)
        h5py.h5d.create(file.id, b"image", h5py.h5t.IEEE_F32LE, space, plan)
    with pytest.raises(InputError, match="'image' is compressed by a plugin of HDF5"):
        read(describe(tmp_path / "b.toml", 'file = "b.h5"\n' + BANDS), tmp_path / "b")


@pytest.mark.parametrize("kind", ["uint8", "float32"])
def test_pictures_for_the_eye_are_refused(tmp_path, kind):
    """Galaxy10, and what torchvision makes of it, hold the survey's JPEGs and no fluxes."""
    values = np.random.default_rng(0).integers(0, 256, (5, 3, 40, 40)).astype(np.uint8)
    np.savez(tmp_path / "a.npz", image=values if kind == "uint8" else values.astype(kind) / 255)
    text = 'file = "a.npz"\nbands = ["g", "r", "z"]\nzero_point = 22.5\npixel_scale_arcsec = 0.262\n'
    (tmp_path / "a.toml").write_text(text)
    with pytest.raises(InputError, match=r"a\.npz: image holds values from 0 to 255, as in pictures"):
        deepfits.cutouts(tmp_path / "a.toml", tmp_path / "store")


def test_second_run_and_changed_description(arrays, tmp_path):
    np.savez(tmp_path / "c.npz", image=arrays["image"], ivar=arrays["ivar"])
    text = 'file = "c.npz"\nweight = "ivar"\n' + BANDS
    store, _ = read(describe(tmp_path / "c.toml", text), tmp_path / "store")
    before = [p.stat().st_mtime_ns for p in store.shards]
    read(tmp_path / "c.toml", tmp_path / "store")
    assert [p.stat().st_mtime_ns for p in store.shards] == before
    with pytest.raises(InputError, match="its input 'images' has changed"):
        read(describe(tmp_path / "c.toml", text.replace("27.0", "26.0")), tmp_path / "store")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('file = "c.npz"\nbandz = ["g"]', "unknown key 'bandz'; did you mean 'bands'"),
        ('file = "c.npz"\nzero_point = 27.0\npixel_scale_arcsec = 0.2', "give the bands"),
        ('file = "c.npz"\nbands = ["g"]\npixel_scale_arcsec = 0.2', "give zero_point"),
        ('file = "c.npz"\nmask = "image"\n' + BANDS, "give the meaning of non-zero pixels: mask_nonzero_is"),
        ('file = "none.npz"\n' + BANDS, r"none\.npz: no such file"),
        ('file = "c.npz"\nimage = "picture"\n' + BANDS, "no array 'picture'; there are"),
        (
            'file = "c.npz"\nbands = ["g", "r"]\nzero_point = 27.0\npixel_scale_arcsec = 0.2',
            "3 bands in image, but 2",
        ),
        ('file = "c.npz"\naxes = "NBXY"\n' + BANDS, "must be the letters N B H W"),
        ('file = "c.npz"\ncolumns = ["mass"]\n' + BANDS, "column 'mass' is not in the file"),
        ('file = "c.npz"\nweight = "short"\n' + BANDS, "short has shape"),
        ("file = ", "this description is not valid TOML"),
    ],
)
def test_descriptions_that_do_not_fit(arrays, tmp_path, text, words):
    np.savez(tmp_path / "c.npz", image=arrays["image"], short=arrays["image"][:2])
    with pytest.raises(InputError, match=words):
        deepfits.cutouts(describe(tmp_path / "c.toml", text), tmp_path / "store")


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (("g/7/image", "g/8/image"), r"there are g/7/image \(2, 8, 8\), .*\(N, B, H, W\): .*numpy.stack"),
        (("7", "8", "9", "10", "11"), r"\.\.\.; a single array of all objects"),
    ],
)
def test_an_array_for_each_object_is_refused_with_how_to_make_one(tmp_path, names, words):
    with h5py.File(tmp_path / "c.h5", "w") as file:
        for name in names:
            file[name] = np.zeros((2, 8, 8))
        file["link"] = h5py.ExternalLink("/etc/passwd", "x")
    with pytest.raises(InputError, match=words):
        deepfits.cutouts(describe(tmp_path / "c.toml", 'file = "c.h5"\n' + BANDS), tmp_path / "store")


def test_an_array_of_another_name_or_order_is_named(tmp_path):
    two = 'file = "c.h5"\nbands = ["g", "r"]\nzero_point = 27.0\npixel_scale_arcsec = 0.2\n'
    with h5py.File(tmp_path / "c.h5", "w") as file:
        file["data/pictures"], file["ra"] = np.zeros((3, 8, 8, 2)), np.zeros(3)
    for text, words in ((two, "image = 'data/pictures'"), (f"{two}image = 'data/pictures'", "'NHWB'")):
        with pytest.raises(InputError, match=words):
            deepfits.cutouts(describe(tmp_path / "c.toml", text), tmp_path / "store")


def test_files_that_could_run_code_are_refused(tmp_path):
    np.save(tmp_path / "c.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(InputError, match=r"holds Python objects, .* which are not read"):
        deepfits.cutouts(describe(tmp_path / "c.toml", 'file = "c.npy"\n' + BANDS), tmp_path / "store")


@given(st.integers(1, 12), st.integers(1, 12), st.integers(4, 12))
@settings(max_examples=60, deadline=None)
def test_cropping_keeps_the_middle(height, width, size):
    image = np.arange(1.0, height * width + 1).reshape(1, height, width)
    out = to_shape(image, size, size)
    assert out.shape == (1, size, size)
    assert out[0, size // 2, size // 2] == image[0, height // 2, width // 2]
    assert (out > 0).sum() == min(size, height) * min(size, width) or max(height, width) > size > min(
        height, width
    )


def test_values_for_no_data_count_whatever_the_weights_say(arrays, tmp_path):
    """A border of −9999 in one band and of 0 in another, under weights that are the same everywhere."""
    image = arrays["image"].copy()
    image[:, 0, :5], image[:, 1, :, :6] = -9999.0, 0.0
    np.savez(tmp_path / "c.npz", image=image, ivar=np.ones_like(image))
    text = 'file = "c.npz"\nweight = "ivar"\n' + BANDS
    store, found = read(describe(tmp_path / "d.toml", text), tmp_path / "store", size=SIDE)
    is_bad = np.zeros(image.shape, bool)
    is_bad[:, 0, :5], is_bad[:, 1, :, :6] = True, True
    np.testing.assert_array_equal(found.weight == 0, is_bad)
    np.testing.assert_allclose(found.image, np.where(is_bad, 0, arrays["image"] * FACTOR), rtol=1e-5)
    assert sum("treated as no data" in text for text in store.info.extra["remarks"]) == 2


def test_a_mask_that_hides_the_objects_is_warned_of_and_catalogues_need_no_places(arrays, tmp_path, caplog):
    """HSC's DETECTED: a third of the pixels, and all of the middles."""
    mask = np.zeros(arrays["image"].shape, np.int16)
    mask[:, :, 12:28, 12:28], mask[:, :, :2] = 32, 256
    np.savez(tmp_path / "c.npz", **(arrays | {"mask": mask}))
    text = 'file = "c.npz"\nweight = "ivar"\nmask = "mask"\ncolumns = []\n' + BANDS
    read(describe(tmp_path / "d.toml", text + 'mask_nonzero_is = "bad"\n'), tmp_path / "bad")
    assert "removes 100% of the cutouts' centres" in caplog.text
    caplog.clear()
    rows = "\n".join(
        f"{n},{z!r}" for n, z in zip(arrays["object_id"][::-1], arrays["z_spec"][::-1].tolist(), strict=True)
    )
    (tmp_path / "z.csv").write_text(f"object_id,z_spec\n{rows}\n")
    description = describe(tmp_path / "e.toml", text + "bad_planes = [8]\n")
    _, found = read(description, tmp_path / "good", size=SIDE, catalogue=tmp_path / "z.csv")
    np.testing.assert_array_equal(found.catalogue["z_spec"], arrays["z_spec"])
    np.testing.assert_array_equal(found.weight == 0, mask == 256)
    assert not [record for record in caplog.records if record.levelname == "WARNING"]


@pytest.mark.parametrize("name", ["bad_pixel_mask", "goodmask"])
def test_masks_of_arrays_whose_name_says_what_they_mean(arrays, tmp_path, name):
    mask = ~arrays["mask"] if name == "goodmask" else arrays["mask"]
    np.savez(tmp_path / "c.npz", **({k: v for k, v in arrays.items() if k != "mask"} | {name: mask}))
    keys = f'file = "c.npz"\nweight = "ivar"\nmask = "{name}"\n{BANDS}'
    check(read(describe(tmp_path / "c.toml", keys), tmp_path / "store")[1], arrays)


def test_the_psf_of_each_object(arrays, tmp_path, caplog):
    image, ivar = arrays["image"], arrays["ivar"]
    number, num_bands = image.shape[:2]
    widths = np.random.default_rng(2).uniform(0.6, 1.2, (number, num_bands)).astype("f4")
    widths[1, 0] = np.nan
    y, x = np.mgrid[-10:11, -10:11]
    stars = np.exp(-0.5 * (x**2 + y**2) / (widths[..., None, None] / 2.3548 / 0.1) ** 2)
    with h5py.File(tmp_path / "c.h5", "w") as file:
        file.update(
            {"image": image, "ivar": ivar, "widths": widths, "stars": stars, "psfsize_g": widths[:, 1]}
        )
    head = 'file = "c.h5"\nweight = "ivar"\nbands = ["z", "g", "r"]\nzero_point = 31.4\n'
    head += "pixel_scale_arcsec = 0.2\n"

    def seen(text, **options):
        describe(tmp_path / "d.toml", head + text)
        out = tmp_path / f"store-{len(list(tmp_path.iterdir()))}"
        store = CutoutStore(deepfits.cutouts(tmp_path / "d.toml", out, **options))
        return store, fwhm_of(store.read_shard(0).psf)

    store, found = seen('psf = "widths"\n')
    assert np.allclose(found, widths, rtol=2e-3, equal_nan=True)
    assert np.allclose(store.info.fwhm_arcsec, np.nanmedian(widths, axis=0), rtol=2e-3)
    _, found = seen('psf = "stars"\npsf_scale_arcsec = 0.1\n')
    assert np.allclose(found, widths, rtol=0.03, equal_nan=True)
    with caplog.at_level(logging.INFO, logger="deepfits"):
        _, found = seen("")
    assert np.allclose(found[:, 1], widths[:, 1], rtol=2e-3)  # psfsize_g
    assert np.isnan(found[:, 0]).all()
    assert "the PSF of band z, r is unknown" in caplog.text
    _, found = seen('psf = "widths"\n', psf=["z=0.5", "g=psfsize_g"])
    assert np.allclose(found[:, 0], 0.5, rtol=2e-3)
    assert np.allclose(found[:, 1:], widths[:, 1:], rtol=2e-3)
    with pytest.raises(InputError, match=r"widths \(\d+, \d+\) or images"):
        seen('psf = "psfsize_g"\n')


def test_values_that_hardly_repeat_need_no_sorting():
    from deepfits.survey.fill import FILL_SHARE, _repeats_little

    rng = np.random.default_rng(8)
    for dtype in (np.float32, np.float64, ">f4", np.int16, np.int32, np.uint8):
        noise = rng.normal(0, 1000, 100_000).astype(dtype)
        for share in (0.0, 0.9 * FILL_SHARE, 1.1 * FILL_SHARE):
            values = noise.copy()
            values[: int(share * len(values))] = 77
            often = np.unique(values, return_counts=True)[1].max() > FILL_SHARE * len(values)
            assert not (_repeats_little(values) and often)
    assert _repeats_little(rng.normal(size=100_000).astype(np.float32))
    assert not _repeats_little(np.zeros(0, np.float32))


def test_packed_arrays_are_refused_and_whole_numbers_in_floats_are_identities(arrays, tmp_path):
    path = describe(tmp_path / "c.toml", 'file = "c.h5"\nweight = "ivar"\n' + BANDS)
    with h5py.File(tmp_path / "c.h5", "w") as file:
        file["image"], file["ivar"] = arrays["image"] * 100, arrays["ivar"]
        file["object_id"] = arrays["object_id"].astype(float)
        file["image"].attrs["scale_factor"], file["image"].attrs["add_offset"] = np.array([0.01]), 0.0
    with pytest.raises(InputError, match=r"'image' is packed as in netCDF \(scale_factor"):
        read(path, tmp_path / "store")
    with h5py.File(tmp_path / "c.h5", "a") as file:
        file["image"].attrs["scale_factor"] = 1.0
    assert read(path, tmp_path / "store")[1].object_id.tolist() == arrays["object_id"].tolist()


@pytest.mark.parametrize("kind", ["zeros", "rim", "sentinel", "errors"])
def test_what_later_objects_lack_is_no_data(tmp_path, kind):
    """Files are in the order of tiles: what has no data may begin after the first hundreds of objects."""
    rng = np.random.default_rng(3)
    image = rng.normal(0, 2.0, (260, B, 24, 24)).astype(np.float32)
    errors = np.full(image.shape, 2.0, np.float32)
    lost = {"zeros": np.s_[240:, 1], "rim": np.s_[255:, :, :, :6]}.get(kind, np.s_[230:, 1])
    if kind == "errors":
        errors[lost] = 1e-10
    else:
        image[lost] = -99.0 if kind == "sentinel" else 0.0
    is_good = np.ones(image.shape, bool)
    is_good[lost] = False
    with h5py.File(tmp_path / "c.h5", "w") as file:
        file["image"], file["noise"] = image, errors
    keys = 'file = "c.h5"\n' + ('weight = "noise"\n' if kind == "errors" else "")
    with open_cutouts(read_description(describe(tmp_path / "c.toml", keys + BANDS))) as found:
        weight = found.read(0, 260, None)[1] * found.factor[:, None, None] ** 2
    np.testing.assert_array_equal(weight > 0, is_good)
    np.testing.assert_allclose(weight[is_good], 0.25, rtol=0.05)


@pytest.mark.parametrize(
    ("power", "words"), [(-2, None), (2, "variances"), (1, "errors"), (-1, "1/σ, and not 1/σ²")]
)
def test_weights_that_are_something_else_are_called_so_where_the_depth_varies(tmp_path, caplog, power, words):
    """As for images, but by the noise of each object."""
    rng = np.random.default_rng(2)
    sigma = rng.uniform(0.5, 2.0, (30, 1, 1, 1))
    image = (sigma * rng.normal(size=(30, 1, 40, 40))).astype(np.float32)
    weight = np.broadcast_to(sigma**power, image.shape).astype(np.float32)
    np.savez(tmp_path / "c.npz", image=image, ivar=weight)
    keys = 'file = "c.npz"\nweight = "ivar"\nbands = ["g"]\nzero_point = 31.4\npixel_scale_arcsec = 0.2\n'
    read(describe(tmp_path / "c.toml", keys), tmp_path / "store")
    said = [text for text in caplog.messages if "c.toml: g: the " in text]
    assert [f"are they {words}" in text for text in said] == [True] * bool(words)
    role = {"variances": "variance", "errors": "rms"}.get(words)
    assert role is None or f'give weight_is = "{role}"' in said[0]
