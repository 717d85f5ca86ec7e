"""Figures on axes of one's own: the right pixels and points, and nothing drawn elsewhere."""

import json

import matplotlib
import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from deepfits import plot
from deepfits.pictures import MISSING, combined, diverging, significance
from deepfits.reporting.redshift_figures import error_curves


@pytest.fixture
def ax():
    return Figure(figsize=(3, 3)).add_subplot()


def test_residuals_in_sigma_have_unit_variance_whatever_the_weights():
    rng = np.random.default_rng(1)
    weight = rng.uniform(0.1, 9, size=(4, 64, 64))
    weight[1, :, :8] = 0
    image = 3 + rng.normal(size=weight.shape) / np.sqrt(np.where(weight > 0, weight, 1))
    sigma = significance(image, np.full_like(image, 3), weight)
    assert np.isnan(sigma[1, :, :8]).all()
    # 64 × 64 draws: the standard deviation is good to 1.1 percent
    assert abs(np.nanstd(combined(sigma)) - 1) < 0.05
    np.testing.assert_allclose(combined(sigma)[:, :8], sigma[[0, 2, 3], :, :8].sum(0) / np.sqrt(3))
    assert diverging(np.array([-1.0, np.nan, 1.0]))[0, 2] > diverging(np.array([1.0]))[0, 2]
    np.testing.assert_allclose(diverging(np.array([np.nan]))[0], MISSING)


def test_composite_shows_the_image_the_right_way_up(ax):
    image = np.zeros((3, 16, 16))
    image[:, 2, 5] = 500
    plot.composite(image, np.ones(3), ax=ax)
    shown = ax.images[0].get_array().sum(axis=-1)
    assert np.unravel_index(shown.argmax(), shown.shape) == (2, 5)
    assert ax.images[0].origin == "lower"


def test_what_a_model_renders_is_shown_like_an_array(ax):
    image = np.random.default_rng(1).normal(size=(4, 3, 8, 8)).astype(np.float32)
    shown = [
        plot.contact_sheet(i, np.ones(3), ax=ax).images[-1].get_array() for i in (image, torch.tensor(image))
    ]
    np.testing.assert_array_equal(*shown)


def test_composite_is_seen_where_a_pixel_at_the_edge_is_missing(ax):
    """The noise of the edges was NaN then, and all of the picture grey."""
    image = np.random.default_rng(0).normal(size=(3, 16, 16))
    image[:, 0, 0] = np.nan
    plot.composite(image, ax=ax)
    is_grey = (np.abs(ax.images[0].get_array() - MISSING) < 1e-6).all(axis=-1)
    assert is_grey[0, 0]
    assert is_grey.sum() == 1


def test_reconstructions_show_versions_bands_and_residuals():
    rng = np.random.default_rng(2)
    image, hidden = rng.normal(size=(3, 5, 16, 16)), rng.normal(size=(3, 5, 16, 16))
    hidden[:, 0] = np.nan
    figure = plot.reconstructions({"observed": image, "given": hidden}, "ugriz", np.ones(5), residual=image)
    shown = [axes.images[0].get_array() for axes in figure.axes]
    assert [one.shape for one in shown] == 3 * [(3 * 18 - 2, 6 * 18 - 2, 3)]
    assert [text.get_text() for text in figure.axes[0].texts].count("no data") == 1
    r_band = np.asarray(shown[1])[:16, 3 * 18 : 3 * 18 + 16].sum(-1)[::-1]  # drawn with row 0 below
    order = r_band.ravel()[np.argsort(image[1, 2].ravel())]
    assert (np.diff(order) >= -1e-9).all(), "brighter pixels are shown brighter, each at its place"
    assert len(np.unique(order)) > 20
    parts = Figure(figsize=(8, 8)).subfigures(2)
    assert plot.reconstructions({"observed": image[:1]}, "ugriz", np.ones(5), figure=parts[1]) is parts[1]
    assert not parts[0].axes


def test_tiles_say_what_stands_side_by_side():
    image = np.random.default_rng(1).normal(size=(3, 5, 8, 8))
    figure = plot.tiles(image, np.ones_like(image), ["a", "b", "c"], fitted=image, columns=2)
    named = [[text.get_text() for text in axes.texts] for axes in figure.axes]
    assert named == [["observed", "best fit", "residual ±5 σ"]] * 2 + [[], []]
    assert not any(axes.texts for axes in plot.tiles(image, np.ones_like(image), ["a", "b", "c"]).axes)


