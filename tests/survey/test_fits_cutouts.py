"""FITS cutouts of other people: however they are spread over files, the store is the same."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table

import deepfits
from deepfits.errors import InputError
from deepfits.gaussian_psf import fwhm_of
from deepfits.passbands import WAVELENGTHS
from deepfits.survey.store import CutoutStore
from tests.helpers.gaussian_sky import make_wcs

NAMES = ("A-1", "B_2.5", "C3")
BANDS = ("g", "r", "z")
SIDE = 40
NJY = 57.54399373  # one count at zero point 27


@pytest.fixture(scope="module")
def objects():
    rng = np.random.default_rng(0)
    out = {}
    for name in NAMES:
        image = rng.normal(0, 1, (3, SIDE, SIDE)).astype(np.float32)
        ivar = rng.uniform(0.7, 1.4, image.shape).astype(np.float32)
        mask = (rng.random(image.shape) < 0.05).astype(np.int16)
        out[name] = {"image": image, "ivar": ivar, "mask": mask}
    return out


def header(band=None):
    out = make_wcs((SIDE, SIDE), scale=0.2).to_header()
    out["MAGZERO"] = 27.0
    if band:
        out["FILTER"] = band
    return out


def write(path, values, head=None):
    path.parent.mkdir(exist_ok=True)
    fits.writeto(path, values, head)


def in_files(directory, objects, pattern, *, only=None):
    for name, planes in objects.items():
        for index, band in enumerate(BANDS):
            for kind, end in (("image", ""), ("ivar", ".ivar"), ("mask", ".mask")):
                if only is None or only(name, band, kind):
                    path = directory / pattern.format(name=name, band=band, end=end)
                    write(path, planes[kind][index], header() if kind == "image" else None)


def in_extensions(directory, objects, named=True):
    for name, planes in objects.items():
        hdus = [fits.PrimaryHDU()]
        for index, band in enumerate(BANDS):
            for kind, extname in (("image", band), ("ivar", f"{band}_IVAR"), ("mask", f"{band}_MASK")):
                head = header() if kind == "image" else None
                if named:
                    hdus.append(fits.ImageHDU(planes[kind][index], head, name=extname))
                elif kind == "image":
                    hdus.append(fits.ImageHDU(planes[kind][index], head))
        fits.HDUList(hdus).writeto(directory / f"{name}.fits")


def test_of_several_kinds_of_weights_one_is_used_and_this_is_said_once(objects, tmp_path, caplog):
    directory = tmp_path / "stamps"
    in_files(directory, objects, "{name}_{band}{end}.fits")
    for name, planes in objects.items():
        for index, band in enumerate(BANDS):
            write(directory / f"{name}_{band}.rms.fits", 7 * planes["ivar"][index] ** -0.5)
    check(*read(directory, tmp_path / "store"), objects)
    said = "files of rms are not used for images that have ivar too"
    assert caplog.text.count(said) == 1
    read(directory, tmp_path / "again")  # in a notebook
    assert caplog.text.count(said) == 2


def test_pairs_of_image_and_weight_without_bands_in_their_names(objects, tmp_path):
    directory = tmp_path / "stamps"
    directory.mkdir()
    for name, planes in objects.items():
        hdus = [fits.PrimaryHDU()]
        for index in range(len(BANDS)):
            ivar = np.where(planes["mask"][index] != 0, 0, planes["ivar"][index]).astype(np.float32)
            hdus.append(fits.ImageHDU(planes["image"][index], header(), name="SCI"))
            hdus.append(fits.ImageHDU(ivar, name="IVAR"))
        fits.HDUList(hdus).writeto(directory / f"{name}.fits")
    store, found = read(directory, tmp_path / "store", 'bands = ["g", "r", "z"]\n')
    check(store, found, objects)


def in_cubes(directory, objects):
    for name, planes in objects.items():
        hdus = [fits.PrimaryHDU(planes["image"], header())]
        hdus += [fits.ImageHDU(planes["ivar"], name="IVAR"), fits.ImageHDU(planes["mask"], name="MASK")]
        fits.HDUList(hdus).writeto(directory / f"{name}.fits")


def read(directory, out, keys='mask_nonzero_is = "bad"\n', size=32):
    description = directory.parent / f"{out.name}.toml"
    description.write_text(f'file = "{directory.name}"\n{keys}')
    store = CutoutStore(deepfits.cutouts(description, out, size=size, shard_size=2))
    return store, store.take(np.arange(len(store)))


def check(store, found, objects, *, has_weights=True):
    window = np.s_[:, SIDE // 2 - 16 : SIDE // 2 + 16, SIDE // 2 - 16 : SIDE // 2 + 16]
    assert found.object_id.tolist() == sorted(objects)
    assert store.info.bands == BANDS
    assert store.info.pixel_scale_arcsec == pytest.approx(0.2, rel=1e-4)
    for row, name in enumerate(sorted(objects)):
        planes = {kind: values[window] for kind, values in objects[name].items()}
        if has_weights:
            weight = np.where(planes["mask"] != 0, 0, planes["ivar"] / NJY**2)
            np.testing.assert_allclose(found.weight[row], weight, rtol=1e-5)
        flux = np.where(found.weight[row] > 0, planes["image"] * NJY, 0)
        np.testing.assert_allclose(found.image[row], flux, rtol=1e-5)
        assert (found.weight[row] > 0).mean() > 0.9


@pytest.mark.parametrize("is_flat", [True, False])
def test_a_mask_in_the_file_of_a_cube_is_used_with_one_beside_it(objects, tmp_path, is_flat):
    """The file's own was left out."""
    directory = tmp_path / "stamps"
    directory.mkdir()
    masked = {}
    for name, planes in objects.items():
        own = np.zeros_like(planes["mask"])
        own[:, 18] = 1
        hdus = [fits.PrimaryHDU(planes["image"], header()), fits.ImageHDU(planes["ivar"], name="IVAR")]
        hdus.append(fits.ImageHDU(own[0] if is_flat else own, name="BADMASK"))
        fits.HDUList(hdus).writeto(directory / f"{name}.fits")
        fits.writeto(directory / f"{name}.mask.fits", planes["mask"])
        masked[name] = planes | {"mask": planes["mask"] | own}
    store, found = read(directory, tmp_path / "store", 'bands = ["g", "r", "z"]\nmask_nonzero_is = "bad"\n')
    check(store, found, masked)


