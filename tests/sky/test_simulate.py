import json

import numpy as np
import pyarrow.parquet as pq
import pytest
from astropy.io import fits
from astropy.wcs import WCS

import deepfits
from deepfits.errors import InputError
from deepfits.passbands import filter_centre
from deepfits.sky.scene import draw_model, draw_objects, make_scene, observe, strips
from deepfits.sky.surveys import find_survey

BANDS = "ugriz"


@pytest.fixture(scope="module")
def sky(tmp_path_factory):
    out = tmp_path_factory.mktemp("sky")
    deepfits.simulate(out, size=400, seed=5, workers=1)
    return out


def read(path):
    with fits.open(path) as hdus:
        return hdus[0].data.astype(float), hdus[0].header


def test_files_are_those_of_the_plain_layout(sky):
    expected = {"sky.json", "truth.parquet", "_made_from.json"}
    expected |= {f"coadd-{b}.fits" for b in BANDS} | {f"coadd-{b}.weight.fits" for b in BANDS}
    assert {path.name for path in sky.iterdir()} == expected
    for band, zero_point in zip(BANDS, (30, 27, 27, 27, 27), strict=True):
        image, header = read(sky / f"coadd-{band}.fits")
        weight, _ = read(sky / f"coadd-{band}.weight.fits")
        assert image.shape == weight.shape == (400, 400)
        assert header["FILTER"] == band
        assert header["MAGZERO"] == zero_point
        assert np.isfinite(image).all()
        assert (weight >= 0).all()
        assert (weight > 0).mean() > 0.8
        assert 0.3 < header["FWHM"] < 1.5


def test_files_satisfy_the_fits_standard(sky):
    with fits.open(sky / "coadd-u.fits") as hdus:
        hdus.verify("exception")


def test_truth_is_where_the_coordinates_say(sky):
    truth = pq.read_table(sky / "truth.parquet").to_pydict()
    _, header = read(sky / "coadd-r.fits")
    x, y = WCS(header).all_world2pix(truth["ra"], truth["dec"], 0)
    np.testing.assert_allclose(x, truth["x"], atol=1e-5)
    np.testing.assert_allclose(y, truth["y"], atol=1e-5)
    assert len(set(truth["object_id"])) == len(truth["object_id"])
    assert {"galaxy", "star"} <= set(truth["kind"])
    assert all(z == 0 for z, kind in zip(truth["z_spec"], truth["kind"], strict=True) if kind == "star")


def test_the_files_hold_the_light_of_the_truth(tmp_path):
    deepfits.simulate(tmp_path, size=600, seed=3, defects=False)
    truth = pq.read_table(tmp_path / "truth.parquet").to_pandas()
    for band in BANDS:
        image, header = read(tmp_path / f"coadd-{band}.fits")
        flux = image.sum() * 10 ** (0.4 * (31.4 - header["MAGZERO"]))
        # Light that crosses the border either way, and the noise of 360,000 pixels.
        expected = (10 ** (0.4 * (31.4 - truth[f"mag_{band}"]))).sum()
        assert flux == pytest.approx(expected, rel=0.03), band


def test_the_weight_is_the_inverse_variance_of_each_pixel():
    survey = find_survey("clauds-hsc")
    table = draw_objects(survey, 256, 2, 0)
    scene = make_scene(survey, 256, 2, 0, table)
    model = draw_model(scene, (0, 256))
    image, variance = observe(scene, model, (0, 256))
    pull = (image - model) / np.sqrt(variance)
    assert pull.std() == pytest.approx(1.0, rel=0.01)
    bright = model > 30 * np.array(scene.conditions.sigma)[:, None, None]
    assert bright.sum() > 500
    # Correlated pixels count about a third of independent ones.
    assert pull[bright].std() == pytest.approx(1.0, abs=5 * np.sqrt(1.5 / bright.sum()))
    assert variance.max() > 1.2 * np.min(variance, axis=(1, 2)).max()


