"""Detection and photometry against skies with known fluxes."""

from __future__ import annotations

import shutil
import sys

import numpy as np
import pyarrow.parquet as pq
import pytest
from astropy.io import fits
from astropy.table import Table
from scipy import ndimage
from scipy.spatial import cKDTree

import deepfits
from deepfits.errors import InputError
from deepfits.photometry import FLAG_MASKED, FLAG_SHARP
from deepfits.stages.detect import Detection
from deepfits.survey.catalogue import read_catalogue, read_info
from deepfits.survey.detection import DetectOptions, background_of, fill_cores, find_sources
from deepfits.survey.fill import bridged
from deepfits.survey.noise import clipped_statistics, measure_noise
from deepfits.survey.photometry import Apertures, make_apertures, measure_band
from tests.helpers.gaussian_sky import SCALE, draw, make_truth, make_wcs, write_plain

SHAPE = (320, 360)


@pytest.fixture(scope="module")
def truth():
    return make_truth(np.random.default_rng(5), 60, SHAPE)


@pytest.fixture(scope="module")
def sky(tmp_path_factory, truth):
    return write_plain(tmp_path_factory.mktemp("sky"), truth, SHAPE, rng=np.random.default_rng(6))


@pytest.fixture(scope="module")
def catalogue(sky, tmp_path_factory):
    out = tmp_path_factory.mktemp("cat") / "catalogue.parquet"
    assert deepfits.detect(sky, out) == out
    return out


def matched(columns, truth, radius=1.5):
    distance, index = cKDTree(np.c_[columns["x"], columns["y"]]).query(np.c_[truth["x"], truth["y"]])
    return distance < radius, index


def test_finds_every_source_and_nothing_else(catalogue, truth):
    columns = read_catalogue(catalogue)
    found, _ = matched(columns, truth)
    assert found.all()
    assert len(columns["x"]) == len(truth["x"])


def test_fluxes_and_their_errors_are_right(catalogue, truth):
    columns = read_catalogue(catalogue)
    _, index = matched(columns, truth)
    for band in "ugriz":
        flux, error = columns[f"flux_{band}"][index], columns[f"flux_err_{band}"][index]
        true = truth[f"flux_{band}"]
        # A Kron ellipse of 2.5 radii holds at least 90% of a Gaussian's light, and never more than all of it.
        assert 0.93 < np.median(flux / true) < 1.005
        bright = true > 2000
        assert np.abs(flux / true - 1)[bright].max() < 0.12
        # Circular apertures of 2": pulls about the expected flux have width 1 (60 draws: ±0.2).
        sigma = truth["fwhm"] / 2.3548
        fraction = 1 - np.exp(-0.5 * (1.0 / SCALE / sigma) ** 2)
        pull = (columns[f"flux_aper_{band}"][index] - fraction * true) / columns[f"flux_aper_err_{band}"][
            index
        ]
        faint = true < 2000  # bright ones scatter by their centroids and neighbours, not by the sky's noise
        assert 0.6 < 1.4826 * np.median(np.abs(pull[faint] - np.median(pull[faint]))) < 1.5
        assert (error > 0).all()


@pytest.mark.parametrize("offset", [0.0, 0.1, 0.3, 0.5])
@pytest.mark.parametrize("sigma", [0.3, 0.6, 0.8])
def test_noise_below_the_step_of_integers_is_measured_beside_bright_pixels(sigma, offset):
    """Where most pixels have one value, so that their median deviation is 0 or nearly so."""
    image = np.rint(np.random.default_rng(1).normal(100 + offset, sigma, (128, 128))).astype(np.float32)
    expected = float(image.std())
    image[:2] += 50
    assert clipped_statistics(image)[1] == pytest.approx(expected, rel=0.06)
    noise = measure_noise(image, np.ones(image.shape, bool))
    assert noise is not None
    assert noise.sigma == pytest.approx(expected, rel=0.06)


@pytest.mark.parametrize("radius", [20.0, 40.0])
def test_noise_is_measured_where_a_galaxy_fills_the_image(radius):
    """As in cutouts of nearby galaxies; their light was taken for noise, up to seven times too large."""
    y, x = np.mgrid[-128:128, -128:128]
    image = 600 * np.exp(-np.hypot(x, y) / radius) + np.random.default_rng(1).normal(0, 2, x.shape)
    noise = measure_noise(image, np.ones(x.shape, bool))
    assert noise is not None
    assert noise.sigma == pytest.approx(2, rel=0.03)
    assert noise.correlation == pytest.approx(1, abs=0.15)