@pytest.mark.parametrize(
    "pattern",
    [
        "{name}_{band}{end}.fits",
        "{name}-{band}{end}.fits",
        "HSC-{band}-{name}{end}.fits.gz",
        "{band}/{name}{end}.fits",
        "{name}/{band}{end}.fits",
        "{name}/cutout-{band}{end}.fits",
    ],
)
def test_one_file_for_each_band(objects, tmp_path, pattern):
    directory = tmp_path / "stamps"
    directory.mkdir()
    in_files(directory, objects, pattern)
    store, found = read(directory, tmp_path / "store", 'bands = ["g", "r", "z"]\nmask_nonzero_is = "bad"\n')
    check(store, found, objects)


def test_a_mask_of_all_bands_beside_files_of_single_bands(objects, tmp_path):
    directory = tmp_path / "stamps"
    objects = {name: its for name, its in objects.items() if name != "B_2.5"}  # B is a band
    in_files(directory, objects, "{name}_{band}{end}.fits", only=lambda name, band, kind: kind != "mask")
    for name, planes in objects.items():
        write(directory / f"{name}_mask.fits", planes["mask"][0])
    same = {name: its | {"mask": np.repeat(its["mask"][:1], 3, axis=0)} for name, its in objects.items()}
    check(*read(directory, tmp_path / "store"), same)
    for path in directory.glob("C3_*.ivar.fits"):
        path.unlink()
    write(directory / "C3_ivar.fits", objects["C3"]["ivar"][0])
    with pytest.raises(InputError, match=r"C3_ivar\.fits: weights of all bands"):
        read(directory, tmp_path / "another")


def test_weights_and_masks_in_directories_of_their_own(objects, tmp_path):
    directory = tmp_path / "stamps"
    directory.mkdir()
    for name, planes in objects.items():
        for index, band in enumerate(BANDS):
            for kind, folder in (("image", "images"), ("ivar", "ivar"), ("mask", "masks")):
                write(directory / folder / f"{name}_{band}.fits", planes[kind][index], header(band))
            for kind in ("psf", "seg"):
                write(directory / "images" / f"{name}_{band}.{kind}.fits", np.ones((9, 9)), header(band))
            write(directory / "models" / f"{name}_{band}.fits", planes["image"][index], header(band))
    store, found = read(directory, tmp_path / "store")
    check(store, found, objects)
    store, found = read(directory / "images", tmp_path / "another")
    check(store, found, objects)


@pytest.mark.parametrize("named", [True, False])
def test_one_hdu_for_each_band(objects, tmp_path, named):
    directory = tmp_path / "stamps"
    directory.mkdir()
    in_extensions(directory, objects, named)
    keys = 'mask_nonzero_is = "bad"\n' if named else 'bands = ["g", "r", "z"]\n'
    store, found = read(directory, tmp_path / "store", keys)
    check(store, found, objects, has_weights=named)


def test_weights_and_masks_beside_files_with_one_hdu_for_each_band(objects, tmp_path):
    """They were not used, without a word."""
    directory = tmp_path / "stamps"
    directory.mkdir()
    for name, planes in objects.items():
        for kind, end, order in (("image", "", 1), ("ivar", ".ivar", -1), ("mask", ".mask", 1)):
            hdus = [fits.ImageHDU(planes[kind][i], header(), name=b) for i, b in enumerate(BANDS)]
            fits.HDUList([fits.PrimaryHDU(), *hdus[::order]]).writeto(directory / f"{name}{end}.fits")
    check(*read(directory, tmp_path / "store"), objects)
    fits.writeto(directory / "A-1.mask.fits", objects["A-1"]["mask"][0], overwrite=True)
    with pytest.raises(InputError, match=r"A-1.mask.fits: no two-dimensional image of band g in this mask"):
        read(directory, tmp_path / "another")


