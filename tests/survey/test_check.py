"""`check`: a table for good images, a warning with a remedy for each kind of bad ones."""

from __future__ import annotations

import gzip
import logging
import re
import warnings

import h5py
import numpy as np
import pytest
from astropy.io import fits

import deepfits
from deepfits.errors import InputError
from deepfits.photometry import njy_per_count
from deepfits.survey.catalogue import read_catalogue, read_info
from deepfits.survey.fields import image_set, open_field
from deepfits.survey.inspection import Findings, Row
from deepfits.survey.planes import Plane
from tests.helpers.gaussian_sky import SCALE, ZERO_POINTS, make_truth, make_wcs, write_plain

SHAPE = (300, 320)


@pytest.fixture(scope="module")
def truth():
    return make_truth(np.random.default_rng(30), 55, SHAPE)


@pytest.fixture
def sky(tmp_path, truth):
    return write_plain(tmp_path / "sky", truth, SHAPE, rng=np.random.default_rng(31), bands="gri")


def change(path, function):
    with fits.open(path, mode="update") as hdus:
        function(hdus[0])


def test_good_images_give_a_table_and_no_warning(sky):
    found = deepfits.check(sky)
    assert found.warnings == []
    assert [row.band for row in found.rows] == ["g", "r", "i"]
    for row in found.rows:
        assert row.zero_point == 27.0
        assert row.noise_njy == pytest.approx(2.0, rel=0.03)
        assert row.fwhm_arcsec == pytest.approx(3.5 * SCALE, rel=0.05)
        pixels = np.pi / SCALE**2
        assert row.depth == pytest.approx(31.4 - 2.5 * np.log10(5 * 2.0 * np.sqrt(pixels)), abs=0.1)
        assert row.fraction_empty == 0
    text = str(found)
    assert "depth 5σ 2″" in text
    assert "nothing suspicious" in text
    assert len(text.splitlines()) == 5


def test_warnings_are_found_whatever_the_user_logs(sky, caplog):
    """Warnings of the readers reach `check` by logging; with errors alone logged it said nothing."""
    (sky / "more.tar").write_bytes(b"")
    with caplog.at_level(logging.ERROR, "deepfits"):
        found = deepfits.check(sky)
        assert logging.getLogger("deepfits").level == logging.ERROR
    assert "archives of files are not read" in str(found)


@pytest.mark.parametrize("where", ["file", "weights"])
def test_bands_that_reach_far_beyond_the_reference_are_called_out(sky, tmp_path, where):
    """Objects there are not in the catalogue. In g, only half of the image has data where weights say so."""
    for end in ("", ".weight"):
        path = sky / f"coadd-i{end}.fits"
        with fits.open(path) as hdus:
            fits.writeto(path, hdus[0].data[:, :150], hdus[0].header, overwrite=True)
    if where == "weights":
        change(sky / "coadd-g.weight.fits", lambda hdu: hdu.data[:, 150:].fill(0))
    deepfits.detect(sky, tmp_path / "catalogue.parquet")
    (field,) = read_info(tmp_path / "catalogue.parquet")["fields"].values()
    for found in (deepfits.check(sky).warnings, field["warnings"]):
        beyond = [text for text in found if "beyond the image of i" in text]
        assert ["g: 5" in text for text in beyond] == ([False] if where == "weights" else [True, False])
        assert all(text.endswith(f"give reference_band {text.split(':')[0][-1]}") for text in beyond)


def test_a_wrong_unit_shows_in_depth_or_colour(sky):
    found = deepfits.check(sky, zero_point=["r=22.0"])
    # The median of the colours drawn is within a tenth of 0.
    assert any(re.search(r"median colour g − r is \+(4\.9|5\.[01])", w) for w in found.warnings)
    assert any(re.search(r"median colour r − i is -(4\.9|5\.[01])", w) for w in found.warnings)
    found = deepfits.check(sky, zero_point=5.0)
    [said] = [w for w in found.warnings if "AB is implausible" in w]
    assert "g r i: a depth of" in said


