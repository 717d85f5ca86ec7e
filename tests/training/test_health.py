"""The metrics of a training's health."""

import numpy as np
import pytest
import torch

from deepfits.models.bundle import Model
from deepfits.models.layers import ModelConfig
from deepfits.survey.normalise import Normalisation
from deepfits.survey.store import StoreInfo
from deepfits.training.data import Batch
from deepfits.training.health import (
    NUM_RINGS,
    examine,
    kernel_distance,
    make_panel,
    radial_features,
    spread,
    texture,
)
from deepfits.training.noise import NoiseSource, white_autocovariance


def normal(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_radial_features_are_means_over_rings():
    y, x = np.mgrid[:32, :32] - 15.5
    radius = np.hypot(y, x)
    image = torch.as_tensor(np.stack([radius, np.ones_like(radius)])[None], dtype=torch.float32)
    features = radial_features(image).view(2, NUM_RINGS).numpy()
    for ring in range(NUM_RINGS):
        inside = (radius >= ring * 16 / NUM_RINGS) & (radius < (ring + 1) * 16 / NUM_RINGS)
        assert features[0, ring] == pytest.approx(radius[inside].mean(), rel=1e-5)
    np.testing.assert_allclose(features[1], 1, rtol=1e-5)


def test_radial_features_are_invariant_under_rotation():
    image = normal(0, 3, 2, 16, 16)
    torch.testing.assert_close(radial_features(image.rot90(1, (2, 3))), radial_features(image))


def test_kernel_distance_agrees_with_the_explicit_sum():
    real, generated = normal(1, 7, 3), normal(2, 5, 3) + 1
    low, middle, high = np.percentile(real.numpy(), [25, 50, 75], axis=0)
    a, b = (np.arcsinh((f.numpy() - middle) / (high - low)) for f in (real, generated))

    def k(x, y):
        return (x @ y / 3 + 1) ** 3

    within_a = np.mean([k(a[i], a[j]) for i in range(7) for j in range(7) if i != j])
    within_b = np.mean([k(b[i], b[j]) for i in range(5) for j in range(5) if i != j])
    across = np.mean([k(x, y) for x in a for y in b])
    assert kernel_distance(real, generated) == pytest.approx(within_a + within_b - 2 * across, rel=1e-5)


def test_kernel_distance_is_zero_for_equal_distributions_and_increases():
    real = normal(1, 800, 4)
    same = [kernel_distance(real, normal(seed, 800, 4)) for seed in range(2, 12)]
    assert abs(np.mean(same)) < 3 * np.std(same) / np.sqrt(len(same)) + 0.01
    moved = [kernel_distance(real, normal(2, 800, 4) + shift) for shift in (0.3, 0.6, 1.2)]
    assert max(same) < moved[0] < moved[1] < moved[2]
    assert kernel_distance(real, 0.3 * normal(2, 800, 4)) > max(same)


def test_spread_is_the_ratio_of_widths():
    real = normal(1, 4000, 5)
    assert spread(real, 0.25 * normal(2, 4000, 5) + 3) == pytest.approx(0.25, abs=0.02)  # 1 % each quartile
    assert spread(real, torch.zeros(10, 5)) == 0


def test_texture_measures_patterns_at_the_scale_of_pixels():
    real = normal(1, 300, 2, 16, 16)
    assert texture(real, normal(2, 300, 2, 16, 16)) == pytest.approx(1, abs=0.03)
    smooth = torch.linspace(0, 50, 16).expand(300, 2, 16, 16)  # even a steep gradient of the sky
    assert texture(real, normal(2, 300, 2, 16, 16) + smooth) == pytest.approx(1, abs=0.03)
    stripes = torch.zeros(300, 2, 16, 16)
    stripes[:, 1, ::2] = 2.0  # in one band only
    assert texture(real, normal(2, 300, 2, 16, 16) + stripes) > 1.4


INFO = StoreInfo(bands=("g", "r", "i"), size=16, pixel_scale_arcsec=0.2)
SOURCE = NoiseSource(white_autocovariance(3), 16)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    config = ModelConfig(num_bands=3, size=16, latent_size=4, width=16, num_blocks=2, num_groups=2)
    normalisation = Normalisation(kind="asinh", mean=(0.0,) * 3, std=(0.5,) * 3, softening=(3.0,) * 3)
    made = Model.make(config, INFO, normalisation)
    with torch.no_grad():
        made.generator.last.weight *= 20  # an untrained generator hardly depends on its latent
    return made.eval()


def drawn_by(model, number, seed, sigma=0.5):
    """Return noisy images drawn by the model."""
    with torch.no_grad():
        image = model.render(normal(seed, number, 4))
    weight = torch.full_like(image, sigma**-2)
    return Batch(image + sigma * normal(seed + 1, *image.shape), weight)


def test_a_perfect_generator_is_healthy(model):
    found = examine(model, drawn_by(model, 400, 5), SOURCE, seed=7)
    # A cubic kernel has heavy tails, and an untrained discriminator depends on brightness; 400 objects.
    assert abs(found["kernel_distance"]) < 0.3
    assert found["spread"] == pytest.approx(1, abs=0.15)
    assert not found["collapsed"]
    assert found["texture"] == pytest.approx(1, abs=0.1)
    assert not found["textured"]
    assert found["answer_real"] == pytest.approx(found["answer_generated"], abs=0.2)


def test_a_collapsed_generator_is_reported(model):
    collapsed = Model(
        model.config, model.info, model.normalisation, *(getattr(model, n) for n in ("generator",)),
        discriminator=model.discriminator, embedder=model.embedder,
    )  # fmt: skip
    held_out = drawn_by(model, 200, 5, sigma=0.01)
    always = torch.zeros(1, 4)
    collapsed.generator = lambda latent: model.generator(always.expand(len(latent), -1))
    found = examine(collapsed, held_out, SOURCE)
    assert found["collapsed"]
    healthy = examine(model, held_out, SOURCE)
    assert found["kernel_distance"] > healthy["kernel_distance"] + 0.15


def test_chi2_is_per_band_in_units_of_the_noise(model):
    latent = normal(3, 300, 4)
    with torch.no_grad():
        truth = model.render(latent)
    sigma = torch.tensor([0.5, 1.0, 2.0])[:, None, None]
    image = truth + sigma * normal(4, *truth.shape)
    held_out = Batch(image, torch.ones_like(image) / sigma**2)
    found = examine(model, held_out, SOURCE, fit=lambda *_: latent)
    assert found["chi2_both"] == pytest.approx(1, abs=0.02)  # the median of 300 means of 768 squares
    for band in INFO.bands:
        assert found[f"chi2_both_{band}"] == pytest.approx(1, abs=0.03)
    assert found["chi2_embedder"] > found["chi2_both"]


def test_panel_rows(model):
    held_out = drawn_by(model, 12, 5)
    panel = make_panel(model, held_out, seed=1, fit=lambda *_: torch.zeros(8, 4))
    assert panel.shape == (4, 8, 3, 16, 16)
    np.testing.assert_array_equal(panel[0], held_out.image[:8].numpy())
    assert np.ptp(panel[2], axis=0).max() == pytest.approx(0, abs=1e-4)  # one latent, one picture
    assert make_panel(model, held_out, seed=1).shape[0] == 3
    np.testing.assert_array_equal(make_panel(model, held_out, seed=1)[-1], panel[-1])


def test_health_is_repeatable_and_depends_on_the_seed(model):
    held_out = drawn_by(model, 50, 5)
    first, again, other = (examine(model, held_out, SOURCE, seed=s) for s in (1, 1, 2))
    assert first == again
    assert other["kernel_distance"] != first["kernel_distance"]