def test_weights_beside_images_of_the_only_band(objects, tmp_path):
    directory = tmp_path / "stamps"
    directory.mkdir()
    for name, planes in objects.items():
        write(directory / f"{name}.fits", planes["image"][0], header())
        write(directory / f"{name}.ivar.fits", planes["ivar"][0])
    _, found = read(directory, tmp_path / "store", 'bands = ["g"]\n', size=SIDE)
    np.testing.assert_allclose(found.weight[0, 0], objects["A-1"]["ivar"][0] / NJY**2, rtol=1e-5)


def test_one_cube_for_each_object(objects, tmp_path):
    directory = tmp_path / "stamps"
    directory.mkdir()
    in_cubes(directory, objects)
    store, found = read(directory, tmp_path / "store", 'bands = ["g", "r", "z"]\nmask_nonzero_is = "bad"\n')
    check(store, found, objects)


@pytest.mark.parametrize("as_cube", [True, False])
def test_cutouts_of_the_legacy_surveys_viewer(objects, tmp_path, as_cube):
    """HDUs without names: IMAGETYP says what they are, BANDS or BAND of which band."""
    directory = tmp_path / "stamps"
    directory.mkdir()
    for name, planes in objects.items():
        ivar = np.where(planes["mask"] != 0, 0, planes["ivar"]).astype(np.float32)
        hdus = [] if as_cube else [fits.PrimaryHDU()]
        for place in [slice(None)] if as_cube else range(len(BANDS)):
            for kind, values in (("IMAGE", planes["image"]), ("INVVAR", ivar)):
                head = header()
                head["BANDS"], head["IMAGETYP"] = "grz", kind if as_cube else kind.lower()
                if not as_cube:
                    head["BAND"] = BANDS[place]
                hdus.append((fits.ImageHDU if hdus else fits.PrimaryHDU)(values[place], head))
        if as_cube:
            head = header()
            head["IMAGETYP"] = "MASKBITS"
            hdus.append(fits.ImageHDU(np.zeros((SIDE, SIDE), np.int16), head))
        fits.HDUList(hdus).writeto(directory / f"{name}.fits")
    store, found = read(directory, tmp_path / "store")
    check(store, found, objects)


def test_an_object_without_a_band_is_kept_counted_and_listed(objects, tmp_path):
    directory = tmp_path / "stamps"
    directory.mkdir()
    in_files(directory, objects, "{name}_{band}{end}.fits", only=lambda n, b, k: (n, b) != ("B_2.5", "r"))
    _, found = read(directory, tmp_path / "store")
    assert found.object_id.tolist() == sorted(NAMES)
    assert not found.weight[1, 1].any()
    assert not found.image[1, 1].any()
    assert found.weight[1, 0].any()
    assert found.weight[0, 1].any()
    summary = json.loads((tmp_path / "store/summary.json").read_text())
    assert summary["num_without_data"] == {"g": 0, "r": 1, "z": 0}
    rows = list(csv.DictReader((tmp_path / "store/incomplete.csv").read_text().splitlines()))
    assert [r["object_id"] for r in rows if float(r["fraction_valid_r"]) == 0] == ["B_2.5"]


def test_cutouts_of_different_sizes_share_their_middles(objects, tmp_path):
    directory = tmp_path / "stamps"
    directory.mkdir()
    smaller = {n: {k: v[:, 4:-4, 4:-4] if n == "C3" else v for k, v in p.items()} for n, p in objects.items()}
    in_files(directory, smaller, "{name}_{band}{end}.fits")
    store, found = read(directory, tmp_path / "store")
    check(store, found, objects)


def test_weights_up_to_a_factor_are_scaled_to_the_measured_noise(tmp_path):
    rng = np.random.default_rng(5)
    directory = tmp_path / "stamps"
    for name in "ABCDEFGH":
        for band in BANDS:
            write(directory / f"{name}_{band}.fits", rng.normal(0, 1, (SIDE, SIDE)), header())
            write(directory / f"{name}_{band}.weight.fits", np.full((SIDE, SIDE), 300.0))
    store, found = read(directory, tmp_path / "store", "")
    # 8 rims of 400 pixels in each band know the variance to 2.5%.
    np.testing.assert_allclose(found.weight * NJY**2, 1, rtol=0.15)
    assert any("relative weights" in line for line in store.info.extra["remarks"])


