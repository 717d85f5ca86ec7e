"""Stacking: flux stays, outliers go, weights tell the noise, shifts are measured."""

from __future__ import annotations

import json
import os
import resource
import shutil

import numpy as np
import pytest
from astropy.coordinates import SkyCoord
from astropy.io import fits
from astropy.wcs import WCS
from reproject import reproject_interp
from scipy import ndimage

import deepfits
from deepfits.errors import InputError
from deepfits.passbands import wavelength_of
from deepfits.stages import stack as stages_stack
from deepfits.survey import fitsfile
from deepfits.survey.astrometry import pixels_at
from deepfits.survey.catalogue import read_catalogue, read_info
from deepfits.survey.fields import image_set
from deepfits.survey.grids import AlignedPlane, Grid
from deepfits.survey.planes import ReadOptions, open_planes
from deepfits.survey.stacking import PixelPositions, combine, find_bright, register
from tests.helpers.gaussian_sky import SCALE, draw, make_truth, make_wcs

SHAPE = (300, 320)
TURNS = [(0.0, (0, 0)), (0.7, (6.3, -4.2)), (-30.0, (-3.7, 8.1)), (90.0, (2.5, 2.5)), (12.0, (0.4, 0.9))]


@pytest.fixture(scope="module")
def truth():
    return make_truth(np.random.default_rng(20), 14, SHAPE, margin=75, spacing=26, bands="gr")


def write_exposures(directory, truth, *, sigma, band="r", seed=0, turns=TURNS, scale=SCALE, lies=None):
    """Write exposures turned and shifted against each other; `lies` are errors of the WCS written, pixels."""
    directory.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    sky = make_wcs(SHAPE).pixel_to_world_values(truth["x"], truth["y"])
    for number, (rotation, shift) in enumerate(turns):
        wcs = make_wcs(SHAPE, shift=shift, rotation=rotation, scale=scale)
        x, y = wcs.world_to_pixel_values(*sky)
        fwhm = truth["fwhm"] * SCALE / scale
        image = draw(SHAPE, x, y, truth[f"flux_{band}"], fwhm) + rng.normal(0, sigma, SHAPE) + 5.0 * number
        if lies and number in lies:
            wcs.wcs.crpix = wcs.wcs.crpix + np.array(lies[number])
        header = wcs.to_header()
        header["FILTER"], header["BUNIT"] = band, "nJy"
        fits.writeto(directory / f"exposure-{number}-{band}.fits", image.astype(np.float32), header)
    return directory


def coadd(out, band="r"):
    with (
        fits.open(out / f"coadd-{band}.fits") as hdus,
        fits.open(out / f"coadd-{band}.weight.fits") as weights,
    ):
        return hdus[0].data.astype(float), weights[0].data.astype(float), hdus[0].header.copy()


def light(image, x, y, radius):
    yy, xx = np.indices(image.shape)
    return np.array([image[np.hypot(xx - a, yy - b) < radius].sum() for a, b in zip(x, y, strict=True)])


@pytest.mark.parametrize("scale", [SCALE, 0.21])
@pytest.mark.parametrize("method", ["mean", "clipped", "median"])
def test_total_fluxes_are_kept(truth, tmp_path, scale, method):
    write_exposures(tmp_path / "raw", truth, sigma=0.05, scale=scale)
    out = deepfits.stack(tmp_path / "raw", tmp_path / "out", method=method, pixel_scale=0.15)
    image, _, header = coadd(out)
    wcs = WCS(header)
    x, y = wcs.world_to_pixel_values(*make_wcs(SHAPE).pixel_to_world_values(truth["x"], truth["y"]))
    radius = 1.25 * truth["fwhm"].max() * SCALE / 0.15
    sigma = truth["fwhm"] / 2.3548 * SCALE / 0.15
    inside = 1 - np.exp(-0.5 * (radius / sigma) ** 2)
    ratio = light(image, x, y, radius) / truth["flux_r"] / inside
    # Interpolating a Gaussian of 2.8 pixels FWHM with cubic splines, and whole pixels at the aperture's rim.
    assert np.abs(ratio - 1).max() < 0.01
    assert abs(np.median(ratio) - 1) < 0.002


def test_agrees_with_reproject(truth, tmp_path):
    write_exposures(tmp_path, truth, sigma=0.05, turns=TURNS[1:3])
    sources = image_set(sorted(map(str, tmp_path.glob("exposure-1-*")))).fields[0].images
    grid = Grid(wcs=make_wcs(SHAPE, scale=0.19), shape=SHAPE, path=tmp_path)
    with open_planes(sources, ReadOptions()) as planes:
        image, weight = AlignedPlane(planes["r"], grid).read()
        theirs, _ = reproject_interp(
            (planes["r"].read()[0], planes["r"].wcs), grid.wcs, SHAPE, order="bicubic"
        )
    theirs = theirs * (0.19 / SCALE) ** 2
    valid = (weight > 0) & np.isfinite(theirs)
    assert valid.mean() > 0.6
    # Their splines end at the border, ours mirror there: a few pixels inside they are the same.
    np.testing.assert_allclose(image[valid], theirs[valid], atol=2e-3 * np.abs(theirs[valid]).max())
    assert np.median(np.abs(image[valid] - theirs[valid])) < 1e-3