def test_scatter_states_what_its_points_have(ax):
    rng = np.random.default_rng(3)
    z_spec = rng.uniform(0, 2, 500)
    z_phot = z_spec + 0.05 * (1 + z_spec) * rng.normal(size=500)
    z_phot[:25] += 1.5
    plot.scatter(z_spec, z_phot, ax=ax)
    text = ax.texts[0].get_text()
    assert 0.045 < float(text.split()[1]) < 0.06
    assert abs(float(text.split()[-1]) - 0.05) < 0.01
    assert len(ax.collections[0].get_offsets()) == 500


def test_a_few_points_are_larger_than_many(ax):
    z = np.linspace(0.1, 1, 1200)
    few = plot.scatter(z[::100], z[::100], ax=ax).collections[0].get_sizes()[0]
    assert few >= 4 * plot.scatter(z, z, ax=ax).collections[1].get_sizes()[0]
    upper, lower = plot.scatter_with_difference(z[::100], z[::100], x_name="x", y_name="y")
    assert [axes.collections[0].get_sizes()[0] for axes in (upper, lower)] == [few, few]


def test_logarithmic_ticks_read_as_numbers(ax):
    plot.chi2_histogram({"both": np.random.default_rng(4).chisquare(100, 400) / 60}, ax=ax)
    ax.figure.canvas.draw()
    shown = [label.get_text() for label in ax.get_xticklabels() if label.get_text()]
    assert "1" in shown
    assert "2" in shown
    assert not any("10^" in text or "times" in text for text in shown)


def test_nothing_to_show_is_an_empty_figure(ax):
    plot.chi2_by_signal(np.full(4, 3.0), {"both": np.full(4, np.nan)}, ax=ax)
    plot.magnitudes(np.full(3, np.nan), "i", ax=ax)
    ax.figure.canvas.draw()
    assert ax.get_ylabel() == "objects per 0.5 mag"


def test_what_there_is_one_of_is_seen(ax):
    """A bin with one object lay below the axis, and a single row of losses drew nothing."""
    plot.magnitudes(np.array([20.2, *[21.2] * 8, 23.1]), "i", ax=ax)
    assert ax.get_ylim()[0] < 1 < 8 < ax.get_ylim()[1]
    ax.clear()
    for number in (1, 2):
        line = plot.losses(np.arange(number), {"generator": np.full(number, 0.3)}, ax=ax).lines[-1]
        assert (line.get_marker() == "o") == (number == 1)
    ax.clear()
    line = plot.chi2_by_signal(np.array([30.0, 300.0]), {"both": np.array([1.0, 1.2])}, ax=ax).lines[0]
    assert line.get_xydata().tolist() == [[30.0, 1.0], [300.0, 1.2]]


def test_a_map_of_latents_finds_the_direction_that_varies_most(ax):
    rng = np.random.default_rng(5)
    latent = rng.normal(size=(300, 6)) * np.array([1, 1, 9, 1, 4, 1])
    latent[7] = np.nan
    plot.latent_map(latent, colour=latent[:, 2], name="x", ax=ax)
    shown = ax.collections[0].get_offsets().data
    known = np.delete(latent, 7, axis=0)
    assert shown.shape == (299, 2)
    assert abs(np.corrcoef(shown[:, 0], known[:, 2])[0, 1]) > 0.99
    assert abs(np.corrcoef(shown[:, 1], known[:, 4])[0, 1]) > 0.99


def test_without_axes_they_are_made():
    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    ax = plot.pit(np.random.default_rng(6).random(200))
    assert len(ax.patches) >= 10
    plt.close("all")


@pytest.mark.parametrize("number", [3, 60])
def test_the_point_beyond_redshift_2_is_named_where_it_is_drawn(tmp_path, number):
    estimates = {name: {"value": 0.04, "error": 0.01} for name in ("sigma_mad", "eta_15")}
    near = {"low": 0.5, "high": 1.0, "num": 90, "metrics": estimates}
    far = {"low": 2.0, "high": 10.0, "num": number} | ({"metrics": estimates} if number > 20 else {})
    row = {"method": "network", "features": "magnitudes", "loss": "absolute", "metrics": estimates}
    content = {"magnitude": "mag_i", "rows": [{**row, "by_magnitude": [], "by_redshift": [near, far]}]}
    (tmp_path / "metrics.json").write_text(json.dumps(content))
    label = error_curves(tmp_path).axes[3].get_xlabel()
    assert ("z > 2" in label) == (number > 20)