def test_the_stated_depth_is_the_error_of_an_aperture_of_two_arcseconds():
    import sep

    survey = find_survey("clauds-hsc")
    scene = make_scene(survey, 1024, 3, 0, {k: v[:0] for k, v in draw_objects(survey, 64, 1, 0).items()})
    image, variance = observe(scene, draw_model(scene, (0, 1024)), (0, 1024))
    grid = np.arange(10.0, 1010.0, 14.0)
    x, y = (v.ravel() for v in np.meshgrid(grid, grid))
    for band, depth in enumerate(scene.conditions.depth):
        flux, _, _ = sep.sum_circle(np.ascontiguousarray(image[band]), x, y, 1 / 0.168)
        found = 31.4 - 2.5 * np.log10(5 * flux.std())
        # 5,184 apertures: 1% of the error is 0.01 mag; four of these.
        assert found == pytest.approx(depth, abs=0.045)
        _, error, _ = sep.sum_circle(
            np.ascontiguousarray(image[band]), x, y, 1 / 0.168, var=np.ascontiguousarray(variance[band])
        )
        assert flux.std() / error.mean() == pytest.approx(survey.noise_correlation, rel=0.04)


def test_the_same_seed_gives_the_same_sky_on_any_number_of_workers(tmp_path, sky):
    deepfits.simulate(tmp_path, size=400, seed=5, workers=3)
    for name in ("coadd-u.fits", "coadd-i.weight.fits", "truth.parquet"):
        assert (tmp_path / name).read_bytes() == (sky / name).read_bytes()


def test_another_seed_gives_another_sky(tmp_path, sky):
    deepfits.simulate(tmp_path, size=400, seed=6)
    assert (tmp_path / "coadd-u.fits").read_bytes() != (sky / "coadd-u.fits").read_bytes()


def test_strips_join_without_a_seam(sky):
    survey = find_survey("clauds-hsc")
    scene = make_scene(survey, 400, 5, 0, draw_objects(survey, 400, 5, 0), defects=False)
    assert len(strips(400)) == 2
    whole, _ = observe(scene, draw_model(scene, (0, 400)), (0, 400))
    counts = 10 ** (0.4 * (27.0 - 31.4))
    image, _ = read(sky / "coadd-i.fits")
    weight, _ = read(sky / "coadd-i.weight.fits")
    good = weight > 0
    np.testing.assert_allclose(image[good], (whole[3] * counts)[good], rtol=1e-4, atol=1e-4)


def test_running_again_makes_only_what_is_missing(tmp_path):
    deepfits.simulate(tmp_path, size=128, seed=1, num_patches=2, survey="sdss-like")
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"patch-00", "patch-01", "sky.json", "truth.parquet", "_made_from.json"}
    kept, lost = tmp_path / "patch-00/coadd-u.fits", tmp_path / "patch-01/coadd-z.weight.fits"
    before, content = kept.stat().st_mtime_ns, lost.read_bytes()
    lost.unlink()
    deepfits.simulate(tmp_path, size=128, seed=1, num_patches=2, survey="sdss-like")
    assert kept.stat().st_mtime_ns == before
    assert lost.read_bytes() == content
    truth = pq.read_table(tmp_path / "truth.parquet").to_pandas()
    assert set(truth.patch) == {"patch-00", "patch-01"}
    assert truth.object_id.is_unique


def test_patches_differ_in_seeing_and_depth_and_lie_beside_each_other(tmp_path):
    deepfits.simulate(tmp_path, size=128, seed=1, num_patches=2)
    headers = [read(tmp_path / f"patch-0{n}/coadd-i.fits")[1] for n in (0, 1)]
    assert headers[0]["FWHM"] == pytest.approx(0.66)
    assert headers[1]["FWHM"] != headers[0]["FWHM"]
    assert headers[1]["DEPTH5"] != headers[0]["DEPTH5"]
    x, _ = WCS(headers[0]).all_world2pix(*WCS(headers[1]).all_pix2world(0, 0, 0), 0)
    assert x == pytest.approx(128 + 100, abs=1e-6)


def test_another_sky_in_the_same_place_is_refused(sky):
    with pytest.raises(InputError, match="seed = 5, now 9"):
        deepfits.simulate(sky, size=400, seed=9)