def distorted(ra):
    """Return the header of an exposure of 120×120 pixels with a SIP distortion of 2% at its corners."""
    header = make_wcs((120, 120), ra=ra).to_header()
    cards = {"CTYPE1": "RA---TAN-SIP", "CTYPE2": "DEC--TAN-SIP", "A_ORDER": 3, "B_ORDER": 3}
    cards |= dict.fromkeys(("A_3_0", "A_1_2", "B_0_3", "B_2_1"), 1e-6)  # towards the optical axis
    header.update(cards | {"FILTER": "r", "BUNIT": "nJy"})
    return header


def test_distorted_exposures_keep_their_fluxes_wherever_they_lie_on_the_grid(tmp_path):
    """The distortion counts where an exposure has pixels: its polynomials grow without limit beyond."""
    rng, number = np.random.default_rng(2), 9
    x, y = (v.ravel().astype(float) for v in np.meshgrid([35, 60, 85], [35, 60, 85]))
    flux, sky = rng.uniform(1e3, 1e4, (2, number)), []
    for exposure, ra in enumerate((150.0, 150.04)):  # 850 pixels apart
        image = draw((120, 120), x, y, flux[exposure], np.full(number, 4.0)) + rng.normal(0, 0.05, (120, 120))
        fits.writeto(tmp_path / f"e{exposure}-r.fits", image.astype(np.float32), distorted(ra))
        sky.append(WCS(distorted(ra)).all_pix2world(x, y, 0))
    image, _, header = coadd(deepfits.stack(tmp_path, tmp_path.parent / "out-of-distorted"))
    for exposure in (0, 1):
        ratio = light(image, *WCS(header).all_world2pix(*sky[exposure], 0), 8.0) / flux[exposure]
        assert np.abs(ratio - 1).max() < 0.02  # the pixels' size differs by 1% within an exposure


def test_positions_far_from_a_distorted_image_do_not_lie_on_it():
    cards = make_wcs((4094, 2046), scale=0.263).to_header()
    cards.update({"CTYPE1": "RA---TAN-SIP", "CTYPE2": "DEC--TAN-SIP", "A_ORDER": 3, "B_ORDER": 3})
    cards.update({"A_2_0": 2e-6, "A_0_2": 1e-6, "B_0_2": -3e-6})
    cards.update(dict.fromkeys(("A_3_0", "A_1_2", "B_0_3", "B_2_1"), 4e-10))
    wcs = WCS(cards)
    sky = SkyCoord(*np.random.default_rng(1).uniform([[145], [-3]], [[155], [7]], (2, 4000)), unit="deg")
    x, y = pixels_at(wcs, sky)
    is_known = np.isfinite(x)
    assert not (is_known & (np.abs(x) < 5000) & (np.abs(y) < 5000) & (np.abs(sky.ra.deg - 150) > 1)).any()
    inside = np.random.default_rng(2).uniform([[0], [0]], [[2046], [4094]], (2, 100))
    np.testing.assert_allclose(pixels_at(wcs, wcs.pixel_to_world(*inside)), inside, atol=1e-3)


def test_exposures_of_different_seeing_keep_their_fluxes(tmp_path, monkeypatch):
    """The peak of a star is four times as high in the best seeing here as in the worst."""
    rng, raw = np.random.default_rng(6), tmp_path / "raw"
    raw.mkdir()
    x, y = (v.ravel().astype(float) for v in np.meshgrid(np.arange(35, 300, 46), np.arange(35, 280, 46)))
    flux = 10 ** rng.uniform(3.5, 4.5, len(x))
    for number, fwhm in enumerate((3.0, 3.8, 4.6, 5.4, 6.2)):
        image = draw(SHAPE, x, y, flux, np.full(len(x), fwhm)) + rng.normal(0, 2, SHAPE)
        if number == 1:
            image[150, 10:300] += 300.0  # a satellite between the stars
        fits.writeto(raw / f"e{number}-r.fits", image.astype(np.float32), make_wcs(SHAPE).to_header())
        fits.setval(raw / f"e{number}-r.fits", "BUNIT", value="nJy")
    grid = next(raw.iterdir())
    stacked, _, _ = coadd(deepfits.stack(raw, tmp_path / "out", grid=grid))
    ratio = light(stacked, x, y, 12) / flux
    assert abs(np.median(ratio) - 1) < 0.003
    assert np.abs(ratio - 1).max() < 0.06  # noise: 0.02 for the faintest
    assert np.median(stacked[150, 12:298]) < 3
    monkeypatch.setattr(stages_stack, "STRIP", 17)
    in_strips, _, _ = coadd(deepfits.stack(raw, tmp_path / "strips", grid=grid))
    np.testing.assert_array_equal(in_strips, stacked)