def test_a_band_beside_its_wcs(sky):
    def lie(hdu):
        hdu.header["CRPIX1"] += 2.6

    change(sky / "coadd-g.fits", lie)
    found = deepfits.check(sky)
    assert any("g lies (-2.6, +0.0) pixels off i" in w or "g lies (-2.6, -0.0)" in w for w in found.warnings)


def test_a_band_that_is_mirrored(tmp_path):
    """As by CDELT without its sign: every source was detected twice, without a word."""
    truth = make_truth(np.random.default_rng(5), 60, SHAPE)
    write_plain(tmp_path, truth, SHAPE, rng=np.random.default_rng(6), bands="gri", weights=False)
    assert not [text for text in deepfits.check(tmp_path).warnings if "sources" in text]

    def mirror(hdu):
        hdu.data = hdu.data[:, ::-1]

    change(tmp_path / "coadd-g.fits", mirror)
    (said,) = [text for text in deepfits.check(tmp_path).warnings if "sources" in text]
    assert re.search(r"none of the \d\d brightest sources of g is at the place of one of i", said)


def test_weights_that_are_variances(sky):
    rng = np.random.default_rng(1)
    sigma = np.where(np.arange(320) < 160, 2.0, 5.0) * np.ones(SHAPE)

    def noisier(hdu):
        hdu.data = (hdu.data + rng.normal(size=SHAPE) * np.sqrt(sigma**2 - 4.0 + 1e-9) / 57.544).astype(
            np.float32
        )

    for band in "gri":
        change(sky / f"coadd-{band}.fits", noisier)
        power = 2 if band == "g" else -2
        fits.writeto(sky / f"coadd-{band}.weight.fits", (sigma / 57.544) ** power, overwrite=True)
    found = deepfits.check(sky)
    assert [w for w in found.warnings if "are they variances" in w] == [
        "coadd g: the noise is largest where the weights are: are they variances? name the file .var.fits"
    ]


def test_a_sky_that_was_not_subtracted(sky):
    def brighten(hdu):
        hdu.data = hdu.data + np.float32(0.3)

    change(sky / "coadd-i.fits", brighten)
    assert any("coadd i: the sky lies at 8" in w for w in deepfits.check(sky).warnings)


@pytest.mark.parametrize("level", [-0.3, 0.0, 0.3])
def test_a_sky_level_that_adds_up_is_mentioned(tmp_path, level):
    """At 0.3 σ of a pixel totals of faint galaxies were several times too bright, without a word."""
    truth, rng = make_truth(np.random.default_rng(0), 60, (400, 400)), np.random.default_rng(1)
    write_plain(tmp_path, truth, (400, 400), rng=rng, bands="i", sigma=3.0)
    with fits.open(tmp_path / "coadd-i.fits", mode="update") as hdus:
        hdus[0].data += np.float32(level * 3.0 / njy_per_count(ZERO_POINTS["i"]))
    found = [text for text in deepfits.check(tmp_path).warnings if "the sky lies at" in text]
    assert [f"lies at {level} σ" in text for text in found] == [True] * (level != 0)


def test_bad_columns_and_rows_that_nothing_marks(sky):
    path = sky / "coadd-r.fits"
    with fits.open(path, mode="update") as hdus:
        hdus[0].data[:, 60] += 5000
        hdus[0].data[:, 61] += np.random.default_rng(0).normal(5000, 900, len(hdus[0].data))
        hdus[0].data[70] -= 40
    said = [text for text in deepfits.check(sky).warnings if "differ from those beside" in text]
    assert len(said) == 2
    assert "r: columns 61, 62 (counted from 1)" in said[0]
    assert "r: rows 71 (counted from 1)" in said[1]