BAD = {
    "mask without polarity": ({}, "", "mask_nonzero_is"),
    "band not named": ({}, 'bands = ["g", "r"]\nmask_nonzero_is = "bad"\n', "files of band z"),
    "weights of some": (
        {"only": lambda n, b, k: k == "image" or (n == "A-1" and k == "ivar")},
        "",
        "lacks weights",
    ),
    "weights alone": (
        {"only": lambda n, b, k: not (n == "C3" and b == "g" and k == "image")},
        'mask_nonzero_is = "bad"\n',
        "C3",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_what_cannot_be_told_is_refused_with_a_remedy(objects, tmp_path, case):
    options, keys, words = BAD[case]
    directory = tmp_path / "stamps"
    directory.mkdir()
    in_files(directory, objects, "{name}_{band}{end}.fits", **options)
    with pytest.raises(InputError, match=words):
        read(directory, tmp_path / "store", keys)


def test_cutouts_nested_too_deep_are_named(objects, tmp_path):
    directory = tmp_path / "stamps"
    (directory / "tile1").mkdir(parents=True)
    in_files(directory, objects, "tile1/{band}/{name}{end}.fits")
    with pytest.raises(InputError, match=r"tile1/g/A-1\.fits is nested too deep"):
        read(directory, tmp_path / "store", 'mask_nonzero_is = "bad"\n')


def test_cutouts_of_another_pixel_scale_are_refused(objects, tmp_path):
    directory = tmp_path / "stamps"
    directory.mkdir()
    in_files(directory, objects, "{name}_{band}{end}.fits", only=lambda n, b, k: k == "image")
    other = make_wcs((SIDE, SIDE), scale=0.3).to_header()
    other["MAGZERO"] = 27.0
    fits.writeto(directory / "D_g.fits", objects["A-1"]["image"][0], other)
    with pytest.raises(InputError, match=r"0\.3000 arcsec"):
        read(directory, tmp_path / "store", "")


@pytest.mark.parametrize(
    ("move", "says"),
    [(0.05, None), (0.4, "warned"), (3.0, "refused"), ("turned", "refused"), ("sizes", None)],
)
def test_bands_that_lie_apart_by_their_wcs_are_said(objects, tmp_path, move, says):
    """Cutouts are not shifted: bands of one object are to lie on one grid."""
    directory = tmp_path / "stamps"
    directory.mkdir()
    in_files(directory, objects, "{name}_{band}{end}.fits", only=lambda n, b, k: k == "image")
    for name, planes in objects.items():
        own = make_wcs((SIDE, SIDE), scale=0.2, rotation=90.0 if move == "turned" else 0.0).to_header()
        own["MAGZERO"], image = 27.0, planes["image"][1]
        if move == "sizes":  # about the same middle
            image, own["CRPIX1"], own["CRPIX2"] = image[3:-3, 2:-2], own["CRPIX1"] - 2, own["CRPIX2"] - 3
        elif move != "turned":
            own["CRPIX1"] += move
        fits.writeto(directory / f"{name}_r.fits", image, own, overwrite=True)
    if says == "refused":
        with pytest.raises(InputError, match=r"A-1_g\.fits: by their WCS r lies \d+\.\d pixels from g"):
            read(directory, tmp_path / "store", "")
        read(directory, tmp_path / "store", "pixel_scale_arcsec = 0.2")
        return
    store, _ = read(directory, tmp_path / "store", "")
    found = [text for text in store.info.extra["remarks"] if "by their WCS r lies 0.4 pixels from g" in text]
    assert len(found) == (says == "warned")


def test_a_second_run_keeps_what_is_there_and_refuses_other_files(objects, tmp_path):
    directory = tmp_path / "stamps"
    directory.mkdir()
    in_files(directory, objects, "{name}_{band}{end}.fits")
    _, first = read(directory, tmp_path / "store")
    before = (tmp_path / "store/shard-00000.h5").stat().st_mtime_ns
    _, second = read(directory, tmp_path / "store")
    assert (tmp_path / "store/shard-00000.h5").stat().st_mtime_ns == before
    np.testing.assert_array_equal(first.image, second.image)
    write(directory / "D_g.fits", objects["A-1"]["image"][0], header())
    with pytest.raises(InputError, match="its input 'images' has changed"):
        read(directory, tmp_path / "store")


def test_the_command_line_reads_descriptions(objects, tmp_path, capsys, monkeypatch):
    from deepfits.cli import main

    monkeypatch.setattr("signal.signal", lambda *which: None)
    monkeypatch.setattr("deepfits.cli._set_up", lambda *how: None)
    directory = tmp_path / "stamps"
    directory.mkdir()
    in_files(directory, objects, "{name}_{band}{end}.fits", only=lambda n, b, k: k == "image")
    (tmp_path / "mine.toml").write_text('file = "stamps"\n')
    with pytest.raises(SystemExit, match="0"):
        main(["cutouts", str(tmp_path / "mine.toml"), "--out", str(tmp_path / "store")])
    assert len(CutoutStore(tmp_path / "store")) == 3
    with pytest.raises(SystemExit, match="0"):
        main(["check", str(tmp_path / "mine.toml")])
    assert "3 objects, one file for each band" in capsys.readouterr().out


def test_files_of_which_no_two_are_bands_of_one_object_are_refused(objects, tmp_path):
    (tmp_path / "cutouts").mkdir()
    for name, planes in objects.items():
        for index, band in enumerate(BANDS):
            write(tmp_path / f"cutouts/{name[0]}x{band}.fits", planes["image"][index], header(band))
    with pytest.raises(InputError, match=r"no two files are bands of the same object.*OBJECT_BAND\.fits"):
        read(tmp_path / "cutouts", tmp_path / "store")


@pytest.mark.parametrize(
    "pattern", ["{line}-cutout-{band}-9813-pdr3_wide", "SN{place}_ztf_z{band}_q2_refimg"]
)
def test_files_of_one_place_are_bands_of_one_object_if_their_names_do_not_tell(objects, tmp_path, pattern):
    """HSC's service names cutouts by the lines of a request; words such as zg of ZTF are not looked for."""
    line = 2
    for place, planes in enumerate(objects.values()):
        for index, band in enumerate(BANDS):
            head = header(band)
            head["CRVAL1"] += 0.1 * place
            path = tmp_path / "cutouts" / f"{pattern.format(line=line, band=band, place=place)}.fits"
            write(path, planes["image"][index], head)
            line += 1
    store = read(tmp_path / "cutouts", tmp_path / "store")[0]
    assert (len(store), store.info.bands) == (len(NAMES), BANDS)
    images = store.take(np.arange(len(store))).image / NJY
    there = store.catalogue()["ra"].argsort()  # identities are the names of one band's files
    for planes, image in zip(objects.values(), images[there], strict=True):
        np.testing.assert_allclose(image, planes["image"][:, 4:36, 4:36], atol=1e-4)


def test_a_catalogue_with_other_identities_is_matched_by_position(objects, tmp_path, caplog):
    for place, planes in enumerate(objects.values()):
        for index, band in enumerate(BANDS):
            head = header(band)
            head["CRVAL1"] += 0.1 * place
            write(tmp_path / "cutouts" / f"t150.{place}+2.0.{band}.fits", planes["image"][index], head)
    (tmp_path / "m.toml").write_text('file = "cutouts"')
    ra = 150 + 0.1 * np.array([2, 0, 7])
    columns = {"objID": 2**60 + np.array([2, 0, 7]), "ra": ra, "dec": [2.0] * 3, "z_spec": [0.2, 0.0, 0.7]}
    Table(columns).write(tmp_path / "c.fits")
    store = CutoutStore(
        deepfits.cutouts(tmp_path / "m.toml", tmp_path / "store", size=32, catalogue=tmp_path / "c.fits")
    )
    found = store.catalogue()
    assert "matched by position" in caplog.text
    assert found["object_id"].tolist() == ["t150.0+2.0", "t150.1+2.0", "t150.2+2.0"]
    np.testing.assert_array_equal(found["z_spec"], [0.0, np.nan, 0.2])
    assert found["catalogue_id"].tolist() == [str(2**60), "", str(2**60 + 2)]
    columns["ra"] = ra + 0.01
    Table(columns).write(tmp_path / "far.fits")
    with pytest.raises(InputError, match=r"far\.fits: no row for any of the 3 cutouts.*middle of a cutout"):
        deepfits.cutouts(tmp_path / "m.toml", tmp_path / "far", size=32, catalogue=tmp_path / "far.fits")


@pytest.mark.parametrize("form", ["a cube each", "an array", "a table"])
def test_all_objects_in_one_file_are_refused_with_what_is_read(objects, tmp_path, form):
    """The first of several cubes was taken, and the others left out without a word."""
    cubes = [planes["image"] for planes in objects.values()]
    column = fits.Column("image", f"{cubes[0].size}E", dim=f"({SIDE},{SIDE},3)", array=np.stack(cubes))
    hdus = {
        "a cube each": [fits.ImageHDU(cube, header()) for cube in cubes],
        "an array": [fits.ImageHDU(np.stack(cubes), header())],
        "a table": [fits.BinTableHDU.from_columns([column])],
    }[form]
    fits.HDUList([fits.PrimaryHDU(), *hdus]).writeto(tmp_path / "all.fits")
    with pytest.raises(InputError, match=r"as one array \(N, B, H, W\)"):
        read(tmp_path / "all.fits", tmp_path / "store", 'bands = ["g", "r", "z"]\n')
    if form == "a cube each":
        _, found = read(tmp_path / "all.fits", tmp_path / "store", 'bands = ["g", "r", "z"]\nimage = 2\n')
        start = (SIDE - found.image.shape[-1]) // 2
        np.testing.assert_allclose(
            found.image[0, 0, 5, 5], cubes[1][0, start + 5, start + 5] * NJY, rtol=1e-4
        )


@pytest.mark.parametrize(
    "cards",
    [
        {"BANDS": "grz"},
        {"BAND0": "g", "BAND1": "r", "BAND2": "z"},
        {"FILTER1": "g", "FILTER2": "r", "FILTER3": "z"},
    ],
)
def test_layers_of_a_cube_are_the_bands_that_its_header_says(tmp_path, objects, cards):
    for name, planes in objects.items():
        head = header()
        head.update(cards)
        write(tmp_path / "c" / f"{name}.fits", planes["image"], head)

    def bands(text):
        (tmp_path / "c.toml").write_text(f'file = "c"\n{text}')
        return CutoutStore(
            deepfits.cutouts(tmp_path / "c.toml", tmp_path / f"s{len(text)}", size=32)
        ).info.bands

    assert bands("") == bands('bands = ["g", "r", "z"]\n') == BANDS
    with pytest.raises(InputError, match=r"lists its bands as g, r, z, .* the description as r, g, z"):
        bands('bands = ["r", "g", "z"]   \n')


def test_objects_with_zero_points_of_their_own(tmp_path, caplog):
    """Marks of no data are other fluxes in each, and what is doubtful of later ones is said too."""
    rng = np.random.default_rng(2)
    for number in range(24):
        point = 25 + 0.2 * (number % 7)
        counts = (rng.normal(0, 2, (SIDE, SIDE)) / 10 ** ((31.4 - point) / 2.5)).astype(np.float32)
        counts[:8], counts[20, 20] = -999, 1e30
        head = header("r")
        head["MAGZERO"] = point
        if number == 23:
            head["MAGSYS"] = "Vega"
        write(tmp_path / "c" / f"A{number}_r.fits", counts, head)
    store, found = read(tmp_path / "c", tmp_path / "store", 'bands = ["r"]\n', size=SIDE)
    weight = found.weight[:, 0]
    assert not weight[:, :8].any()
    assert not weight[:, 20, 20].any()
    assert (weight > 0).mean() == pytest.approx(0.8 - 1 / SIDE**2)
    assert np.std(found.image[:, 0] * np.sqrt(weight)) == pytest.approx(0.8**0.5, rel=0.02)
    assert "r: MAGZERO = 25.40 is in Vega magnitudes, by MAGSYS" in caplog.text
    assert "r: 24 of 38400 sampled pixels are more than 1e+12 times the noise" in caplog.text
    assert len(store.info.extra["remarks"]) == 4


@pytest.mark.parametrize("in_file", [True, False])
def test_the_meaning_of_weights_given_in_the_description_precedes_their_name(objects, tmp_path, in_file):
    directory = tmp_path / "stamps"
    directory.mkdir()
    for name, planes in objects.items():
        for image, ivar, band in zip(planes["image"], planes["ivar"], BANDS, strict=True):
            hdus = [fits.PrimaryHDU(image, header())]
            if in_file:
                hdus.append(fits.ImageHDU(1 / ivar, name="WHT"))
            else:
                write(directory / f"{name}_{band}.weight.fits", 1 / ivar)
            fits.HDUList(hdus).writeto(directory / f"{name}_{band}.fits")
    unmasked = {name: planes | {"mask": 0 * planes["mask"]} for name, planes in objects.items()}
    store, found = read(directory, tmp_path / "store", 'weight_is = "variance"\n')
    check(store, found, unmasked)


@pytest.mark.parametrize("seconds", [2000.0, 800.0])
def test_weights_that_are_exposure_times_are_up_to_a_factor(tmp_path, seconds):
    """As in drizzled images of HST, even where a second is by chance nearly the inverse variance."""
    directory = tmp_path / "stamps"
    directory.mkdir()
    rng = np.random.default_rng(5)
    head = header()
    head["EXPTIME"] = 2000.0
    inverse_variance = 2.9 * seconds  # noise off by a factor of 1.7
    for name in "abcd":
        noise = rng.normal(0, inverse_variance**-0.5, (SIDE, SIDE)).astype(np.float32)
        fits.writeto(directory / f"{name}_g_drz.fits", noise, head)
        fits.writeto(directory / f"{name}_g_wht.fits", np.full((SIDE, SIDE), seconds, np.float32), head)
    _, found = read(directory, tmp_path / "store", "")
    ratio = np.median(found.weight) * NJY**2 / inverse_variance
    assert ratio == pytest.approx(1.0 if seconds == 2000.0 else 1 / 2.9, rel=0.1)


def test_filters_and_positions_are_taken_from_headers(objects, tmp_path):
    """Neither was recorded: redshifts allowed for any filters, and labels were not matched by position."""
    directory = tmp_path / "stamps"
    for number, (name, planes) in enumerate(objects.items()):
        for index, band in enumerate(BANDS):
            head = header(f"HSC-{band.upper()}{'2' if band == 'r' and number else ''}")
            head["CRVAL1"] = 150.0 + number
            write(directory / f"{name}_{band}.fits", planes["image"][index], head)
    _, found = read(directory, tmp_path / "store", "")
    np.testing.assert_allclose(found.catalogue["ra"], [150, 151, 152], atol=1e-9)
    np.testing.assert_allclose(found.catalogue["dec"], 2, atol=1e-9)
    assert found.catalogue["filter_wavelength_g"].tolist() == [4809] * 3
    assert found.catalogue["filter_wavelength_r"].tolist() == [6229, 6228, 6228]
    _, found = read(directory, tmp_path / "declared", "pixel_scale_arcsec = 0.2\n")
    assert "ra" not in found.catalogue  # the headers are not the cutouts' own
    _, found = read(directory, tmp_path / "named", 'bands = ["HSC-G", "HSC-R", "HSC-Z"]\n')
    assert found.catalogue["filter_wavelength_r"].tolist() == [6229, 6228, 6228]  # headers precede names
    text = "id,ra,dec,filter_wavelength_z\nA-1,150,2,8900\nB_2.5,,,\nC3,152,2.01,\n"
    (tmp_path / "mine.csv").write_text(text)
    with_catalogue = deepfits.cutouts(
        tmp_path / "store.toml", tmp_path / "joined", catalogue=tmp_path / "mine.csv", size=32
    )
    found = CutoutStore(with_catalogue).take(np.arange(3))
    np.testing.assert_allclose(found.catalogue["dec"], [2, 2, 2.01], atol=1e-9)
    np.testing.assert_allclose(found.catalogue["ra"], [150, 151, 152], atol=1e-9)
    assert found.catalogue["filter_wavelength_z"].tolist() == [8900, 8906, 8906]


def test_a_filter_in_the_header_of_a_cube_is_not_that_of_all_its_bands(objects, tmp_path):
    directory = tmp_path / "stamps"
    for name, planes in objects.items():
        head = header("u.MP9301")
        head["INSTRUME"], head["PHOTPLAM"] = "MegaPrime", 3800.0
        write(directory / f"{name}.fits", planes["image"], head)
    _, found = read(directory, tmp_path / "store", 'bands = ["g", "r", "z"]\n')
    seen = [found.catalogue[f"filter_wavelength_{band}"][0] for band in BANDS]
    assert seen == [WAVELENGTHS["cfht_megacam"][band] for band in BANDS]


def test_cutouts_that_were_trimmed_at_an_edge_are_warned_of(objects, tmp_path, caplog):
    """What lies in the middle of the remaining pixels was taken for the object, without a word."""
    directory = tmp_path / "stamps"
    for name, planes in objects.items():
        for index, band in enumerate(BANDS):
            head, image = header(), planes["image"][index]
            if name == "C3":
                head["CRPIX1"], image = head["CRPIX1"] - 10, image[:, 10:]
            write(directory / f"{name}_{band}.fits", image, head)
    (tmp_path / "mine.csv").write_text("id,ra,dec\nA-1,150,2\nB_2.5,150,2\nC3,150,2\n")
    (tmp_path / "c.toml").write_text('file = "stamps"\n')
    deepfits.cutouts(tmp_path / "c.toml", tmp_path / "store", catalogue=tmp_path / "mine.csv", size=32)
    assert "C3_g.fits: 30×40 pixels, while others are square" in caplog.text
    assert "1 of 3 objects lie more than 2 pixels from the middle" in caplog.text
    assert "object_id C3 by 5:" in caplog.text


@pytest.mark.parametrize("form", ["time in the name", "name again", "cube"])
def test_a_directory_for_each_object_gives_its_name(objects, tmp_path, form):
    """Archives' names hold the time of the request, or the object's name again."""
    directory = tmp_path / "stamps"
    directory.mkdir()
    for name, planes in objects.items():
        if form == "cube":
            head = header()
            head["BANDS"] = "grz"
            write(directory / name / "cutout.fits", planes["image"], head)
        for index, band in enumerate(BANDS if form != "cube" else ()):
            end = f"HSC-{band.upper()}-9325-18{index}" if form == "time in the name" else f"{name}_{band}"
            write(directory / name / f"{end}.fits", planes["image"][index], header())
    _, found = read(directory, tmp_path / "store", "")
    assert found.object_id.tolist() == sorted(objects)
    assert (found.weight > 0).all()


def gaussian(sigma, side=31):
    y, x = np.mgrid[:side, :side] - side // 2
    return np.exp(-(x**2 + y**2) / 2 / sigma**2).astype(np.float32)


@pytest.mark.parametrize("form", ["files", "HSC's service", "HDUs", "one HDU in each file", "cubes"])
def test_the_psf_of_each_object_is_taken_from_its_files(objects, tmp_path, caplog, form):
    """HSC's were read as further objects, and all others ignored."""
    directory = tmp_path / "stamps"
    directory.mkdir()
    objects = {str(number): its for number, its in enumerate(objects.values(), 2)}
    for name, planes in objects.items():
        images, sigmas = planes["image"], [(2 + index / 2) * int(name) for index in range(3)]
        psfs = [gaussian(sigma, 61) for sigma in sigmas]
        hdus = []
        for image, psf, band in zip(images, psfs, BANDS, strict=True):
            head = header(band)
            plane = fits.ImageHDU(psf, name="PSF" if form == "one HDU in each file" else f"{band}_PSF")
            hdus += [fits.ImageHDU(image, head, name="SCI"), plane]
            stem = f"{name}-cutout-HSC-{band.upper()}-9813-wide" if "HSC" in form else f"{name}_{band}"
            if form in ("files", "HSC's service"):
                fits.HDUList([fits.PrimaryHDU(), hdus[-2]]).writeto(directory / f"{stem}.fits")
            if form == "HSC's service":
                stem = f"{name}-psf-calexp-wide-HSC-{band.upper()}-9813-5,4-150.1-2"
            if form in ("files", "HSC's service"):
                fits.writeto(directory / f"{stem}{'_psf' * (form == 'files')}.fits", psf)
            if form == "one HDU in each file":
                fits.HDUList([fits.PrimaryHDU(), *hdus[-2:]]).writeto(directory / f"{stem}.fits")
        if form == "cubes":
            head = header()
            head["BANDS"] = "grz"
            hdus = [fits.ImageHDU(images, head, name="SCI"), fits.ImageHDU(np.stack(psfs), name="PSF")]
        if form in ("HDUs", "cubes"):
            fits.HDUList([fits.PrimaryHDU(), *hdus]).writeto(directory / f"{name}.fits")
    _, found = read(directory, tmp_path / "store", "")
    assert len(found.object_id) == 3
    expected = 0.2 * 2.3548 * np.outer([2, 3, 4], [2, 2.5, 3])
    np.testing.assert_allclose(fwhm_of(found.psf), expected, rtol=0.03)  # as other images of PSFs
    assert "most compact" not in caplog.text
    _, found = read(directory, tmp_path / "given", "fwhm_arcsec = [1.0, 2.0, 3.0]\n")
    np.testing.assert_allclose(fwhm_of(found.psf), [[1, 2, 3]] * 3, rtol=0.01)


def test_psfs_of_no_cutout_and_without_light_are_warned_of(objects, tmp_path, caplog):
    directory = tmp_path / "stamps"
    for name, planes in objects.items():
        if name != "B_2.5":
            write(directory / f"{name}_g.fits", planes["image"][0], header())
            write(directory / f"{name}_g_psf.fits", gaussian(3.0) * (name == "C3"))
    write(directory / "psf_of_something.fits", gaussian(3.0))
    store, found = read(directory, tmp_path / "store", "")
    assert found.object_id.tolist() == ["A-1", "C3"]
    assert "psf_of_something.fits and 0 more: PSFs of no cutout" in caplog.text
    assert any("A-1_g_psf.fits: a PSF image must" in text for text in store.info.extra["remarks"])
    np.testing.assert_allclose(fwhm_of(found.psf[1, 0]), 0.2 * 2.3548 * 3, rtol=0.03)


def test_hdus_of_astrocut_whose_filters_are_in_cards(objects, tmp_path):
    """All are called CUTOUT, and ACS has two wheels."""
    directory = tmp_path / "stamps"
    directory.mkdir()
    for name, planes in objects.items():
        hdus = [fits.PrimaryHDU()]
        for index, wheels in enumerate((("F606W", "CLEAR2L"), ("CLEAR1L", "F814W"))):
            head = header()
            head["FILTER1"], head["FILTER2"] = wheels
            hdus.append(fits.ImageHDU(planes["image"][index], head, name="CUTOUT"))
        fits.HDUList(hdus).writeto(directory / f"{name}.fits")
    store, found = read(directory, tmp_path / "store", "", size=SIDE)
    assert store.info.bands == ("F606W", "F814W")
    np.testing.assert_allclose(found.image[0], objects["A-1"]["image"][:2] * NJY, rtol=1e-5)


def test_images_of_a_single_layer_are_images(objects, tmp_path):
    """As ``(1, H, W)``: they were taken for cubes of all bands, and refused."""
    layers = {name: {kind: v[:, None] for kind, v in planes.items()} for name, planes in objects.items()}
    in_files(tmp_path / "stamps", layers, "{name}_{band}{end}.fits")
    check(*read(tmp_path / "stamps", tmp_path / "store"), objects)


@pytest.mark.parametrize("is_cube", [True, False])
def test_a_table_beside_the_cutouts_is_none(objects, tmp_path, caplog, is_cube):
    """Its name gives no band, or it was the file that told how all of them are made."""
    directory = tmp_path / "stamps"
    directory.mkdir()
    if is_cube:
        in_cubes(directory, objects)
    else:
        in_files(directory, objects, "{name}_{band}{end}.fits")
    Table({"object_id": list(objects), "z": [0.1, 0.2, 0.3]}).write(directory / "0-catalogue.fits")
    keys = 'bands = ["g", "r", "z"]\nmask_nonzero_is = "bad"\n'
    check(*read(directory, tmp_path / "store", keys), objects)
    assert "0-catalogue.fits: no image in this file; not used" in caplog.text


def test_names_of_hdus_count_where_all_have_the_filter_of_one(objects, tmp_path):
    """As where the header of the reference band was copied: they were refused as two HDUs of one band."""
    directory = tmp_path / "stamps"
    directory.mkdir()
    for name, planes in objects.items():
        hdus = [fits.PrimaryHDU()]
        for index, band in enumerate(BANDS):
            for kind, extname in (("image", band), ("ivar", f"{band}_IVAR"), ("mask", f"{band}_MASK")):
                hdus.append(fits.ImageHDU(planes[kind][index], header("r"), name=extname.upper()))
        fits.HDUList(hdus).writeto(directory / f"{name}.fits")
    check(*read(directory, tmp_path / "store"), objects)
    for path in directory.iterdir():
        with fits.open(path, mode="update") as hdus:
            hdus[4].name = "R_SCI"
            hdus[7].name = "R"
    with pytest.raises(InputError, match="two HDUs of band r"):
        read(directory, tmp_path / "another")