def test_a_bright_sky_leaves_no_trace_beside_pixels_without_data(tmp_path):
    """As in the infrared, where the sky is hundreds of times the noise of a pixel."""
    raw, shape = tmp_path / "raw", (120, 120)
    raw.mkdir()
    image = np.random.default_rng(5).normal(2000, 1, shape).astype(np.float32)
    image[:, 60] = np.nan
    fits.writeto(raw / "e-r.fits", image, make_wcs(shape).to_header())
    fits.setval(raw / "e-r.fits", "BUNIT", value="nJy")
    grid = make_wcs(shape, shift=(0.4, 0.4)).to_header()
    fits.writeto(tmp_path / "grid.fits", np.zeros(shape, np.float32), grid)
    stacked, weight, _ = coadd(deepfits.stack(raw, tmp_path / "out", grid=tmp_path / "grid.fits"))
    used = (weight[20:100] > 0).all(axis=0)
    assert 3 <= (~used[50:70]).sum() <= 6
    assert np.abs(stacked[20:100, used].mean(axis=0)).max() < 0.5  # the noise of these means is 0.1


def test_bad_pixels_in_stars_leave_no_trace_where_exposures_are_interpolated(tmp_path):
    """Of 3% of the peak, two pixels away, and each took 25 pixels of the grid with it, in place of nine."""
    raw, shape = tmp_path / "raw", (200, 200)
    raw.mkdir()
    rng, (y, x) = np.random.default_rng(5), np.mgrid[:200, :200]

    def stars(dx, dy):
        places = np.stack(np.meshgrid(np.arange(20, 190, 20), np.arange(20, 190, 20)), -1).reshape(-1, 2)
        return sum(1000 * np.exp(-((x + dx - a) ** 2 + (y + dy - b) ** 2) / 6) for a, b in places)

    image = stars(0, 0) + rng.normal(0, 0.1, shape)
    is_bad = rng.random(shape) < 0.01
    is_bad[:, 60] = True
    fits.writeto(raw / "e-r.fits", np.where(is_bad, np.nan, image), make_wcs(shape).to_header())
    fits.setval(raw / "e-r.fits", "BUNIT", value="nJy")
    grid = make_wcs(shape, shift=(0.4, 0.3)).to_header()
    fits.writeto(tmp_path / "grid.fits", np.zeros(shape, np.float32), grid)
    stacked, weight, _ = coadd(deepfits.stack(raw, tmp_path / "out", grid=tmp_path / "grid.fits"))
    off = [stacked - stars(dx, dy) for dx, dy in ((0.4, 0.3), (-0.4, -0.3))]
    used = weight > 0
    assert used.mean() > 0.85
    assert min(np.abs(values[used]).max() for values in off) < 12


def test_a_sky_that_varies_over_an_exposure_is_said(truth, tmp_path, caplog):
    raw = write_exposures(tmp_path / "raw", truth, sigma=2.0)
    with fits.open(raw / "exposure-2-r.fits", mode="update") as hdus:
        hdus[0].data += np.linspace(0, 40, SHAPE[1], dtype=np.float32)
    deepfits.stack(raw, tmp_path / "out")
    assert [r for r in caplog.messages if "the sky differs" in r and "exposure-2" in r]
    assert len([r for r in caplog.messages if "the sky" in r]) == 1


def test_more_exposures_than_files_that_may_be_open(tmp_path):
    rng, raw = np.random.default_rng(3), tmp_path / "raw"
    raw.mkdir()
    for number in range(40):
        header = make_wcs((40, 40), shift=(0.3 * number, 0)).to_header()
        header["BUNIT"] = "nJy"
        fits.writeto(raw / f"e{number}-r.fits", rng.normal(0, 1, (40, 40)).astype(np.float32), header)
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/dev/fd")) + 30, limits[1]))
    try:
        deepfits.stack(raw, tmp_path / "out")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def test_a_file_of_several_ccds_is_unpacked_once(tmp_path, monkeypatch):
    rng, raw = np.random.default_rng(4), tmp_path / "raw"
    raw.mkdir()
    ccds = [
        fits.ImageHDU(
            rng.normal(0, 1, (60, 60)).astype(np.float32), make_wcs((60, 60), shift=(70 * n, 0)).to_header()
        )
        for n in range(4)
    ]
    first = fits.PrimaryHDU()
    first.header["FILTER"], first.header["MAGZERO"] = "r", 30.0
    fits.HDUList([first, *ccds]).writeto(raw / "mosaic.fits.gz")
    unpack, opened = fitsfile._unpack, []
    monkeypatch.setattr(fitsfile, "_unpack", lambda path, *more: opened.append(path) or unpack(path, *more))
    deepfits.stack(raw, tmp_path / "out")
    assert len(opened) == 2  # to count the CCDs, and to read them