def test_noisy_edges_that_the_weights_state_are_not_bad(sky):
    """Where single exposures of a coadd end the noise is larger, by any factor."""
    with (
        fits.open(sky / "coadd-r.fits", mode="update") as images,
        fits.open(sky / "coadd-r.weight.fits", mode="update") as weights,
    ):
        sigma, shape = 400 * np.median(weights[0].data) ** -0.5, (len(images[0].data), 2)
        images[0].data[:, :2] = np.random.default_rng(2).normal(0, sigma, shape)
        weights[0].data[:, :2] = sigma**-2
    assert not [text for text in deepfits.check(sky).warnings if "differ from those beside" in text]


def test_a_swapped_mask(sky):
    change(sky / "coadd-r.weight.fits", lambda hdu: hdu.data.__imul__(np.arange(320) % 8 == 0))
    assert any("coadd r: 88% of the pixels have no data" in w for w in deepfits.check(sky).warnings)


def test_one_unusable_band_does_not_hide_the_others(sky):
    (sky / "coadd-g.fits").write_bytes((sky / "coadd-g.fits").read_bytes()[:20000])
    found = deepfits.check(sky)
    assert [row.band for row in found.rows] == ["r", "i"]
    assert any("coadd-g.fits: truncated" in w for w in found.warnings)


def test_every_problem_of_an_image_is_named_and_planes_are_opened_once(sky, monkeypatch):
    opened: list[str] = []
    measure = Plane._measure
    monkeypatch.setattr(
        Plane, "_measure", lambda plane: (opened.append(plane.source.band), measure(plane))[1]
    )
    deepfits.check(sky)
    assert opened == ["g", "r", "i"]
    fits.delval(sky / "coadd-r.fits", "MAGZERO")
    fits.writeto(
        sky / "coadd-r.mask.fits", np.eye(*SHAPE, dtype=np.int16), fits.getheader(sky / "coadd-r.fits")
    )
    found = deepfits.check(sky)
    assert [row.band for row in found.rows] == ["g", "i"]
    assert re.search(
        r"coadd-r.fits: no zero point .*; and \S*coadd-r.fits: the mask's planes are not named", str(found)
    )


def test_a_mask_that_only_one_band_has_counts(sky):
    fits.writeto(
        sky / "coadd-r.mask.fits", np.eye(*SHAPE, dtype=np.int16), fits.getheader(sky / "coadd-r.fits")
    )
    found = deepfits.check(sky, mask_polarity="bad")
    assert len(found.rows) == 3
    assert not found.is_fatal


def test_wrong_noise_is_a_warning(sky):
    def scale(hdu):
        hdu.data = hdu.data * np.float32(100.0)

    change(sky / "coadd-r.weight.fits", scale)
    found = deepfits.check(sky, weight_scale="absolute")
    assert any("measured noise is 10" in w for w in found.warnings)


def describe(tmp_path, text, **arrays):
    np.savez(tmp_path / "c.npz", **arrays)
    path = tmp_path / "c.toml"
    path.write_text('file = "c.npz"\nbands = ["g", "r"]\npixel_scale_arcsec = 0.2\n' + text)
    return path


@pytest.fixture
def stamps():
    rng = np.random.default_rng(2)
    y, x = np.mgrid[:32, :32] - 15.5
    light = np.exp(-(x**2 + y**2) / 8.0)
    flux = rng.uniform(50, 100, (60, 2, 1, 1))
    return {"image": (flux * light + rng.normal(0, 2, (60, 2, 32, 32))).astype(np.float32)}


def test_cutouts_of_others_and_stores_are_looked_at(tmp_path, stamps):
    ivar = np.full_like(stamps["image"], 0.25)
    path = describe(tmp_path, 'zero_point = 31.4\nweight = "ivar"\n', **stamps, ivar=ivar)
    found = deepfits.check(path)
    assert found.warnings == []
    assert [r.band for r in found.rows] == ["g", "r"]
    assert found.rows[0].noise_njy == pytest.approx(2.0, rel=0.03)
    assert found.rows[0].shape == (32, 32)
    store = deepfits.cutouts(path, tmp_path / "store")
    again = deepfits.check(store)
    assert again.warnings == []
    assert again.rows[1].noise_njy == pytest.approx(2.0, rel=0.03)
    assert "a store of 60 objects" in str(again)


