"""The model error: measured without truth, stored with the model, and applied to flux errors."""

import dataclasses

import numpy as np
import pytest
import torch

from deepfits.errors import InputError
from deepfits.fitting.error_measurement import _flux_fractions, _unseen, median_of
from deepfits.fitting.fitter import Fitter
from deepfits.fitting.measuring import measure, measured_alone
from deepfits.fitting.model_error import FLUXES, ModelError
from deepfits.fitting.own_light import UNSURE, OwnFluxes
from deepfits.fitting.settings import FitSettings
from deepfits.gaussian_psf import psf_or_moffat
from deepfits.models.bundle import Model
from deepfits.photometry import FWHM_PER_SIGMA, robust_scatter


def of(flux, noise, area, unsure, rows=None) -> OwnFluxes:
    parts = {"flux": flux, "noise": noise, "area": area, "unsure": unsure, "beyond": np.zeros(len(flux))}
    return OwnFluxes(**{name: values[:rows] for name, values in parts.items()})


def test_unseen_neighbours_give_unit_pulls_with_and_without_neighbours():
    """With noise, 4% of the flux, residuals of neighbours and g of 0.6 and 1.2, for 4,000 draws."""
    rng = np.random.default_rng(1)
    truth = np.exp(rng.uniform(4, 9, (4000, 2, 1)))
    noise = 8 + 0.002 * truth
    removed = np.where(rng.random((4000, 1)) < 0.5, 0.3 * truth[..., 0], 0.0)
    area = rng.uniform(3, 30, size=(4000, 1))
    variance = noise**2 + (np.array([[0.6], [1.2]]) ** 2) * area[:, None] * truth + (0.04 * truth) ** 2
    flux = truth + np.sqrt(variance + (UNSURE * removed[..., None]) ** 2) * rng.normal(size=truth.shape)

    unsure = np.broadcast_to(UNSURE * removed[:, :, None], flux.shape)

    def learn(flux, rows=4000):
        return _unseen(of(flux, noise, area, unsure, rows), truth[:rows], FLUXES[0], (0.04, 0.04))

    found = learn(flux)
    np.testing.assert_allclose(found, [0.6, 1.2], rtol=0.08)
    known = dataclasses.replace(
        ModelError.unknown(2), flux_unseen={FLUXES[0]: found}, flux_fraction={FLUXES[0]: (0.04, 0.04)}
    )
    error = known.flux_error(FLUXES[0], of(flux, noise, area, unsure))
    pulls = (flux - truth)[..., 0] / error
    for band in (0, 1):
        away = removed[:, band]
        pull = pulls[:, band]
        for selected in (away == 0, away > 0):
            assert robust_scatter(pull[selected]) == pytest.approx(1, abs=0.08)
    assert max(learn(truth + noise * rng.normal(size=truth.shape))) < 0.1
    assert learn(flux, rows=10) == (0, 0)  # too few


def test_flux_beyond_a_circle_is_not_an_error_of_the_generator_nor_of_neighbours():
    """Galaxies as drawn have no error, and injected ones the totals that the same rules give their images.

    What lies beyond the circles made f 1 to 2% and g up to three times too large.
    """
    model = Model.load("builtin:clauds-hsc")
    fitter = Fitter(model, FitSettings(mode="embedder"), model.info, threads=1)
    latent = np.random.default_rng(4).normal(size=(32, fitter.num_latents)).astype(np.float32)
    image = 100 * model.render(latent).detach().numpy()
    fitted = fitter.fit(np.arange(32), image, np.ones_like(image))
    drawn, psf = fitter.reconstruct(fitted), psf_or_moffat(None, model.info.fwhm_arcsec, 32)
    fitted.image[:] = torch.from_numpy(drawn)
    measured = measure(fitter, fitted, galaxy_psf=psf)
    for fractions in _flux_fractions(fitter, fitted, measured, drawn, np.full(32, True)).values():
        assert max(fractions) < 1e-3
    scale = model.info.pixel_scale_arcsec
    alone = OwnFluxes.of(measured_alone(fitter, drawn, np.ones_like(drawn), psf), psf, scale)
    np.testing.assert_allclose(alone.flux, OwnFluxes.of(measured, psf, scale).flux, rtol=1e-3)
    assert (alone.flux[:, :, 1] > 1.1 * alone.flux[:, :, 0]).mean() > 0.5