def test_outliers_go_and_weights_tell_the_noise(truth, tmp_path):
    raw = write_exposures(tmp_path / "raw", truth, sigma=2.0)
    with fits.open(raw / "exposure-2-r.fits", mode="update") as hdus:
        hdus[0].data[100, 100:140] += 500  # a satellite
        hdus[0].data[40:42, 60] = np.nan
    for path in raw.iterdir():
        fits.setval(path, "INSTRUME", value="DECam")
    clean, weight, header = coadd(deepfits.stack(raw, tmp_path / "clipped"))
    dirty, _, _ = coadd(deepfits.stack(raw, tmp_path / "mean", method="mean"))
    assert np.abs(dirty - clean).max() > 50
    report = json.loads((tmp_path / "clipped" / "stack.json").read_text())["bands"]["r"]
    assert 30 < report["num_rejected"] < 400
    assert report["num_exposures"] == 5
    assert header["WAVELEN"] == wavelength_of("decam2014-r")
    # In the sky, the scatter of pixels is what their weights say; levels of 0 to 20 nJy are gone.
    x, y = WCS(header).world_to_pixel_values(*make_wcs(SHAPE).pixel_to_world_values(truth["x"], truth["y"]))
    yy, xx = np.indices(clean.shape)
    away = np.min([np.hypot(xx - a, yy - b) for a, b in zip(x, y, strict=True)], axis=0) > 18
    full = away & (weight > 0.8 * np.median(weight[weight > 0]))
    pull = (clean * np.sqrt(weight))[full]
    assert np.std(pull) == pytest.approx(1, abs=0.06)
    assert abs(np.mean(clean[full])) < 0.15
    blocks = (clean * np.sqrt(weight) * full)[: clean.shape[0] // 8 * 8, : clean.shape[1] // 8 * 8]
    whole = (
        full[: blocks.shape[0], : blocks.shape[1]].reshape(blocks.shape[0] // 8, 8, -1, 8).all(axis=(1, 3))
    )
    sums = blocks.reshape(blocks.shape[0] // 8, 8, -1, 8).sum(axis=(1, 3))[whole] / 8
    assert np.std(sums) == pytest.approx(header["NOISCORR"], rel=0.15)


@pytest.mark.parametrize("level", [200.2, 200.7])
def test_the_sky_level_of_integers_is_not_rounded(tmp_path, level):
    wcs, rng = make_wcs(SHAPE), np.random.default_rng(5)
    header = wcs.to_header()
    header["FILTER"], header["BUNIT"] = "r", "nJy"
    (tmp_path / "raw").mkdir()
    for number in range(3):
        counts = np.round(rng.normal(level, 2.0, SHAPE)).astype(np.int16)
        fits.writeto(tmp_path / "raw" / f"exposure-{number}.fits", counts, header)
    image, weight, _ = coadd(deepfits.stack(tmp_path / "raw", tmp_path / "out"))
    error = 2.0 / np.sqrt(3 * np.prod(SHAPE))
    assert abs(np.mean(image[weight > 0])) < 4 * 1.25 * error  # the error of a median; rounded: 0.2 and 0.3


def test_residual_shifts_are_measured_and_taken_out(truth, tmp_path):
    lie = {1: (2.3, -1.1)}
    turns = [(0.0, (0, 0)), (0.0, (6.3, -4.2)), (0.0, (-3.7, 8.1))]
    raw = write_exposures(tmp_path / "raw", truth, sigma=1.0, turns=turns, lies=lie)
    out = deepfits.stack(raw, tmp_path / "reported")
    exposures = json.loads((out / "stack.json").read_text())["bands"]["r"]["exposures"]
    found = np.array([one["residual_shift_pixels"] for one in exposures])
    relative = found - found[0]
    # CRPIX too large by d: the sources, drawn without it, appear d lower on the grid (here of the same axes).
    np.testing.assert_allclose(relative[1], [-2.3, 1.1], atol=0.1)
    np.testing.assert_allclose(relative[2], [0, 0], atol=0.1)
    assert all(one["flux_ratio"] == pytest.approx(1, abs=0.03) for one in exposures)
    mended = deepfits.stack(raw, tmp_path / "applied", register="apply", method="mean")
    blurred = deepfits.stack(raw, tmp_path / "mean", register="none", method="mean")
    peaks = [coadd(one)[0].max() for one in (mended, blurred)]
    straight = write_exposures(tmp_path / "straight", truth, sigma=1.0, turns=turns)
    best = coadd(deepfits.stack(straight, tmp_path / "best", method="mean"))[0].max()
    assert peaks[0] == pytest.approx(best, rel=0.03)
    assert peaks[1] < 0.9 * best


def test_the_fluxes_of_exposures_are_compared_by_sources_with_their_core():
    """Of saturated stars a tenth of the light was missing, and zero points that are right were doubted."""
    y, x = np.mgrid[:200, :200]
    image = np.random.default_rng(0).normal(0, 1, (200, 200)).astype(np.float32)
    for number, (a, b) in enumerate(np.stack(np.meshgrid([50, 100, 150], [50, 100, 150]), -1).reshape(-1, 2)):
        image += (100 * (number + 1) * np.exp(-((x - a) ** 2 + (y - b) ** 2) / 8)).astype(np.float32)
    is_saturated = image > 550
    found = find_bright(np.where(is_saturated, 0, image), (~is_saturated).astype(np.float32))
    assert len(found) == 5
    assert not is_saturated[np.rint(found["y"]).astype(int), np.rint(found["x"]).astype(int)].any()


@pytest.mark.parametrize("case", ["right", "zero point", "wcs", "wcs, applied"])
def test_an_exposure_that_is_unlike_the_others_is_said(truth, tmp_path, caplog, case):
    """The first has the best seeing and the most sources: the others are not brought to it."""
    turns = [(0.0, (0, 0)), (0.0, (6.3, -4.2)), (0.0, (-3.7, 8.1))]
    raw = write_exposures(tmp_path / "raw", truth, sigma=1.5, turns=turns)
    sharp = {**{key: truth[key] for key in truth}, "fwhm": 0.6 * truth["fwhm"]}
    write_exposures(tmp_path / "sharp", sharp, sigma=0.5, turns=turns[:1], seed=1, lies={0: (5.0, 0.0)})
    odd = raw / "exposure-0-r.fits"
    shutil.copy(tmp_path / "sharp" / odd.name, odd)
    if "wcs" not in case:
        fits.setval(odd, "CRPIX1", value=fits.getval(odd, "CRPIX1") - 5.0)
    if case == "zero point":
        fits.setval(odd, "BUNIT", value="1.5 nJy")
    out = deepfits.stack(raw, tmp_path / "out", register="apply" if "applied" in case else "report")
    said = [
        record.getMessage() for record in caplog.records if "the other exposures of r" in record.getMessage()
    ]
    words = {"zero point": "sources are 1.50 times as bright", "wcs": "lies 5.0 pixels off"}.get(case)
    if words is None:
        assert not said
    else:
        (text,) = said
        assert text.startswith(f"WARNING: {odd}: ")
        assert words in text
    exposures = json.loads((out / "stack.json").read_text())["bands"]["r"]["exposures"]
    assert all(one["num_matched"] for one in exposures)
    shifts = np.array([one["residual_shift_pixels"] for one in exposures])
    np.testing.assert_allclose(shifts, [[-5 if "wcs" in case else 0, 0], [0, 0], [0, 0]], atol=0.1)


def test_a_zero_point_given_for_exposures_that_differ_is_said(truth, tmp_path, caplog):
    """As CCDs of CASU's pawprints, whose MAGZPT are Vega magnitudes, so that the user gives the AB one."""
    sky = write_exposures(tmp_path / "sky", truth, sigma=1.0, turns=TURNS[:2])
    for number, path in enumerate(sorted(sky.iterdir())):
        with fits.open(path, mode="update") as hdus:
            del hdus[0].header["BUNIT"]
            hdus[0].header["MAGZPT"] = 31.4 + 0.05 * number
    deepfits.stack(sky, tmp_path / "own", register="none")
    assert "zero point" not in caplog.text
    deepfits.stack(sky, tmp_path / "given", zero_point=31.4, register="none")
    assert "zero point 31.4 is used for all exposures and CCDs of r" in caplog.text
    assert "differ by 0.05 mag" in caplog.text


def test_what_all_exposures_have_in_common_is_said_once(truth, tmp_path, caplog):
    """As where each of a camera's CCDs has a zero point in Vega magnitudes; and what is damaged, together."""
    sky = write_exposures(tmp_path / "sky", truth, sigma=1.0, turns=TURNS[:3])
    for number, path in enumerate(sorted(sky.iterdir())):
        with fits.open(path, mode="update") as hdus:
            hdus[0].header["MAGZPT"] = 31.4 + 0.01 * number
            hdus[0].header["PHOTSYS"] = "VEGA"
            del hdus[0].header["BUNIT"]
    deepfits.stack(sky, tmp_path / "out", register="none")
    (said,) = (record.getMessage() for record in caplog.records if "Vega" in record.getMessage())
    assert said.endswith("(2 more such exposures or CCDs)")
    for path in sorted(sky.iterdir())[:2]:
        path.write_bytes(path.read_bytes()[:-10_000])
    with pytest.raises(
        InputError, match=r"2 of 3 exposures cannot be used: \S+: truncated.*; \S+: truncated"
    ):
        deepfits.stack(sky, tmp_path / "damaged", register="none")


def test_exposures_without_bright_sources_are_stacked_where_their_wcs_puts_them(truth, tmp_path):
    faint = {key: values * (1e-3 if key.startswith("flux") else 1) for key, values in truth.items()}
    write_exposures(tmp_path / "exposures", faint, sigma=5.0, turns=TURNS[:2])
    deepfits.stack(tmp_path / "exposures", tmp_path / "coadds")
    _, weight, _ = coadd(tmp_path / "coadds")
    assert np.quantile(weight, 0.9) == pytest.approx(2 / 5.0**2, rel=0.6)  # interpolation smooths
    report = json.loads((tmp_path / "coadds" / "stack.json").read_text())["bands"]["r"]
    assert [exposure["num_matched"] for exposure in report["exposures"]] == [0, 0]


def test_registration_votes_down_wrong_pairs():
    rng = np.random.default_rng(3)
    x, y = rng.uniform(0, 300, (2, 60))
    flux = np.ones(60)
    other = PixelPositions(
        x=np.r_[x[:30] + 4.2, rng.uniform(0, 300, 40)],
        y=np.r_[y[:30] - 7.7, rng.uniform(0, 300, 40)],
        flux=np.ones(70) * 2,
    )
    found = register(other, PixelPositions(x=x, y=y, flux=flux))
    assert (found.dx, found.dy) == pytest.approx((4.2, -7.7), abs=1e-6)
    assert found.flux_ratio == pytest.approx(2)
    few = PixelPositions(x=x[:5], y=y[:5], flux=flux[:5])
    assert register(few, other).num_matched == 0


@pytest.mark.parametrize("number", [40, 400])
def test_a_wcs_that_was_never_solved_is_found(number):
    """Beyond 15 pixels it was not, without a word. Lists that have nothing in common agree on nothing."""
    rng = np.random.default_rng(number)
    x, y, other_x, other_y = rng.uniform(0, 1000, (4, number))
    flux = np.ones(number)
    sky = PixelPositions(x=x, y=y, flux=flux)
    mixed = np.arange(number) % 2 == 0
    shifted = PixelPositions(
        x=np.where(mixed, x + 130, other_x), y=np.where(mixed, y - 90, other_y), flux=flux
    )
    found = register(shifted, sky)
    assert (found.dx, found.dy) == pytest.approx((130, -90), abs=0.5)
    assert found.num_matched >= number / 2
    assert register(PixelPositions(x=other_x, y=other_y, flux=flux), sky).num_matched == 0


def test_combining_by_hand():
    image = np.array([1.0, 2.0, 3.0, 100.0], np.float32)[:, None, None] * np.ones((4, 1, 2), np.float32)
    weight = np.array([1.0, 1.0, 2.0, 1.0], np.float32)[:, None, None] * np.ones((4, 1, 2), np.float32)
    weight[:3, 0, 1] = 0
    mean, total, rejected = combine(image, weight, "mean", 4.0)
    assert mean[0].tolist() == pytest.approx([109 / 5, 100.0])
    assert total[0].tolist() == [5, 1]
    clipped, total, rejected = combine(image, weight, "clipped", 4.0)
    assert clipped[0].tolist() == [2.25, 100.0]
    assert total[0].tolist() == [4, 1]
    assert rejected[0].tolist() == [1, 0]
    median, total, _ = combine(image, weight, "median", 4.0)
    assert median[0].tolist() == [2.5, 100.0]
    assert total[0].tolist() == pytest.approx([2 / np.pi * (3 + np.sqrt(2)) ** 2 / 4, 1])


@pytest.mark.parametrize("tolerance", [0.3, 1.3])
def test_a_pixel_that_cosmic_rays_hit_in_half_of_the_exposures_is_that_of_the_others(tolerance):
    """It had no data, as all were far from the mean of the middle two, or kept one of the hits."""
    image = np.array([[1000.0], [0.0], [800.0], [1.0]], np.float32)[:, None]
    mean, total, rejected = combine(image, np.ones_like(image), "clipped", 4.0, tolerance, 1)
    assert (mean.item(), total.item(), rejected.item()) == (0.5, 2, 2)


@pytest.mark.parametrize("sigma", [(1, 10, 10, 30), (1, 1, 12, 12), (2, 2, 2), (1, 10)])
def test_exposures_of_any_depth_keep_their_pixels_and_lose_cosmic_rays(sigma):
    """Pixels of deep exposures differ from a median of shallow ones by many times their own noise."""
    noise = np.array(sigma, np.float32)[:, None, None]
    image = noise * np.random.default_rng(0).standard_normal((len(sigma), 100, 200), np.float32)
    weight = np.broadcast_to(noise**-2, image.shape)
    image[0, ::10, ::10] += 30 * max(sigma)  # cosmic rays in the first exposure
    is_hit = image[0] > 15 * max(sigma)
    mean, total, rejected = combine(image, weight, "clipped", 4.0)
    assert (rejected[is_hit] == 1).all()
    assert rejected[~is_hit].mean() < 1e-3
    assert np.std(mean[~is_hit]) == pytest.approx((1 / noise**2).sum() ** -0.5, rel=0.02)
    if len(sigma) != 4:  # of few values of very different depth the median is noisier than of many
        median, total, _ = combine(image, weight, "median", 4.0)
        assert np.std((median * np.sqrt(total))[~is_hit]) == pytest.approx(1, abs=0.1)


def test_of_two_values_the_higher_goes_unless_the_lower_is_dark():
    image = np.array([[1.0, 1.0, -90.0, 40.0, 2.0], [2.0, 90.0, 1.0, 50.0, 9.0]], np.float32)[:, None]
    weight = np.ones_like(image)
    weight[1, 0, 4] = 0
    clipped, total, rejected = combine(image, weight, "clipped", 4.0)
    assert clipped[0].tolist() == [1.5, 1.0, 1.0, 45.0, 2.0]
    assert total[0].tolist() == [2, 1, 1, 2, 1]
    assert rejected[0].tolist() == [0, 1, 1, 0, 0]


def test_two_exposures_of_different_seeing_lose_cosmic_rays_and_keep_stars(tmp_path):
    """More single pixels than stars: their width is not that of the stars, by which these are spared."""
    rng = np.random.default_rng(7)
    truth = make_truth(rng, 40, SHAPE, margin=20, spacing=22)
    wcs = make_wcs(SHAPE).to_header()
    wcs["FILTER"], wcs["BUNIT"] = "r", "nJy"
    raw, out = tmp_path / "raw", tmp_path / "out"
    raw.mkdir()
    for number, wider in enumerate((1.0, 1.35)):
        image = draw(SHAPE, truth["x"], truth["y"], truth["flux_r"], wider * np.full(40, 3.0))
        hits = rng.random(SHAPE) < 1e-3
        image[hits] += rng.uniform(100, 3000, hits.sum())
        noisy = (image + rng.normal(0, 1.0, SHAPE)).astype(np.float32)
        fits.writeto(raw / f"exposure-{number}.fits", noisy, wcs)
    stacked, _, header = coadd(deepfits.stack(raw, out))
    report = json.loads((out / "stack.json").read_text())["bands"]["r"]
    assert report["num_rejected"] > 150  # of about 190
    x, y = WCS(header).world_to_pixel_values(*make_wcs(SHAPE).pixel_to_world_values(truth["x"], truth["y"]))
    ratio = light(stacked, x, y, 9) / truth["flux_r"]
    assert np.median(ratio) == pytest.approx(1, abs=0.02)  # hits within stars remain


def test_coadds_of_turned_bands_are_aligned_and_detected(truth, tmp_path):
    raw = write_exposures(tmp_path / "raw", truth, sigma=1.0)
    write_exposures(raw, truth, sigma=1.0, band="g", seed=1, turns=TURNS[::-1])
    out = deepfits.stack(raw, tmp_path / "coadds")
    columns = read_catalogue(deepfits.detect(out, tmp_path / "c.parquet"))
    remarks = read_info(tmp_path / "c.parquet")["fields"]["coadd"]["remarks"]
    assert not any("aligned" in line for said in remarks.values() for line in said)
    ra, dec = make_wcs(SHAPE).pixel_to_world_values(truth["x"], truth["y"])
    for index in range(len(ra)):
        near = (
            np.hypot((columns["ra"] - ra[index]) * np.cos(np.deg2rad(2)), columns["dec"] - dec[index]) * 3600
        )
        assert near.min() < 0.1
        for band in "gr":
            ratio = columns[f"flux_{band}"][np.argmin(near)] / truth[f"flux_{band}"][index]
            # A Kron flux, 5% short at most; noise of a nJy a pixel is 5% of 500 nJy in such an ellipse.
            assert 0.88 < ratio < 1.12 or truth[f"flux_{band}"][index] < 500


def test_second_run_keeps_and_other_settings_are_refused(truth, tmp_path):
    raw = write_exposures(tmp_path / "raw", truth, sigma=1.0, turns=TURNS[:2])
    out = deepfits.stack(raw, tmp_path / "out")
    before = (out / "coadd-r.fits").stat().st_mtime_ns
    deepfits.stack(raw, out)
    assert (out / "coadd-r.fits").stat().st_mtime_ns == before
    (out / "coadd-r.weight.fits").unlink()
    deepfits.stack(raw, out)
    assert (out / "coadd-r.weight.fits").exists()
    with pytest.raises(InputError, match="made with method"):
        deepfits.stack(raw, out, method="mean")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"method": "best"}, "method must be .*, not 'best'"),
        ({"register": "maybe"}, "register must be .*, not 'maybe'"),
        ({"bands": ["u"]}, "in band u"),
    ],
)
def test_what_cannot_be_stacked(truth, tmp_path, arguments, words):
    raw = write_exposures(tmp_path / "raw", truth, sigma=1.0, turns=TURNS[:1])
    with pytest.raises(InputError, match=words):
        deepfits.stack(raw, tmp_path / "out", **arguments)