def test_cutouts_need_not_be_square(tmp_path, stamps):
    path = describe(tmp_path, "zero_point = 31.4\n", image=stamps["image"][..., 4:-4])
    found = deepfits.check(path)
    assert found.warnings == []
    assert found.rows[0].shape == (32, 24)


def test_a_bright_neighbour_in_one_cutout_is_no_wrong_centre(tmp_path, stamps):
    image = stamps["image"].copy()
    image[0, :, :4, -4:] += 1e4 * image.max()
    assert not [
        w
        for w in deepfits.check(describe(tmp_path, "zero_point = 31.4\n", image=image)).warnings
        if "off the centre" in w
    ]


def test_light_of_bright_objects_at_the_rims_is_no_sky(tmp_path, stamps):
    y, x = np.mgrid[:32, :32] - 15.5
    image = stamps["image"].copy()
    image[20:] += (1e3 * np.exp(-np.hypot(x, y) / 4)).astype(np.float32)
    said = deepfits.check(describe(tmp_path, "zero_point = 31.4\n", image=image)).warnings
    assert not [text for text in said if "the sky lies at" in text]


@pytest.mark.parametrize(
    ("keys", "change", "words"),
    [
        ("zero_point = 2.0\n", {}, "AB is implausible"),
        ("zero_point = [31.4, 25.4]\n", {}, "colour g − r is"),
        ('zero_point = 31.4\nweight = "w"\n', {"w": 4.0}, "times that implied by the weights"),
        ('zero_point = 31.4\nmask = "m"\nmask_nonzero_is = "good"\n', {"m": 0}, "polarity"),
        ("zero_point = 31.4\n", {"shift": 5}, "off the centre"),
        ("zero_point = 31.4\n", {"sky": 30.0}, "the sky lies at"),
    ],
)
def test_what_no_cutouts_have_is_called_out(tmp_path, stamps, keys, change, words):
    arrays = {"image": np.roll(stamps["image"], change.pop("shift", 0), axis=3) + change.pop("sky", 0.0)}
    for name, value in change.items():
        arrays[name] = np.full(stamps["image"].shape, value)
        arrays[name][:, :, 10:14, 10:14] = 1
    found = deepfits.check(describe(tmp_path, keys, **arrays))
    said = [w for w in found.warnings if words in w]
    assert len(said) == 1, found.warnings  # for all bands together


def test_catalogues_are_looked_at(tmp_path):
    (tmp_path / "good.csv").write_text("id,RA,DEC,z\n1,150.1,2.2,0.5\n2,150.2,2.3,0.7\n")
    found = deepfits.check(tmp_path / "good.csv")
    assert found.warnings == []
    assert "a catalogue of 2 objects, ra 150.1000 to 150.2000" in str(found)
    (tmp_path / "bad.csv").write_text("id,RA,DEC\n1,1.1,98\n2,,2.3\n")
    said = deepfits.check(tmp_path / "bad.csv").warnings
    assert "1 objects without RA or DEC, 1 objects with dec beyond ±90" in said[0]
    from astropy.table import Table

    places = {"ra": np.full(9, 150.0), "dec": np.full(9, 2.0)}
    Table({**places, "z_spec": [0.3, 0.4, -99, -99, 1.1, 0.7, 9.99, 0.2, 0.1]}).write(tmp_path / "z.fits")
    found = deepfits.check(tmp_path / "z.fits")
    assert "3 of 9 z_spec are codes for no redshift: -99 (2 times), 9.99 (1 times)" in str(found)
    # zCOSMOS calls the z magnitudes of its photometric catalogue so.
    Table({**places, "z_photzi25": [18.5, 19.2, -99.9, 19.8, 20.4, 21.5, 19.1, 19.9, 18.8]}).write(
        tmp_path / "magnitudes.fits"
    )
    assert "codes for no redshift" not in str(deepfits.check(tmp_path / "magnitudes.fits"))
    (tmp_path / "odd.csv").write_text("id,RA,DEC\n1,1.1,2.3\n2,,2.3\n3,1.2,98\n")
    said = deepfits.check(tmp_path / "odd.csv").warnings
    assert [any(w in s for s in said) for w in ("1 objects without RA or DEC", "at most 2π")] == [True] * 2
    (tmp_path / "pixels.csv").write_text("id,x,y,RA,DEC\n1,3,4,,\n2,5,6,,\n")
    with warnings.catch_warnings(action="error"):
        said = str(deepfits.check(tmp_path / "pixels.csv"))
    assert "only x and y, taken as 0-based pixels" in said
    (tmp_path / "twice.csv").write_text("id,RA,DEC\n1,1.1,9\n1,7,2.3\n")
    assert "occurs 2 times" in deepfits.check(tmp_path / "twice.csv").warnings[0]