def test_nothing_stands_under_a_final_name_when_drawing_fails(tmp_path, monkeypatch):
    import deepfits.sky.scene as scene

    def fail(*arguments):
        raise RuntimeError("no light")

    monkeypatch.setattr(scene, "observe", fail)
    with pytest.raises(RuntimeError, match="no light"):
        deepfits.simulate(tmp_path, size=128)
    assert {path.name for path in tmp_path.iterdir()} == {"sky.json", "_made_from.json"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"size": 10}, "size must be a whole number from 64"),
        ({"num_patches": 0}, "num_patches"),
        ({"seed": -1}, "seed"),
        ({"layout": "odd"}, "layout must be 'plain' or 'hsc', not 'odd'"),
        ({"survey": "clouds-hsc"}, "did you mean 'clauds-hsc'"),
        ({"survey": "nowhere.toml"}, "no such survey file"),
    ],
)
def test_wrong_arguments_are_named(tmp_path, arguments, message):
    with pytest.raises(InputError, match=message):
        deepfits.simulate(tmp_path, **arguments)
    assert not (tmp_path / "sky.json").exists()


def test_a_filter_curve_counts_by_its_contents(tmp_path):
    (tmp_path / "mine.toml").write_text(
        'name = "mine"\npixel_scale_arcsec = 0.25\nmag_limit = 20\n'
        '[[bands]]\nname = "g"\nfilter = "g.txt"\ndepth = 24\nfwhm_arcsec = 1.1\n'
        "zero_point = 25\nsky_mag = 22\nsaturation = 16\n"
    )
    for shift in (0, 10):
        (tmp_path / "g.txt").write_text(f"{4000 + shift} 0\n{4800 + shift} 1\n{5600 + shift} 0\n")
        if shift:
            with pytest.raises(InputError, match=r"made with survey\.bands"):
                deepfits.simulate(tmp_path / "sky", survey=tmp_path / "mine.toml", size=64, workers=1)
        else:
            deepfits.simulate(tmp_path / "sky", survey=tmp_path / "mine.toml", size=64, workers=1)


def test_a_survey_of_ones_own(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(
        'name = "mine"\npixel_scale_arcsec = 0.25\nmag_limit = 23\n'
        '[[bands]]\nname = "g"\nfilter = "decam2014-g"\ndepth = 24\nfwhm_arcsec = 1.1\n'
        "zero_point = 25\nsky_mag = 22\nsaturation = 16\n"
    )
    deepfits.simulate(tmp_path / "sky", survey=path, size=128)
    image, header = read(tmp_path / "sky/coadd-g.fits")
    assert image.std() > 0
    assert header["MAGZERO"] == 25
    assert json.loads((tmp_path / "sky/sky.json").read_text())["survey"]["name"] == "mine"
    text = path.read_text()
    for line, other, message in (
        ("saturation = 16", "saturation = 16\ndept = 3", r"mine.toml: bands\[0\]: .*did you mean 'depth'"),
        (
            "pixel_scale_arcsec = 0.25",
            "pixel_scale_arcsec = 0",
            "pixel_scale_arcsec must be a finite number from 0.01",
        ),
        ("depth = 24", "depth = nan", r"mine.toml: bands\[0\].depth must be a finite number .*, not nan"),
        ("depth = 24", "depth = 1e300", r"bands\[0\].depth must be a finite number from -60"),
        ("depth = 24", "depth = true", "depth must be a finite number .*, not True"),
        ('name = "mine"', "name = 3", "mine.toml: name must be a string, not 3"),
    ):
        path.write_text(text.replace(line, other))
        with pytest.raises(InputError, match=message):
            find_survey(path)
    path.write_text('bands = "ugriz"\nname = "mine"\npixel_scale_arcsec = 1')
    with pytest.raises(InputError, match="bands must be a list, not 'ugriz'"):
        find_survey(path)


def test_a_filter_is_looked_for_beside_the_survey_file(tmp_path):
    wavelength = np.arange(4000.0, 5600.0, 20)
    response = np.exp(-0.5 * ((wavelength - 4800) / 200) ** 2)
    np.savetxt(tmp_path / "mine.txt", np.stack([wavelength, response], axis=1))
    text = find_survey("sdss-like").to_toml()
    ours = find_survey("sdss-like").bands[1].filter
    (tmp_path / "survey.toml").write_text(text.replace(f'"{ours}"', '"mine.txt"'))
    found = find_survey(tmp_path / "survey.toml").bands
    assert found[1].filter == str(tmp_path / "mine.txt")
    assert filter_centre(found[1].filter) == pytest.approx(4800, abs=20)
    assert found[0].filter == find_survey("sdss-like").bands[0].filter


def test_a_survey_survives_json():
    for survey in map(find_survey, ("clauds-hsc", "rubin-like", "sdss-like")):
        assert type(survey).from_json(json.loads(json.dumps(survey.to_json())), "here") == survey
