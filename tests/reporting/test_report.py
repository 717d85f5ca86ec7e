"""Figures and the page: the right objects, the right pixels, nothing lost."""

import base64
import io
import json
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from deepfits import plot
from deepfits.photometry import ab_magnitude, aperture_flux, circular_aperture
from deepfits.pictures import BRIGHTEST, MISSING, colour_composite, noise_where, top_of
from deepfits.reporting import redshift_section
from deepfits.reporting.fit_section import chi2_summary, fit_section
from deepfits.reporting.held_out import (
    FAINT,
    FitResult,
    HeldOut,
    central_circle,
    choose_examples,
    reduced_chi2,
)
from deepfits.reporting.latent_section import latent_section
from deepfits.reporting.map import make_map
from deepfits.reporting.page import PageTable, Picture, Section, single, write_page
from deepfits.survey.store import Cutouts, StoreInfo


def test_central_flux_of_a_uniform_image_is_its_area():
    image = np.full((2, 3, 32, 32), 2.0)
    weight = np.full_like(image, 4.0)
    weight[1, 2, 16, 16] = 0
    flux, error = aperture_flux(image, weight, central_circle(32, 0.25))
    # a circle of 4 pixels, by 100 points a pixel; pixels of the rim count by their share
    np.testing.assert_allclose(flux[0], 2.0 * np.pi * 16, rtol=0.01)
    np.testing.assert_allclose(error[0], 0.5 * np.sqrt((circular_aperture(32, 4.0) ** 2).sum()))
    assert np.isnan(flux[1, 2])
    assert np.isfinite(flux[1, :2]).all()


def test_central_flux_ignores_what_stands_in_pixels_without_data():
    rng = np.random.default_rng(0)
    image = rng.normal(size=(1, 1, 32, 32))
    weight = np.ones_like(image)
    weight[..., 0, 0] = 0
    before = aperture_flux(image, weight, central_circle(32, 0.2))[0]
    image[..., 0, 0] = np.nan
    np.testing.assert_array_equal(aperture_flux(image, weight, central_circle(32, 0.2))[0], before)


def test_examples_go_from_bright_to_faint_and_skip_missing():
    rng = np.random.default_rng(3)
    ranking = rng.exponential(size=500)
    ranking[::7] = np.nan
    chosen = choose_examples(ranking, 6)
    assert len(chosen) == 6
    assert (np.diff(ranking[chosen]) < 0).all()
    # The choice is a property of the objects, not of their order.
    order = rng.permutation(500)
    np.testing.assert_array_equal(order[choose_examples(ranking[order], 6)], chosen)


def test_colour_composite_knows_red_from_blue():
    noise = np.ones(5)
    red, blue = np.zeros((5, 8, 8)), np.zeros((5, 8, 8))
    red[4, 4, 4], blue[0, 4, 4] = 100, 100
    picture_red, picture_blue = colour_composite(red, noise), colour_composite(blue, noise)
    assert picture_red[4, 4, 0] > picture_red[4, 4, 2] + 0.2
    assert picture_blue[4, 4, 2] > picture_blue[4, 4, 0] + 0.2
    assert picture_red.min() >= 0
    assert picture_red.max() <= 1


def test_colour_composite_is_grey_where_a_colour_was_not_observed():
    image = np.full((5, 8, 8), 30.0)
    whole = colour_composite(image, np.ones(5))
    image[4, 2], image[0, 4], image[2:4, 6] = np.nan, np.nan, np.nan
    picture = colour_composite(image, np.ones(5))
    is_grey = (np.abs(picture - MISSING) < 1e-6).all(axis=2)
    # z alone makes red; of u and g, and of r and i, one remains or none
    assert np.flatnonzero(is_grey.all(axis=1)).tolist() == [2, 6]
    np.testing.assert_allclose(picture[4], whole[4])
    image[4] = np.nan  # a band that is missing everywhere leaves the others, and a white galaxy white
    for noise in (np.ones(5), np.array([1, 1, 1, 1, np.nan])):
        there = colour_composite(image, noise)[0, 0]
        assert there.min() > 0.3  # no colour is absent, which would be 0.06
    fitted = np.full((5, 8, 8), 30.0)
    again = colour_composite(fitted, noise_where(image, np.ones(5)))
    np.testing.assert_array_equal(again[0], colour_composite(image, np.ones(5))[0])
    assert (colour_composite(np.full((5, 8, 8), np.nan), np.full(5, np.nan)) == MISSING).all()