@pytest.mark.parametrize(
    "name", ["t.csv.gz", "t.arrow", "t.h5", "two.fits[MANGA]", "dataset", "dataset/half=1", "hats"]
)
def test_catalogues_in_every_format_that_others_read_are_inspected(tmp_path, name):
    """These were no FITS file, arrays, or nowhere, and `check` had named `two.fits[MANGA]` as the remedy."""
    from astropy.table import Table
    from pyarrow import feather

    from deepfits.tables import write_table

    columns = {"id": np.arange(2), "ra": np.array([150.1, 150.2]), "dec": np.array([2.2, 2.3])}
    Table(columns).write(tmp_path / "t.csv")
    (tmp_path / "t.csv.gz").write_bytes(gzip.compress((tmp_path / "t.csv").read_bytes()))
    feather.write_feather(Table(columns).to_pandas(), tmp_path / "t.arrow")
    write_table(tmp_path / "t.h5", columns)
    hdus = [fits.BinTableHDU(Table(columns), name=name) for name in ("MANGA", "MASTAR")]
    fits.HDUList([fits.PrimaryHDU(), *hdus]).writeto(tmp_path / "two.fits")
    for directory in ("dataset/half=1", "hats/Norder=0"):
        (tmp_path / directory).mkdir(parents=True)
        write_table(tmp_path / directory / "part.parquet", columns)
    (tmp_path / "hats" / "hats.properties").write_text("obs_collection=x\n")
    found = deepfits.check(tmp_path / name)
    assert "a catalogue of 2 objects, ra 150.1000 to 150.2000" in str(found)
    assert not found.warnings


def test_images_whose_names_are_those_of_partitions_are_images(sky):
    for path in sky.glob("*.fits"):
        path.rename(sky / f"z=0.5_{path.name}")
    assert len(deepfits.check(sky).rows) == 3


def test_images_beside_a_catalogue_are_inspected(sky, tmp_path):
    from deepfits.tables import write_table

    write_table(sky / "catalogue.parquet", {"ra": np.ones(3), "dec": np.ones(3)})
    found = deepfits.check(sky)
    assert len(found.rows) == 3
    with h5py.File(tmp_path / "c.h5", "w") as file:
        file["images"], file["ra"] = np.zeros((2, 3, 8, 8)), np.ones(2)
    with pytest.raises(InputError, match="arrays, not an image"):
        deepfits.check(tmp_path / "c.h5")


def test_arrays_without_description_are_refused_with_the_remedy(tmp_path):
    np.save(tmp_path / "c.npy", np.zeros((2, 3, 8, 8)))
    with pytest.raises(InputError, match="TOML file"):
        deepfits.check(tmp_path / "c.npy")