def test_exposures_far_apart_are_refused(truth, tmp_path):
    raw = write_exposures(tmp_path / "raw", truth, sigma=1.0, turns=TURNS[:3])
    with fits.open(raw / "exposure-1-r.fits", mode="update") as hdus:
        hdus[0].header["CRVAL1"] = 155.0
    with pytest.raises(InputError, match=r"stack one field at a time.*exposure-1-r\.fits"):
        deepfits.stack(raw, tmp_path / "out")


@pytest.mark.parametrize("how", ["copy", "packed"])
def test_an_exposure_that_is_there_twice_is_refused(truth, tmp_path, how):
    """It would count as two, and the noise of the coadd be too small."""
    raw = write_exposures(tmp_path / "raw", truth, sigma=0.5, turns=TURNS[:3])
    path = raw / "exposure-1-r.fits"
    if how == "copy":
        shutil.copy(path, raw / "again-r.fits")
    else:
        values, header = fits.getdata(path, header=True)
        packed = fits.CompImageHDU(values, header, quantize_level=16)
        fits.HDUList([fits.PrimaryHDU(), packed]).writeto(raw / "exposure-1-r.fits.fz")
    with pytest.raises(InputError, match=r"exposure-1-r\.fits.*the same exposure twice"):
        deepfits.stack(raw, tmp_path / "out")


