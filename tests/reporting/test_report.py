"""Figures and the page: the right objects, the right pixels, nothing lost."""

import numpy as np

from deepfits.photometry import circular_aperture
from deepfits.reporting import figures
from deepfits.reporting.page import Page, Picture, Section, Table, write_page
from deepfits.reporting.selection import (
    central_flux,
    choose_examples,
    signal_to_noise,
)


def test_central_flux_of_a_uniform_image_is_its_area():
    image = np.full((2, 3, 32, 32), 2.0)
    weight = np.full_like(image, 4.0)
    weight[1, 2, 16, 16] = 0
    flux, error = central_flux(image, weight, pixel_scale_arcsec=0.2, radius_arcsec=0.8)
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
    before = central_flux(image, weight, 0.2, 1.0)[0]
    image[..., 0, 0] = np.nan
    np.testing.assert_array_equal(central_flux(image, weight, 0.2, 1.0)[0], before)


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


def test_signal_to_noise_adds_in_quadrature_and_misses_nothing_silently():
    flux, error = np.array([[3.0, 4.0], [3.0, np.nan]]), np.ones((2, 2))
    out = signal_to_noise(flux, error)
    assert out[0] == 5.0
    assert np.isnan(out[1])


def test_colour_composite_knows_red_from_blue():
    noise = np.ones(5)
    red, blue = np.zeros((5, 8, 8)), np.zeros((5, 8, 8))
    red[4, 4, 4], blue[0, 4, 4] = 100, 100
    picture_red, picture_blue = figures.colour_composite(red, noise), figures.colour_composite(blue, noise)
    assert picture_red[4, 4, 0] > picture_red[4, 4, 2] + 0.2
    assert picture_blue[4, 4, 2] > picture_blue[4, 4, 0] + 0.2
    assert picture_red.min() >= 0
    assert picture_red.max() <= 1


def test_gallery_draws_every_version_of_every_galaxy():
    rng = np.random.default_rng(1)
    image = rng.normal(size=(3, 5, 32, 32))
    hidden = image.copy()
    hidden[:, 0] = np.nan
    figure = figures.gallery(
        [("observed", image), ("given", hidden)], "ugriz", np.ones(5), titles=["a", "b", "c"]
    )
    with_pictures = [axes for axes in figure.axes if axes.images]
    # 3 galaxies × 2 versions × (colour + 5 bands), less the three hidden bands.
    assert len(with_pictures) == 3 * 2 * 6 - 3


def test_page_holds_text_figures_and_escapes_what_users_wrote(tmp_path):
    picture = Picture(
        name="one",
        figure=figures.magnitude_histogram(np.array([20.0, 21.0, np.nan]), "i"),
        caption="A caption",
    )
    table = Table(columns=["a", "b"], rows=[["<script>", "2"]])
    section = Section(title="Part", paragraphs=["Some words."], tables=[table], pictures=[picture])
    page = Page(title="T", subtitle="S", headline=[("12", "objects")], sections=[section], footer=["end"])
    path = write_page(tmp_path / "report", page)
    html = path.read_text()
    assert "&lt;script&gt;" in html
    assert "<script>" not in html
    assert "data:image/png;base64," in html
    assert (tmp_path / "report" / "figures" / "one.png").stat().st_size > 1000