def test_what_the_readers_say_is_part_of_what_check_finds(sky, tmp_path):
    """Images two directories down, SCAMP's headers, and tables without places are no "nothing suspicious"."""
    below = tmp_path / "outer"
    (below / "a").mkdir(parents=True)
    sky.rename(below / "a" / "b")
    (below / "a" / "coadd-g.fits").write_bytes((below / "a" / "b" / "coadd-g.fits").read_bytes())
    (below / "a" / "coadd-g.head").write_text("CRVAL1  = 150.0001 / SCAMP\nEND\n")
    found = deepfits.check(below)
    assert any("not searched (nested too deep in" in text for text in found.warnings)
    assert any("coadd-g.head: SCAMP's header" in text for text in found.warnings)
    assert "nothing suspicious" not in str(found)
    assert found.rows[0].zero_point == 27.0
    coadd = below / "a" / "coadd-g.fits"
    fits.setval(coadd, "SOFTNAME", value="SWarp")  # which takes the grid from such a header
    assert not any("SCAMP's" in text for text in deepfits.check(coadd).warnings)
    with fits.open(coadd) as hdus:
        packed = fits.CompImageHDU(hdus[0].data, hdus[0].header)
    fits.HDUList([fits.PrimaryHDU(), packed]).writeto(below / "a" / "coadd-g.fits.fz")
    assert not any("SCAMP's" in text for text in deepfits.check(below / "a" / "coadd-g.fits.fz").warnings)


@pytest.mark.parametrize("is_packed", [False, True])
def test_data_that_are_not_those_of_their_sum_are_warned_of(sky, is_packed):
    """A piece of the file that is another's: everything else about it is right."""
    path = sky / "coadd-g.fits"
    with fits.open(path) as hdus:
        image = hdus[0].data.astype(np.float32), hdus[0].header
    hdu = fits.CompImageHDU(*image) if is_packed else fits.ImageHDU(*image)
    fits.HDUList([fits.PrimaryHDU(), hdu]).writeto(path, overwrite=True, checksum=True)
    fits.setval(path, "FILTER", value="g", ext=1)  # the sum of the data stays
    assert deepfits.check(sky).warnings == []
    content = bytearray(path.read_bytes())
    with fits.open(path, disable_image_compression=True) as hdus:
        # The last bytes of a row's ZSCALE, or of a pixel.
        place = hdus[1].fileinfo()["datLoc"] + (10 * hdus[1].header["NAXIS1"] + 8 if is_packed else 4000)
        packed_before = [c.name for c in hdus[1].columns].index("ZSCALE") if is_packed else 0
    place += 8 * packed_before
    content[place - 2 : place] = b"ab"
    path.write_bytes(bytes(content))
    assert any(
        re.search(r"coadd-g.fits: the data of HDU .* \(DATASUM\)", w) for w in deepfits.check(sky).warnings
    )


@pytest.mark.parametrize("weights", [True, False])
def test_values_that_no_star_has_are_no_data(sky, tmp_path, weights):
    """A few marks of bad pixels ended detection, and counted as fluxes."""
    if not weights:
        (sky / "coadd-r.weight.fits").unlink()

    def damage(hdu):
        hdu.data[30, 40:44] = [1e30, -1e36, 1e20, 3e38]  # the last is no number in nJy

    change(sky / "coadd-r.fits", damage)
    assert any("r: 3 of 96000 sampled pixels are more than" in w for w in deepfits.check(sky).warnings)
    images = image_set(sky)
    with open_field(images.fields[0], images) as field:
        image, weight = field.planes["r"].read()
    assert np.flatnonzero(weight[30] == 0).tolist() == [40, 41, 42, 43]
    assert np.abs(image).max() < 1e5
    read_catalogue(deepfits.detect(sky, tmp_path / "c.parquet"))