def test_a_stretch_of_its_own_shows_a_faint_galaxy_and_leaves_noise_dark():
    noise = np.array([3.0, 1.0, 1.0, 2.0, 9.0])
    faint = np.zeros((5, 14, 14))
    faint[:, 5:9, 5:9] = 8 * noise[:, None, None]
    plain = colour_composite(faint, noise).max()
    assert colour_composite(faint, noise, top=top_of(faint, noise)).max() > 1.5 * plain
    empty = noise[:, None, None] * np.random.default_rng(1).normal(size=faint.shape)
    assert np.median(colour_composite(empty, noise, top=top_of(empty, noise)).max(axis=-1)) < 0.3
    assert top_of(1e4 * faint, noise) == BRIGHTEST  # a bright one is shown as ever
    faint[:, :, 3] = np.nan
    assert np.isfinite(top_of(faint, noise))
    assert top_of(faint, np.full(5, np.nan)) == BRIGHTEST


def test_page_holds_text_figures_and_escapes_what_users_wrote(tmp_path):
    picture = Picture(
        name="one",
        figure=single((3, 2), lambda ax: plot.magnitudes(np.array([20.0, 21.0]), "i", ax=ax)),
        caption="A caption",
    )
    table = PageTable(columns=["a", "b"], rows=[["<script>", "2"]])
    section = Section(title="Part", paragraphs=["Some words."], tables=[table], pictures=[picture])
    about = {"title": "T", "headline": [("12", "objects")], "footer": ["end"]}
    path = write_page(tmp_path / "report", sections=[section], **about)
    html = path.read_text()
    assert "&lt;script&gt;" in html
    assert "<script>" not in html
    assert "data:image/png;base64," in html
    assert (tmp_path / "report" / "figures" / "one.png").stat().st_size > 1000
    assert (tmp_path / "report" / "figures" / "one.pdf").read_bytes().startswith(b"%PDF")