def test_noise_of_pixels_that_are_interpolated_five_times_is_all_noise():
    """Neighbours hardly differ, as where light is smooth."""
    image = ndimage.zoom(np.random.default_rng(1).normal(0, 2, (100, 100)), 5, order=3)
    noise = measure_noise(image, np.ones(image.shape, bool))
    assert noise is not None
    # A block holds 13×13 independent values, of which the surface takes 10, and its level 1: 3%.
    assert 0.9 * image.std() < noise.sigma < image.std()


@pytest.mark.parametrize("level", [100.0, 100.25, 100.5])
def test_background_of_integer_pixels_is_right_to_a_fraction_of_the_noise(level):
    sigma = 3.0  # counts
    counts = np.rint(np.random.default_rng(1).normal(level, sigma, (512, 512))).astype(np.float32)
    background_of(counts, np.zeros(counts.shape, bool), 128).subfrom(counts)
    assert abs(counts.mean()) < 0.02 * sigma  # the median's rounding makes 0.2 to 0.5


def test_fluxes_do_not_suffer_from_the_light_of_other_sources_in_the_background(tmp_path):
    """Where many are seen, the level of an image is that of their wings."""
    rng = np.random.default_rng(9)
    truth = make_truth(rng, 120, SHAPE, bands="r")
    truth["fwhm"] = np.where(truth["is_star"], 3.5, 8.4)
    write_plain(tmp_path / "sky", truth, SHAPE, bands="r", rng=rng, sigma=1.0)
    columns = read_catalogue(deepfits.detect(tmp_path / "sky", tmp_path / "catalogue.parquet"))
    found, index = matched(columns, truth)
    pull = (columns["flux_aper_r"][index] - truth["flux_r"]) / columns["flux_aper_err_r"][index]
    faint_stars = found & truth["is_star"] & (truth["flux_r"] < 1000)  # all of their light is in 2 arcsec
    assert abs(np.median(pull[faint_stars])) < 2 * 1.25 / np.sqrt(faint_stars.sum())


def test_positions_seeing_and_star_score(catalogue, truth):
    columns = read_catalogue(catalogue)
    _, index = matched(columns, truth)
    assert np.abs(columns["x"][index] - truth["x"]).max() < 0.7
    # The sky positions follow from the WCS: one pixel in y is one pixel in declination here.
    assert np.ptp(columns["dec"]) * 3600 / SCALE == pytest.approx(np.ptp(columns["y"]), rel=0.02)
    score = columns["star_score"][index]
    bright = truth["flux_r"] > 1000
    assert (score[bright & truth["is_star"]] > 0.5).mean() > 0.9
    assert (score[bright & ~truth["is_star"]] < 0.5).mean() > 0.9
    fwhm = read_info(catalogue)["fields"]["coadd"]["fwhm_arcsec"]
    for band in "gri":
        assert fwhm[band] == pytest.approx(3.5 * SCALE, rel=0.05)


def test_objects_are_identified_by_field_and_order_alone(catalogue, sky, truth, tmp_path):
    one = read_catalogue(catalogue)
    assert one["object_id"].dtype == np.int64
    assert (one["object_id"] > 0).all()
    for name in ("patch-00", "patch-01"):
        write_plain(tmp_path / "sky" / name, truth, SHAPE, rng=np.random.default_rng(6))
    both = read_catalogue(deepfits.detect(tmp_path / "sky", tmp_path / "both.parquet"))
    assert set(both["field"]) == {"patch-00", "patch-01"}
    assert len(np.unique(both["object_id"])) == 2 * len(one["object_id"])
    alone = read_catalogue(deepfits.detect(tmp_path / "sky" / "patch-01", tmp_path / "alone.parquet"))
    assert len(alone["object_id"]) == len(one["object_id"])
    assert not (tmp_path / "both.parquet.parts").exists()


def test_second_run_keeps_the_file_and_other_settings_are_refused(catalogue, sky):
    before = catalogue.stat().st_mtime_ns
    deepfits.detect(sky, catalogue)
    assert catalogue.stat().st_mtime_ns == before
    with pytest.raises(InputError, match="made with"):
        deepfits.detect(sky, catalogue, threshold=9.0)