@pytest.mark.parametrize(("fwhm", "said"), [(1.4, "too wide on them"), (2.6, ""), (32, "too narrow on them")])
def test_stars_of_few_pixels_and_wider_ones_than_their_stamps_are_said(tmp_path, fwhm, said):
    """Their PSF was measured a tenth too wide, or as 25 pixels, without a word."""
    galsim = pytest.importorskip("galsim")
    rng = np.random.default_rng(3)
    shape, number, apart = (SHAPE, 40, 20) if fwhm < 10 else ((900, 900), 25, 120)
    truth = make_truth(rng, number, shape, bands="r", margin=apart, spacing=apart)
    image = galsim.ImageF(shape[1], shape[0], scale=1)
    for x, y, flux in zip(truth["x"], truth["y"], truth["flux_r"], strict=True):
        star = galsim.Gaussian(fwhm=fwhm, flux=10 * flux + 300 * fwhm**2)
        star.drawImage(image, center=galsim.PositionD(x + 1, y + 1), add_to_image=True)
    header = make_wcs(shape).to_header()
    header["FILTER"], header["BUNIT"] = "r", "nJy"
    fits.writeto(tmp_path / "r.fits", image.array + rng.normal(0, 1, shape).astype(np.float32), header)
    warned = [text for text in deepfits.check(tmp_path).warnings if "pixels wide" in text]
    assert [text.partition("is measured ")[2] for text in warned] == [f"{said} (psf)"] * bool(said)


@pytest.mark.parametrize("side", [60, 260])
def test_many_fields_are_few_lines_and_may_be_cutouts(tmp_path, truth, side, caplog):
    for number in range(10):
        noise = np.random.default_rng(number).normal(0, 1, (side, side)).astype(np.float32)
        head = make_wcs((side, side)).to_header() + fits.Header({"FILTER": "r", "BUNIT": "nJy"})
        head["CRVAL1"] += number
        fits.writeto(tmp_path / f"obj{number}_r.fits", noise, head)
    found = deepfits.check(tmp_path)
    assert len(found.remarks) == 10
    [note] = [line for line in str(found).splitlines() if line.startswith("note")]
    assert "obj0, obj1, obj2 and 7 more r: no weight plane" in note
    may_be = [text for text in found.warnings if "and 9 more fields of up to 60 pixels" in text]
    assert bool(may_be) == (side == 60)
    image_set(tmp_path)
    assert ("describe them in a TOML file" in caplog.text) == (side == 60)


def test_whether_fields_are_small_may_be_unknown(tmp_path, monkeypatch):
    """Of compressed files headers beyond a large table are not read."""
    monkeypatch.setattr("deepfits.survey.fitsfile.MAX_SKIPPED", 0)
    table = fits.BinTableHDU.from_columns([fits.Column("a", "E", array=np.zeros(5))])
    image = fits.ImageHDU(np.zeros((60, 60), np.float32), make_wcs((60, 60)).to_header())
    paths = [tmp_path / f"obj{number}_r.fits.gz" for number in range(10)]
    for path in paths:
        fits.HDUList([fits.PrimaryHDU(), table, image]).writeto(path)
    assert len(image_set([f"r={path}" for path in paths]).fields) == 10


def test_lines_of_one_field_and_of_different_bands_are_not_joined():
    keys = ("pixel_scale_arcsec", "zero_point", "fwhm_arcsec", "depth", "noise_njy", "fraction_empty")
    rows = [Row(field=f, band="r", shape=(9, 9), weights="", **dict.fromkeys(keys, 1.0)) for f in ("a", "ab")]
    found = Findings(rows=rows)
    found.warnings = ["a F606W: sum 1e-05", "a F606W: sum 2", "ab F814W: sum 3", "ab F606W: sum -4", "sum 5"]
    said = [line.removeprefix("WARNING: ") for line in str(found).splitlines() if "WARNING" in line]
    assert said == ["a, ab F606W: sum 1e-05", "a F606W: sum 2", "ab F814W: sum 3", "sum 5"]