@pytest.fixture
def known():
    return ModelError(
        flux_fraction={kind: (0.03, 0.04) for kind in FLUXES},
        flux_unseen={kind: (0.5, 1.0) for kind in FLUXES},
        light_fraction=(0.1, 0.2),
        usual={part: (1.0, 0.5) for part in ("structure", "extended", "colour", "latent")},
        latent_trend=(0.5, 0.1, 2.0, 8.0),
        latent_nuisance=((1.0, 0.2), (0.2, 2.0)),
    )


def test_flux_errors_contain_every_term(known):
    flux, noise, unsure = (
        np.array(values)[:, None, None] * np.ones((2, 2, 2))
        for values in ([0.0, 1000.0], [5.0, 20.0], [0.0, 240.0])
    )
    area = np.array([[4.0, 9.0], [4.0, 25.0]])
    error = known.flux_error("flux_model", of(flux, noise, area, unsure))
    first, second = (
        np.sqrt(400 + g**2 * 25_000 + f**2 * 1e6 + 240**2) for f, g in ((0.03, 0.5), (0.04, 1.0))
    )
    np.testing.assert_allclose(error, [[5.0, 5.0], [first, second]])
    unknown = ModelError.unknown(2).flux_error("flux_model", of(flux, noise, area, 0 * unsure))
    np.testing.assert_allclose(unknown, noise[:, :, 1])


def test_totals_include_the_flux_beyond_the_circle_and_its_uncertainty():
    """Fluxes of cutout, aperture and circle; half of the PSF's flux lies outside the second circle."""
    measured = {
        "flux": np.array([[[9.0, 4.0, 8.0]], [[9.0, 4.0, 8.0]]]),
        "flux_std": np.full((2, 1, 3), 0.5),
        "total_radius": np.array([1e6, 1.0]),
        "removed": np.array([[3.0], [0.0]]),
        "background": np.array([[0.0], [2.0]]),
        "beyond": np.array([2.0, 0.5]),
        "outside": np.array([1.5, 0.0]),
    }
    psf = np.tile([[[1.0, 2 / FWHM_PER_SIGMA]]], (2, 1, 1, 1))  # half-light radius 1
    own = OwnFluxes.of(measured, psf, 1.0)
    np.testing.assert_allclose(own.flux[:, 0], [[4, 8 * 3], [4, 6 * 2.5]], rtol=1e-4)
    np.testing.assert_allclose(own.noise[:, 0], [[0.5, 0.5 * 3], [0.5, 0.5 * 2.5]], rtol=1e-4)
    np.testing.assert_allclose(own.beyond, [1.5 / 3, 0])
    np.testing.assert_allclose(own.area, np.pi * np.array([[1, 1e12], [1, 1]]))
    uncertain = 0.25 * np.array([16, np.hypot(0.5 * 6, 2)])
    np.testing.assert_allclose(own.unsure[:, 0], [[2.4, np.hypot(2.4, 4)], [0, uncertain[1]]])


def test_latents_are_compared_with_those_of_equally_bright_galaxies(known):
    found = known.unusual_latent(np.array([1.0, 1.0, 2.0]), np.exp([3.0, 5.0, 20.0]))
    np.testing.assert_allclose(found, [0.2, 0.0, 0.7], atol=1e-6)  # clipped at the brightest training objects


def test_json_round_trip_and_errors_for_invalid_content(known):
    assert ModelError.from_json(known.to_json(), 2, "model x") == known
    with pytest.raises(InputError, match=r"model x: model_error .*3 finite numbers"):
        ModelError.from_json(known.to_json(), 3, "model x")
    for broken in ({"usual": {}}, {"light_fraction": [1.0, float("nan")]}, {"latent_trend": None}):
        with pytest.raises(InputError, match="train again"):
            ModelError.from_json({**known.to_json(), **broken}, 2, "model x")


def test_models_of_earlier_versions_get_typical_errors(known):
    content = known.to_json()
    del content["flux_unseen"]
    assert ModelError.from_json(content, 2, "model x").flux_unseen == dict.fromkeys(FLUXES, (0.7, 0.7))


def test_median_over_surveys(known):
    three = [known, known, dataclasses.replace(known, light_fraction=(9.0, 9.0))]
    found = median_of(three)
    assert found.light_fraction == known.light_fraction
    assert found.usual == known.usual
    np.testing.assert_allclose(found.latent_nuisance, known.latent_nuisance)