def test_an_interrupted_detection_ends_as_one_that_was_not(catalogue, sky, tmp_path, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as during:
        during.setattr(sys.modules[Detection.__module__], "_join_fields", stop)
        with pytest.raises(KeyboardInterrupt):
            deepfits.detect(sky, tmp_path / "c.parquet")
    monkeypatch.setattr(Detection, "_detect_field", stop)  # the field is done
    found = pq.read_table(deepfits.detect(sky, tmp_path / "c.parquet"))
    expected = pq.read_table(catalogue)
    assert found.schema.equals(expected.schema, check_metadata=True)
    for name in expected.column_names:
        np.testing.assert_array_equal(found[name].to_numpy(), expected[name].to_numpy())


def test_shifted_and_rotated_bands_give_the_same_fluxes(truth, catalogue, tmp_path):
    shifts = {"u": (5.4, -3.3), "g": (0.5, 0.5), "i": (-7, 4), "z": (2.2, 9.7)}
    write_plain(
        tmp_path / "sky", truth, SHAPE, rng=np.random.default_rng(6), shifts=shifts, rotations={"z": 0.15}
    )
    columns = read_catalogue(deepfits.detect(tmp_path / "sky", tmp_path / "c.parquet", reference_band="r"))
    remarks = read_info(tmp_path / "c.parquet")["fields"]["coadd"]["remarks"]
    assert "whole pixels" in remarks["i"][-1]
    assert "cubic splines" in remarks["u"][-1]
    away = (truth["x"] > 25) & (truth["x"] < 335) & (truth["y"] > 25) & (truth["y"] < 295)
    found, index = matched(columns, truth)
    assert found[away].all()
    reference = read_catalogue(catalogue)
    _, same = matched(reference, truth)
    bright = away & (truth["flux_r"] > 1500)
    for band in "ugiz":
        ratio = columns[f"flux_aper_{band}"][index] / reference[f"flux_aper_{band}"][same]
        # Interpolation keeps the flux in 2"; what is left is the noise, new after a shift: 2% for these.
        assert np.abs(np.median(ratio[bright]) - 1) < 0.01
        # ... and the error of an aperture is what it would be without interpolation.
        errors = columns[f"flux_aper_err_{band}"][index] / reference[f"flux_aper_err_{band}"][same]
        assert np.median(errors[bright]) == pytest.approx(1, abs=0.08)


def test_sources_in_masked_pixels_get_nan_and_a_flag(truth, tmp_path):
    which = int(np.argmax(truth["flux_r"]))
    x, y = int(truth["x"][which]), int(truth["y"][which])
    hole = np.s_[max(y - 14, 0) : y + 15, max(x - 14, 0) : x + 15]
    write_plain(tmp_path / "sky", truth, SHAPE, rng=np.random.default_rng(6), bad=[("g", hole)])
    columns = read_catalogue(deepfits.detect(tmp_path / "sky", tmp_path / "c.parquet"))
    found, index = matched(columns, truth)
    assert found[which]
    assert np.isnan(columns["flux_aper_g"][index[which]])
    assert columns["flags"][index[which]] & (1 << 16)
    assert np.isfinite(columns["flux_aper_r"][index[which]])


def test_neighbours_and_masked_pixels_have_different_flags():
    y, x = np.mgrid[:60, :150]
    places = [(20.0, 30.0), (31.0, 30.0), (75.0, 30.0), (120.0, 30.0)]
    image = np.sum([1000 * np.exp(-((x - a) ** 2 + (y - b) ** 2) / 8) for a, b in places], axis=0)
    image = (image + np.random.default_rng(3).normal(0, 1, image.shape)).astype(np.float32)
    weight = np.ones_like(image)
    weight[30, 79] = 0  # beside the third source
    sources, segmentation = find_sources(image, weight <= 0, DetectOptions())
    apertures = make_apertures(sources, image, weight <= 0, segmentation)
    flags = measure_band(image, weight, apertures, segmentation, radius=7.0)["flags"]
    at = cKDTree(np.c_[apertures.x, apertures.y]).query(places)[1]
    assert flags[at].tolist() == [1, 1, 32, 0]


@pytest.mark.parametrize("bands", ["g", "gri"])
def test_a_star_without_data_in_its_core_is_one_source(bands, tmp_path):
    """Its core, a trail and a bad column are masked in some bands; what was left was several sources."""
    rng, shape = np.random.default_rng(4), (400, 400)
    x, y = (place.ravel() + rng.uniform(-3, 3, 16) for place in np.meshgrid(*[np.arange(50, 400, 95.0)] * 2))
    flux = np.repeat([1e4, 1e5, 1e6, 1e7], 4)
    for band in "gri":
        image = draw(shape, x, y, flux, np.full(16, 5.0)) + rng.normal(0, 1, shape)
        if band in bands:
            is_bad = ndimage.binary_dilation(image > 5000)
            for cx, cy, brightness in zip(np.rint(x).astype(int), np.rint(y).astype(int), flux, strict=True):
                length = int(brightness > 2e5) * 30
                is_bad[cy - length : cy + length, cx - 1 : cx + 1] = True
            is_bad[:, int(x[5])] = True
            image[is_bad] = np.nan
        header = make_wcs(shape).to_header()
        header["MAGZERO"], header["FILTER"] = 31.4, band
        fits.PrimaryHDU(image.astype("f4"), header).writeto(tmp_path / f"{band}.fits")
    columns = read_catalogue(deepfits.detect(tmp_path, tmp_path / "c.parquet"))
    found, index = matched(columns, {"x": x, "y": y}, radius=0.5)
    assert found.all()
    assert len(columns["x"]) == 16
    assert (columns["flags"][index][flux > 2e5] & 32 == 32).all()


@pytest.mark.parametrize("width", [10, 20, 40, 60])
def test_galaxies_on_both_sides_of_a_gap_between_detectors_keep_their_places(width):
    """The gap between them was filled: one was found in its middle, up to 20 pixels off."""
    y, x = np.mgrid[:300, :300]
    places = 150 - width / 2 - 4, 150 + width / 2 + 4
    image = sum(300 * (1 + ((x - at) ** 2 + (y - 150) ** 2) / 36) ** -3.0 for at in places)
    is_bad = np.abs(x - 149.5) < width / 2
    image = np.where(is_bad, 0, image + np.random.default_rng(1).normal(size=image.shape)).astype("f4")
    assert not fill_cores(image, is_bad).any()
    sources, _ = find_sources(image, is_bad, DetectOptions())
    np.testing.assert_allclose(np.sort(sources["x"]), places, atol=2)


@pytest.mark.parametrize("bands", ["gri", "r"])
def test_hot_pixels_are_flagged_and_not_taken_for_stars(bands, tmp_path):
    """As of single frames; many had the PSF measured from them, 0.2 times as wide as that of stars."""
    rng, shape = np.random.default_rng(1), (500, 500)
    truth = make_truth(rng, 150, shape, bands="gri", spacing=20)
    for band in bands:
        image = draw(shape, truth["x"], truth["y"], truth[f"flux_{band}"], truth["fwhm"])
        image[tuple(rng.integers(5, 495, (2, 100)))] += 10 ** rng.uniform(1.8, 3, 100)
        header = make_wcs(shape).to_header()
        header["MAGZERO"], header["FILTER"] = 31.4, band
        fits.writeto(tmp_path / f"{band}.fits", (image + rng.normal(0, 1, shape)).astype("f4"), header)
    columns = read_catalogue(deepfits.detect(tmp_path, tmp_path / "c.parquet"))
    distance = cKDTree(np.c_[truth["x"], truth["y"]]).query(np.c_[columns["x"], columns["y"]])[0]
    is_flagged = columns["flags"] & FLAG_SHARP > 0
    assert is_flagged[distance > 5].mean() > 0.7
    assert not is_flagged[distance < 2].any()
    (field,) = read_info(tmp_path / "c.parquet")["fields"].values()
    for band in bands:
        assert field["psf"][band]["fwhm_arcsec"] == pytest.approx(3.5 * SCALE, rel=0.05)


@pytest.mark.parametrize(("dx", "dy"), [(0, 0), (1, -1), (2, 1)])
def test_a_bad_pixel_in_a_star_takes_no_light(dx, dy):
    """It counted as the mean of the aperture: 6% of the light was missing, and errors did not tell."""
    y, x = np.mgrid[:60, :60]
    image = (1000 * np.exp(-((x - 30.3) ** 2 + (y - 29.8) ** 2) / 5.8)).astype(np.float32)
    one = np.ones(1)
    star = Apertures(
        x=30.3 * one,
        y=29.8 * one,
        a=2 * one,
        b=2 * one,
        theta=0 * one,
        kron=3 * one,
        number=np.ones(1, np.int32),
    )
    found = []
    for weight in (np.ones_like(image), np.ones_like(image)):
        if found:
            image[30 + dy, 30 + dx] = weight[30 + dy, 30 + dx] = 0
        found.append(measure_band(image, weight, star, np.zeros(image.shape, np.int32), radius=5.0))
    for name in ("flux", "flux_aper"):
        np.testing.assert_allclose(found[1][name], found[0][name], rtol=5e-3)
    assert [int(each["flags"][0]) & FLAG_MASKED for each in found] == [0, FLAG_MASKED]


def test_the_psf_is_that_of_stars_whose_cores_are_there(tmp_path):
    """The forty brightest that were not blended all lacked their core: the PSF was unknown."""
    rng, shape = np.random.default_rng(2), (600, 600)
    x, y = (at.ravel() + rng.uniform(-3, 3, 225) for at in np.meshgrid(*[np.arange(30, 570, 37.0)] * 2))
    flux = np.where(np.arange(225) < 60, 3e4, 3e3)
    image = draw(shape, x, y, flux, np.full(225, 4.0)) + rng.normal(0, 1, shape)
    image[np.rint(y[:60]).astype(int), np.rint(x[:60]).astype(int)] = np.nan
    header = make_wcs(shape).to_header()
    header["MAGZERO"], header["FILTER"] = 31.4, "r"
    fits.writeto(tmp_path / "r.fits", image.astype("f4"), header)
    (field,) = read_info(deepfits.detect(tmp_path, tmp_path / "c.parquet"))["fields"].values()
    assert field["psf"]["r"]["fwhm_arcsec"] == pytest.approx(4.0 * SCALE, rel=0.05)


def test_columns_are_those_of_the_contract(catalogue):
    names = pq.read_schema(catalogue).names
    for name in ("object_id", "ra", "dec", "x", "y", "field", "star_score", "flags"):
        assert name in names
    for band in "ugriz":
        for stem in ("flux", "flux_err", "flux_aper", "flux_aper_err", "mag_auto"):
            assert f"{stem}_{band}" in names


def test_fits_table_on_request(sky, tmp_path):
    columns = read_catalogue(deepfits.detect(sky, tmp_path / "catalogue.fits", threshold=8.0))
    assert len(columns["object_id"]) > 20
    assert columns["object_id"].dtype.kind == "i"


def test_fits_table_states_units(sky, tmp_path):
    table = Table.read(deepfits.detect(sky, tmp_path / "c.fits"))
    names = ("flux_r", "flux_aper_err_r", "mag_auto_r", "theta", "kron_radius")
    assert [str(table[name].unit) for name in names] == ["nJy", "nJy", "mag", "rad", "pix"]


def test_empty_field_among_others_is_reported_and_kept(truth, tmp_path, caplog):
    nothing = {name: values[:0] for name, values in truth.items()}
    for name, sources in (("full", truth), ("empty", nothing)):
        write_plain(tmp_path / "sky" / name, sources, SHAPE, rng=np.random.default_rng(6), bands="gri")
    path = deepfits.detect(tmp_path / "sky", tmp_path / "c.parquet", threshold=6.0)
    assert set(read_catalogue(path)["field"]) == {"full"}
    assert read_info(path)["fields"]["empty"]["num_objects"] == 0
    assert "field empty: nothing detected" in caplog.text
    with pytest.raises(InputError, match="or the min_snr of 1000000000"):
        deepfits.detect(tmp_path / "sky" / "full", tmp_path / "none.parquet", min_snr=1e9)


def test_damaged_fields_are_named_together_and_the_others_kept_until_they_are_repaired(
    truth, tmp_path, caplog, monkeypatch
):
    for name in "abcd":
        write_plain(tmp_path / "sky" / name, truth, SHAPE, rng=np.random.default_rng(6), bands="gr")
    damaged = [tmp_path / "sky" / name / "coadd-g.fits" for name in "ac"]
    whole = damaged[0].read_bytes()
    for path in damaged:
        path.write_bytes(whole[: len(whole) // 2])
    own = tmp_path / "own.csv"
    own.write_text("object_id,field,x,y\n" + "".join(f"{n},{f},99,99\n" for n, f in enumerate("abcd")))
    both = r"2 of 4 fields cannot be used: .*a/coadd-g.fits: truncated.*c/coadd-g.fits: truncated"
    with pytest.raises(InputError, match=both):
        deepfits.cutouts(tmp_path / "sky", tmp_path / "other", catalogue=own)
    out = {"detect": tmp_path / "c.parquet", "cutouts": tmp_path / "store"}
    for name, path in out.items():
        with pytest.raises(InputError, match=both):
            getattr(deepfits, name)(tmp_path / "sky", path)
    damaged[0].write_bytes(whole)
    shutil.rmtree(damaged[1].parent)
    seen, once = [], Detection._detect_field
    monkeypatch.setattr(
        Detection, "_detect_field", lambda *given: [seen.append(given[1].name), once(*given)][1]
    )
    for name, path in out.items():
        getattr(deepfits, name)(tmp_path / "sky", path)
    assert seen == ["a", "a"]
    found = read_catalogue(out["detect"])
    assert list(dict.fromkeys(found["field"])) == ["a", "b", "d"]
    assert (np.bincount(np.unique(found["field"], return_inverse=True)[1]) == len(found["field"]) // 3).all()
    assert not [*tmp_path.rglob(".*")]


def test_bands_whose_wcs_disagree_are_said_by_detection_and_cutting(tmp_path, caplog):
    shape = (300, 320)
    truth = make_truth(np.random.default_rng(30), 55, shape)
    sky = write_plain(tmp_path / "sky", truth, shape, rng=np.random.default_rng(31), bands="gri")
    for name in ("coadd-g.fits", "coadd-g.weight.fits"):
        with fits.open(sky / name, mode="update") as hdus:
            hdus[0].header["CRPIX1"] += 2.6
    catalogue = deepfits.detect(sky, tmp_path / "c.parquet")
    said = [r.message for r in caplog.records if "pixels off i" in r.message]
    assert len(said) == 1
    assert "correct its WCS" in said[0]
    caplog.clear()
    info = read_info(catalogue)["fields"]["coadd"]
    assert info["shift_pixels"]["g"] == pytest.approx([-2.6, 0.0], abs=0.1)
    assert info["shift_pixels"]["r"] == pytest.approx([0.0, 0.0], abs=0.1)
    assert len(info["warnings"]) == 1
    table = Table({"x": truth["x"], "y": truth["y"]})
    table.write(tmp_path / "mine.csv")
    deepfits.cutouts(sky, tmp_path / "store", catalogue=tmp_path / "mine.csv")
    assert sum("pixels off i" in r.message for r in caplog.records) == 1


def test_pixels_without_data_are_estimated_by_those_around_them():
    y, x = np.mgrid[:20, :30].astype(np.float32)
    values = 3 + x - 2 * y + 0.5 * x**2 - 0.25 * x * y
    is_bad = np.zeros(values.shape, bool)
    is_bad[5, 7] = is_bad[10, 10:12] = is_bad[12:17, 20:25] = is_bad[0, 0] = True
    damaged = np.where(is_bad, np.nan, values)
    estimate, is_single = bridged(damaged, is_bad)
    assert np.argwhere(is_single).tolist() == [[5, 7]]
    np.testing.assert_allclose(estimate[5, 7], values[5, 7], rtol=1e-6)
    np.testing.assert_allclose(estimate[10, 10], np.nanmean(damaged[9:12, 9:12]), rtol=1e-6)
    np.testing.assert_allclose(estimate[12, 22], values[11, 21:24].mean(), rtol=1e-6)
    # Beyond an edge the image is repeated.
    np.testing.assert_allclose(estimate[0, 0], np.nanmean(np.pad(damaged, 1, "edge")[:3, :3]), rtol=1e-6)
    assert np.isnan(estimate[13:16, 21:24]).all()  # no data around
    assert (estimate[~is_bad] == values[~is_bad]).all()