def test_the_sky_between_sources_is_not_lowered_by_their_light(tmp_path):
    """Their wings raise the level of single exposures, in which they are not seen, by as much in all."""
    rng = np.random.default_rng(8)
    truth = make_truth(rng, 120, SHAPE, margin=10)
    image = draw(SHAPE, truth["x"], truth["y"], truth["flux_r"], np.full(120, 6.0))
    header = make_wcs(SHAPE).to_header()
    header["FILTER"], header["BUNIT"] = "r", "nJy"
    (tmp_path / "raw").mkdir()
    for number in range(9):
        noisy = image + 100 + rng.normal(0, 3.0, SHAPE)
        fits.writeto(tmp_path / "raw" / f"exposure-{number}.fits", noisy.astype(np.float32), header)
    stacked, _, _ = coadd(deepfits.stack(tmp_path / "raw", tmp_path / "out"))
    assert np.median((stacked - image)[5:-5, 5:-5]) == pytest.approx(0, abs=0.1)  # of a noise of 1


def test_exposures_may_cover_few_rows_of_the_grid(tmp_path):
    """The sky of a coadd is measured in a sample of its rows, none of which may have had data."""
    shape, part = (1500, 120), (120, 120)
    fits.PrimaryHDU(np.zeros(shape, np.float32), make_wcs(shape).to_header()).writeto(tmp_path / "grid.fits")
    header = make_wcs(part, shift=(0, shape[0] / 2 - 70 - part[0] / 2)).to_header()  # from row 70 on
    header["FILTER"], header["BUNIT"] = "r", "nJy"
    noise = np.random.default_rng(4).normal(10, 1, part)
    fits.writeto(tmp_path / "exposure-0.fits", noise.astype(np.float32), header)
    out = deepfits.stack([tmp_path / "exposure-0.fits"], tmp_path / "out", grid=tmp_path / "grid.fits")
    image, weight, _ = coadd(out)
    assert set(np.flatnonzero((weight > 0).any(axis=1))) <= set(range(65, 195))
    assert abs(np.median(image[weight > 0])) < 0.05