def held_out(number=60, seed=0):
    """Held-out objects of two bands, a third of them faint, and two fits: one good, one blank."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:16, :16]
    profile = np.exp(-0.5 * ((x - 8) ** 2 + (y - 8) ** 2) / 4)
    bright = np.geomspace(0.3, 40, number)
    red = rng.uniform(0.5, 3, number)
    clean = (bright[:, None] * np.stack([np.ones(number), red], 1))[..., None, None] * profile
    image = clean + rng.normal(size=clean.shape)
    weight = np.ones_like(image)
    latent = np.stack([np.log(bright), np.log(red), 0.01 * rng.normal(size=number)], 1)
    flux, error = aperture_flux(image, weight, central_circle(16, 0.5))
    signal = np.sqrt(np.sum((flux / error).clip(0) ** 2, axis=1))
    held = HeldOut(
        cutouts=Cutouts(object_id=np.arange(number), image=image, weight=weight),
        info=StoreInfo(bands=("g", "r"), size=16, pixel_scale_arcsec=0.5),
        own_weight=weight,
        flux=flux,
        flux_error=error,
        signal_to_noise=signal,
        blank=reduced_chi2(image, 0.0, weight),
        blank_central=reduced_chi2(image, 0.0, weight * (profile > 0.3)),
        examples=choose_examples(signal, 4),
        faint=choose_examples(signal, 2, FAINT),
    )
    chi2 = ((image - clean) ** 2).sum((2, 3))
    fit = FitResult(
        chi2=chi2.sum(1),
        reduced=chi2.sum(1) / 512,
        reduced_band=chi2 / 256,
        status=np.full(number, "converged"),
        num_steps=np.full(number, 9),
        latent=latent,
        embedding=latent,
        central=reduced_chi2(image, clean, weight * (profile > 0.3)),
        drawn=dict(enumerate(clean)),
    )
    return held, fit


def test_chi2_stands_beside_that_of_a_blank_image_in_ranges_of_signal_to_noise():
    held, fit = held_out()
    shown = chi2_summary(held, {"both": fit})
    assert abs(shown["both"]["all"]["median_reduced_chi2"] - 1) < 0.1
    assert set(shown["both"]) > {"all", "S/N > 100"}
    assert sum(v["num_objects"] for k, v in shown["both"].items() if k != "all") == 60
    bright = {mode: one["S/N > 100"] for mode, one in shown.items()}
    assert bright["blank"]["median_reduced_chi2"] > 3 * bright["both"]["median_reduced_chi2"]
    assert bright["blank"]["median_reduced_chi2_central"] > 2 * bright["blank"]["median_reduced_chi2"]
    section = fit_section(held, {"both": fit}, {})
    assert [picture.name for picture in section.pictures] == ["figure-1", "figure-1-faint", "chi2"]
    assert section.tables[0].rows[0][0] == "blank"
    assert section.tables[0].columns[-4:] == ("g", "r", "steps", "converged")
    lacking = replace(fit, reduced_band=fit.reduced_band * [1, np.nan])
    table = fit_section(held, {"both": lacking}, {}).tables[0]
    assert table.columns[-3:] == ("g", "steps", "converged")  # r has no data
    assert {len(row) for row in table.rows} == {len(table.columns)}


def test_brightness_is_that_in_a_band_with_data():
    held, _ = held_out()
    lacking = replace(held, flux=held.flux * [1, np.nan], flux_error=held.flux_error * [1, np.nan])
    assert (held.reference, lacking.reference, lacking.with_data) == ("r", "g", ("g",))
    np.testing.assert_array_equal(lacking.magnitude, ab_magnitude(held.flux[:, 0]))
    assert lacking.magnitude_name.startswith("g magnitude")


def test_objects_that_were_not_fitted_are_not_counted():
    held, fit = held_out()
    is_left_out = np.arange(60) % 3 == 0
    for values in (fit.chi2, fit.reduced, fit.central):
        values[is_left_out] = np.nan
    shown = chi2_summary(held, {"both": fit})
    for one in shown.values():
        assert one["all"]["num_objects"] == 40
        assert sum(v["num_objects"] for k, v in one.items() if k != "all") == 40
    tables = fit_section(held, {"both": fit}, {}).tables
    for table in tables[:2]:
        numbers = [int(name.partition("(")[2].rstrip(")")) for name in table.columns if "(" in name]
        assert sum(numbers) == 2 * numbers[0] == 80


def test_latents_that_know_colours_have_neighbours_of_the_same_colour():
    held, fit = held_out(number=200)
    other = replace(fit, latent=fit.latent + 0.1 * np.random.default_rng(1).normal(size=fit.latent.shape))
    section = latent_section(held, {"optimise": other, "both": fit}, {}, fit.latent)
    prior, repeat, neighbours = section.tables
    far = np.median(np.sqrt((fit.latent**2).mean(1)))
    assert float(prior.rows[1][2]) == pytest.approx(far, abs=0.006)
    assert [row[0] for row in repeat.rows] == ["latent", "embedding"]
    assert 0.05 < float(repeat.rows[0][2]) < 0.15
    assert float(repeat.rows[0][4]) < 0.25
    assert float(repeat.rows[1][2]) == 0
    assert float(neighbours.rows[0][3]) < 0.4
    gap = np.full((len(held.flux), 1), np.nan)  # a band without data
    info = replace(held.info, bands=(*held.bands, "K"), fwhm_arcsec=(), noise_correlation=())
    more = {name: np.hstack([getattr(held, name), gap]) for name in ("flux", "flux_error")}
    again = latent_section(replace(held, info=info, **more), {"both": fit}, {}, fit.latent)
    assert again.tables[-1].rows == neighbours.rows
    blind = replace(fit, latent=np.random.default_rng(2).normal(size=fit.latent.shape))
    chance = latent_section(held, {"both": blind}, {}, blind.latent).tables[-1]
    assert 0.6 < float(chance.rows[0][3]) < 1.5


def test_the_map_holds_every_object_and_its_picture():
    held, fit = held_out(number=70)
    fit.latent[5] = np.nan
    made = make_map(held.object_id, fit.latent, held.observed, held.noise, {"<b>": held.magnitude})
    data = json.loads(made.data)
    assert "<" not in made.data
    assert data["id"] == [str(n) for n in range(70) if n != 5]
    place = np.frombuffer(base64.b64decode(data["x"]), "<f4")
    assert abs(np.corrcoef(place, np.delete(fit.latent[:, 0], 5))[0, 1]) > 0.9
    colour = np.frombuffer(base64.b64decode(data["columns"]["<b>"]), "<f4")
    np.testing.assert_allclose(colour, np.delete(held.magnitude, 5), rtol=1e-5)
    sheet = np.asarray(Image.open(io.BytesIO(base64.b64decode(made.sheet)))).astype(float)
    assert sheet.shape == (2 * 32, 64 * 32, 3)
    tiles = sheet[:32].reshape(32, 64, 32, 3).mean(axis=(0, 2, 3))
    brightness = np.delete(held.signal_to_noise, 5)[:64]
    assert np.corrcoef(tiles, np.log(brightness))[0, 1] > 0.8
    assert "export{" not in made.engine
    assert "const createScatterplot = " in made.engine


def test_ours_in_the_headline_is_chosen_without_the_test_objects_and_the_baseline_with_them():
    few = {"pretrained": 0, "adapted": 100}

    def row(method, features, left_out, tested):
        metrics = {"sigma_mad": {"value": tested, "error": 0.01}}
        judged = None if left_out is None else {"sigma_mad": left_out}
        names = {"method": method, "features": features, "num_train": few.get(method, 700)}
        return {**names, "loss": "", "metrics": metrics, "left_out": judged}

    rows = [
        row("constant", "", 0.001, 0.001),
        row("boosting", "latents", 0.05, 0.09),
        row("boosting", "all", 0.06, 0.01),
        row("boosting", "magnitudes", 0.07, 0.08),
        row("network", "magnitudes", 0.08, 0.02),
        row("templates", "", None, 0.005),
        row("pretrained", "", None, 0.031),
        row("adapted", "", 0.002, 0.003),
    ]
    shown = redshift_section._headline(rows)
    assert shown == {
        "σ_MAD of redshifts, ours: boosting on latents": "0.090 ± 0.010",
        "σ_MAD of redshifts, best baseline: templates": "0.005 ± 0.010",
        "σ_MAD of redshifts, without any label: pretrained": "0.031 ± 0.010",
    }


def test_the_table_of_redshifts_says_how_well_distributions_hold():
    rows = [
        {
            "metrics": {"r2": {"value": 0.5, "error": 0.1}},
            "pdf_metrics": {"crps": {"value": 0.1, "error": 0.01}},
        },
        {"metrics": {"r2": {"value": 0.0, "error": None}}},
    ]
    cells = [[redshift_section._cell(row, name) for name in ("r2", "crps")] for row in rows]
    assert cells == [["0.500 ± 0.100", "0.100 ± 0.010"], ["0.000", ""]]


def test_redshifts_of_unknown_truth_are_counted_by_class():
    columns = {
        "z_phot": np.array([0.5, 1.0, 0.1, np.nan, 0.2]),
        "z_err68_low": np.array([0.35, 0.8, 0.0, np.nan, 0.1]),
        "z_err68_high": np.array([0.65, 1.2, 0.2, np.nan, 0.3]),
        "class": np.array(["galaxy", "galaxy", "star", "galaxy", "quasar"]),
        "is_outside_domain": np.array([False, True, True, False, False]),
    }
    nothing = {name: values[3:4] for name, values in columns.items()}
    unclassified = {name: values[:3] for name, values in columns.items() if name.startswith("z")}
    tables = {"z.parquet": columns, "none.parquet": nothing, "unclassified.parquet": unclassified}
    table, picture = redshift_section.predicted(tables, {"z.parquet": 0, "none.parquet": 1200})
    first, second, third = (dict(zip(table.columns, row, strict=True)) for row in table.rows)
    assert [first[key] for key in ("objects", "galaxies", "stars", "quasars", "outside")] == list("52111")
    assert [row["labels"] for row in (first, second, third)] == ["0", "1,200", "–"]
    assert first["redshift"] == "0.75 (0.58 to 0.92)"
    assert first["width"] == "0.100"
    assert (second["objects"], second["galaxies"], second["redshift"]) == ("1", "0", "")
    assert [third[key] for key in ("objects", "galaxies", "stars", "quasars", "outside")] == list("33–––")
    assert picture.figure.axes[0].get_ylabel() == "galaxies"
    assert picture.figure.axes[0].get_xlabel() == "z_phot (last bin: 1.03 and above)"


def test_redshifts_at_or_below_0_can_be_drawn():
    nearest = {"z_phot": np.array([-0.01]), "z_err68_low": np.array([-0.1]), "z_err68_high": np.array([0.1])}
    _, picture = redshift_section.predicted({"z.parquet": nearest}, {})
    assert sum(patch.get_xy()[:, 1].max() for patch in picture.figure.axes[0].patches) == 1


def test_all_methods_and_features_of_redshifts_are_said_in_words():
    from deepfits.redshifts.features import FEATURE_SETS
    from deepfits.redshifts.methods import METHODS

    assert set(METHODS) <= set(redshift_section.METHODS)
    assert set(FEATURE_SETS) <= set(redshift_section.FEATURES)
    said = redshift_section._words([{"method": "stack", "features": "fits"}])
    assert said[0] == f"Methods: stack, {redshift_section.METHODS['stack']}."
    assert said[1].startswith("Features: fits, ")


def test_a_fit_that_draws_far_too_much_light_has_a_chi2():
    """In single precision it overflows, and warns."""
    image, weight = np.ones((2, 1, 2, 2), np.float32), np.ones((2, 1, 2, 2), np.float32)
    weight[:, :, 0] = 0
    model = np.array([1.0, 1e25], np.float32).reshape(2, 1, 1, 1) * image
    np.testing.assert_allclose(reduced_chi2(image, model, weight), [0.0, 1e50], rtol=1e-5)