@pytest.mark.parametrize(
    ("sigma", "width", "grid"), [(0.3, 0, None), (4.0, 0, None), (40.0, 0, None), (8.0, 1.5, 2 * SCALE)]
)
def test_noise_of_coadds_of_fine_and_coarse_pixels(tmp_path, sigma, width, grid):
    """By weight; the mean over exposures was a third too small where a coarse one is deep."""
    rng = np.random.default_rng(3)
    for number, (scale, noise) in enumerate([(SCALE, 1.0)] * 3 + [(2 * SCALE, sigma)]):
        side = round(300 * SCALE / scale)
        wcs = make_wcs((side, side), shift=(0.3 * number, -0.2 * number), scale=scale)
        header = wcs.to_header() + fits.Header({"FILTER": "r", "BUNIT": "nJy"})
        image = rng.normal(0, noise, (side, side)).astype(np.float32)
        if scale == SCALE and width:
            image = noise * 2 * np.sqrt(np.pi) * width * ndimage.gaussian_filter(image, width)
        (tmp_path / "raw").mkdir(exist_ok=True)
        fits.writeto(tmp_path / "raw" / f"e{number}.fits", image, header)
    image, weight, header = coadd(deepfits.stack(tmp_path / "raw", tmp_path / "out", pixel_scale=grid))
    first, last = (20, 128) if grid else (40, 256)
    pull = (image * np.sqrt(weight))[first:last, first:last]
    pull = pull.reshape((last - first) // 12, 12, -1, 12).sum((1, 3)) / 12
    assert np.std(pull) == pytest.approx(header["NOISCORR"], rel=0.12)
