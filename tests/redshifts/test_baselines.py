"""Baselines (neighbours, templates), quantile trees, and the training domain."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import norm

from deepfits.errors import InputError
from deepfits.redshifts import storage
from deepfits.redshifts.domain import Domain
from deepfits.redshifts.features import Matrix, Source
from deepfits.redshifts.learning import Standard
from deepfits.redshifts.methods.neighbours import Neighbours, train_neighbours
from deepfits.redshifts.methods.quantiles import BoostedQuantiles, train_quantiles
from deepfits.redshifts.methods.templates import (
    REDSHIFTS,
    Photometry,
    TemplateFit,
    benitez_prior,
    chi_square,
    filters_of,
)
from deepfits.redshifts.metrics import point_metrics
from deepfits.redshifts.pdf import AS_PREDICTED, LEVELS, pdf_metrics
from deepfits.redshifts.spectra import (
    REST_WAVELENGTH,
    WAVELENGTH,
    absolute_offsets,
    absorption,
    rest_spectra,
    template_fluxes,
)


def make_problem(number, seed=0):
    """Make a value whose scatter depends on the features."""
    generator = np.random.default_rng(seed)
    features = generator.normal(size=(number, 4)).astype(np.float32)
    scatter = 0.05 + 0.1 * (features[:, 1] > 0)
    value = 1 + 0.5 * np.tanh(features[:, 0]) + scatter * generator.normal(size=number)
    return Matrix(values=features, names=tuple("abcd")), value


@pytest.mark.parametrize("shift", [0.0, -22.0, 60_000.0])
def test_the_crps_does_not_depend_on_where_values_lie(shift):
    """Of absolute magnitudes the grid ended before they did, and of dates its steps were wider than they."""
    spread = np.random.default_rng(2).normal(size=4000)
    quantiles = np.broadcast_to(norm.ppf(LEVELS) + shift, (4000, len(LEVELS)))
    found = pdf_metrics(quantiles, spread + shift, num_resamples=5)
    assert found["crps"]["value"] == pytest.approx(1 / np.sqrt(np.pi), rel=0.05)  # Gneiting & Raftery 2007


def test_neighbours_agree_with_scikit_learn():
    from sklearn.neighbors import KNeighborsRegressor

    (train, value), (test, _) = make_problem(300), make_problem(50, 1)
    ours = Neighbours(
        standard=Standard(centre=np.zeros(4), scale=np.ones(4)),
        points=train.values,
        value=value,
        num=7,
        loss="squared",
        validation_pit=AS_PREDICTED,
    )
    theirs = KNeighborsRegressor(
        7, weights=lambda d: 1 / (d + 0.1 * np.median(d, axis=1, keepdims=True) + 1e-9)
    ).fit(train.values, value)
    np.testing.assert_allclose(ours.point(test.values), theirs.predict(test.values), rtol=1e-5)


@pytest.mark.parametrize("loss", ["squared", "absolute"])
def test_neighbours_learn_and_round_trip(loss, tmp_path):
    (train, train_value), (validation, validation_value) = make_problem(800), make_problem(200, 1)
    model = train_neighbours(train.values, train_value, validation.values, validation_value, loss=loss)
    test, value = make_problem(300, 2)
    estimates = model.predict(None, test)
    assert np.corrcoef(estimates.point, value)[0, 1] > 0.9
    storage.save(model, tmp_path)
    back = storage.load(Neighbours, tmp_path).predict(None, test)
    np.testing.assert_array_equal(back.point, estimates.point)
    np.testing.assert_array_equal(back.quantiles, estimates.quantiles)
    found = pdf_metrics(estimates.quantiles, value)
    # the standard error of a coverage of 68% is 2.7% for 300 objects, and 3.3% for 200 validation objects
    assert found["coverage_68"]["value"] == pytest.approx(0.68, abs=0.13)


def test_missing_colours_have_no_influence():
    (train, value), (validation, validation_value) = make_problem(300), make_problem(100, 1)
    model = train_neighbours(train.values, value, validation.values, validation_value)
    spoiled, typical = (make_problem(200, 2)[0].values for _ in range(2))
    spoiled[:, 3] = np.nan
    typical[:, 3] = np.median(train.values[:, 3])
    np.testing.assert_allclose(model.point(spoiled), model.point(typical), rtol=1e-6)
    # the last feature is uninformative, the first one is the most informative
    assert np.corrcoef(model.point(spoiled), make_problem(200, 2)[1])[0, 1] > 0.85
    spoiled[:, 0] = np.nan
    assert np.corrcoef(model.point(spoiled), make_problem(200, 2)[1])[0, 1] < 0.4


def test_quantile_trees_are_calibrated_and_follow_the_scatter(tmp_path):
    model, out_of_fold = train_quantiles(*make_problem(1500))
    # recalibrated on the same objects
    assert pdf_metrics(out_of_fold, make_problem(1500)[1])["coverage_68"]["value"] == pytest.approx(
        0.68, abs=0.01
    )
    test, value = make_problem(600, 2)
    quantiles = model.predict(test)
    found = pdf_metrics(quantiles, value)
    # the standard error of 68% is 1.9% for 600 objects, and 1.2% for the 1500 training objects
    assert found["coverage_68"]["value"] == pytest.approx(0.68, abs=0.065)
    width = quantiles[:, 10] - quantiles[:, 4]
    is_wide = test.values[:, 1] > 0
    # the true widths are 0.30 and 0.10
    assert np.median(width[is_wide]) > 1.8 * np.median(width[~is_wide])
    storage.save(model, tmp_path)
    np.testing.assert_array_equal(storage.load(BoostedQuantiles, tmp_path).predict(test), quantiles)


def test_uncertain_features_widen_distributions():
    model, _ = train_quantiles(*make_problem(800))
    test, _ = make_problem(100, 2)
    errors = np.zeros_like(test.values)
    exact = model.predict(replace(test, errors=errors))
    np.testing.assert_allclose(exact, model.predict(test), atol=2e-3)
    errors[:50, 0] = 1.0
    wide = model.predict(replace(test, errors=errors))
    gain = (wide[:, 10] - wide[:, 4]) / (exact[:, 10] - exact[:, 4])
    assert np.median(gain[:50]) > 1.5
    np.testing.assert_allclose(gain[50:], 1.0, atol=1e-6)


def test_domain_flags_distant_objects(tmp_path):
    generator = np.random.default_rng(0)
    domain = Domain.learn(generator.normal(size=(1000, 12)))
    inside, outside = generator.normal(size=(400, 12)), generator.normal(size=(100, 12)) + 6
    # 1% by construction, slightly more for objects that were not labelled
    assert (domain.distance(inside) > domain.limit).mean() < 0.05
    assert (domain.distance(outside) > domain.limit).all()
    assert np.median(domain.distance(inside)) == pytest.approx(1.0, abs=0.15)
    storage.save(domain, tmp_path)
    back = storage.load(Domain, tmp_path)
    np.testing.assert_allclose(back.distance(inside), domain.distance(inside), rtol=1e-5)


def test_domain_does_not_depend_on_the_scale_of_features():
    generator = np.random.default_rng(1)
    labelled, others = generator.normal(size=(300, 5)), generator.normal(size=(50, 5)) * 2
    scale = np.array([1, 10, 100, 0.1, 5.0])
    expected = Domain.learn(labelled).distance(others)
    np.testing.assert_allclose(Domain.learn(labelled * scale).distance(others * scale), expected, rtol=1e-6)


BANDS = tuple("ugriz")


def make_photometry(number, seed=0, offsets=(1.0,) * 5, signal_to_noise=40.0):
    """Return noisy photometry of galaxies drawn from the templates, and their redshifts."""
    generator = np.random.default_rng(seed)
    model, places = template_fluxes(filters_of(BANDS, None), REDSHIFTS)
    grid = np.array(REDSHIFTS)
    magnitude = generator.uniform(20, 24, number)
    template, place = np.empty(number, int), np.empty(number, int)
    for row, prior in enumerate(benitez_prior(magnitude, places, grid) * np.gradient(grid)):
        cell = generator.choice(prior.size, p=prior.ravel() / prior.sum())
        template[row], place[row] = np.unravel_index(cell, prior.shape)
    flux = model[template, place] * 10 ** (0.4 * (31.4 - magnitude))[:, None]
    error = flux.mean(axis=1, keepdims=True) / signal_to_noise * np.ones(5)
    flux = (flux + error * generator.normal(size=flux.shape)) / np.array(offsets)
    return Photometry(flux=flux, flux_err=error, magnitude=magnitude), grid[place]


def test_templates_recover_redshifts_of_simulated_photometry():
    photometry, value = make_photometry(300)
    fit = TemplateFit(
        bands=BANDS, filters=filters_of(BANDS, None), zero_points=np.ones(5), validation_pit=AS_PREDICTED
    )
    found = point_metrics(fit.estimates(photometry).point, value)
    assert found["sigma_mad"] < 0.04
    assert found["eta_15"] < 0.12
    quality = pdf_metrics(fit.raw_quantiles(photometry), value)
    # the error floor makes the distributions slightly wider than the noise does
    assert 0.6 < quality["coverage_68"]["value"] < 0.85


def test_lower_signal_to_noise_makes_redshifts_worse():
    fit = TemplateFit(
        bands=BANDS, filters=filters_of(BANDS, None), zero_points=np.ones(5), validation_pit=AS_PREDICTED
    )
    spread = []
    for signal_to_noise in (40.0, 8.0):
        photometry, value = make_photometry(300, signal_to_noise=signal_to_noise)
        spread.append(point_metrics(fit.estimates(photometry).point, value)["sigma_mad"])
    assert spread[1] > 1.5 * spread[0]


def test_zero_points_correct_a_wrong_calibration(tmp_path):
    """Templates and dust absorb part of smooth offsets, so compare the redshifts instead of the offsets."""
    offsets = (1.15, 0.95, 1.0, 1.03, 0.9)
    test, value = make_photometry(300, 1, offsets=offsets)
    fit = TemplateFit.learn(*make_photometry(300, offsets=offsets), BANDS)
    plain = TemplateFit(bands=BANDS, filters=fit.filters, zero_points=np.ones(5), validation_pit=AS_PREDICTED)
    with_offsets, without = (
        point_metrics(model.estimates(test).point, value)["sigma_mad"] for model in (fit, plain)
    )
    assert with_offsets < 0.6 * without
    storage.save(fit, tmp_path)
    back = storage.load(TemplateFit, tmp_path)
    np.testing.assert_array_equal(back.estimates(test).quantiles, fit.estimates(test).quantiles)


def test_absolute_magnitudes_depend_on_distance_and_spectrum():
    """Compare with the flux density at one wavelength instead of the mean over the band."""
    from astropy.cosmology import FlatLambdaCDM

    redshifts = (0.01, 0.3, 1.0)
    found = absolute_offsets("hsc2017-i", redshifts)
    spectra = rest_spectra()[0]
    for number, z in enumerate(redshifts):
        modulus = FlatLambdaCDM(H0=70.0, Om0=0.3).distmod(z).value
        there, seen = (
            np.array([np.interp(x, WAVELENGTH, row) * x**2 for row in spectra])
            for x in (REST_WAVELENGTH, REST_WAVELENGTH / (1 + z))
        )
        by_hand = -modulus + 2.5 * np.log10(1 + z) - 2.5 * np.log10(there / seen)
        # the band is 1500 Å wide, over which the reddest spectrum changes by a factor of two at redshift 1
        np.testing.assert_allclose(found[:, number], by_hand, atol=0.06 + 0.45 * z)


def test_a_limit_in_absolute_magnitude_excludes_distant_bright_galaxies():
    photometry, _ = make_photometry(60)
    bright = replace(photometry, magnitude=np.full(60, 19.0))
    names = filters_of(BANDS, None)
    plain = TemplateFit(bands=BANDS, filters=names, zero_points=np.ones(5), validation_pit=AS_PREDICTED)
    limited = replace(plain, brightest=-24.0)
    (within, grid), (beyond, _) = limited.posterior(bright), plain.posterior(bright)
    is_distant = grid > 3.0  # where no template of i = 19 is fainter than -24
    assert (within[:, is_distant] == 0).all()
    assert (beyond[:, is_distant] > 0).any()
    np.testing.assert_allclose(limited.posterior(photometry)[0].max(axis=1), 1.0)
    impossible = replace(photometry, magnitude=np.full(60, -10.0))  # beyond the limit at every redshift
    np.testing.assert_array_equal(limited.posterior(impossible)[0], plain.posterior(impossible)[0])


def test_the_error_floor_increases_with_scatter_around_the_templates(tmp_path):
    """A scatter of 12% around the templates in each band gives a larger floor than no scatter."""
    photometry, value = make_photometry(300, signal_to_noise=100.0)
    scatter = np.exp(0.12 * np.random.default_rng(4).normal(size=photometry.flux.shape))
    scattered = replace(photometry, flux=photometry.flux * scatter)
    exact, wide = (TemplateFit.learn(data, value, BANDS) for data in (photometry, scattered))
    assert exact.error_floor < wide.error_floor
    storage.save(wide, tmp_path)
    assert storage.load(TemplateFit, tmp_path).error_floor == wide.error_floor


def test_correct_zero_points_do_not_change():
    photometry, value = make_photometry(300)
    np.testing.assert_allclose(TemplateFit.learn(photometry, value, BANDS).zero_points, 1.0, atol=0.015)


def test_chi_square_is_minimal_over_amplitudes():
    generator = np.random.default_rng(0)
    flux, weight = generator.normal(5, 1, size=(3, 4)), generator.uniform(0.1, 2, size=(3, 4))
    model = generator.uniform(0.1, 2, size=(2, 5, 4))
    found = chi_square(flux, weight, model)
    amplitude = np.linspace(0, 60, 60001)
    for n, t, z in ((0, 0, 0), (2, 1, 4)):
        by_hand = (weight[n] * (flux[n] - amplitude[:, None] * model[t, z]) ** 2).sum(axis=1)
        assert found[n, t, z] == pytest.approx(by_hand.min(), rel=1e-6)


def test_bands_without_data_have_no_influence():
    photometry, _ = make_photometry(40)
    fit = TemplateFit(
        bands=BANDS, filters=filters_of(BANDS, None), zero_points=np.ones(5), validation_pit=AS_PREDICTED
    )
    flux, other = photometry.flux.copy(), photometry.flux.copy()
    flux[:, 0], other[:, 0] = np.nan, np.nan
    error = photometry.flux_err.copy()
    error[:, 0] = np.nan
    first = fit.estimates(Photometry(flux=flux, flux_err=error, magnitude=photometry.magnitude)).point
    error[:, 0] = 0.0
    second = fit.estimates(Photometry(flux=other, flux_err=error, magnitude=photometry.magnitude)).point
    np.testing.assert_array_equal(first, second)
    assert np.isfinite(first).all()


def test_the_prior_takes_the_magnitude_of_a_band_with_data():
    flux = np.full((3, 2, 5), 363.1)  # AB 25, but for
    flux[:, :, 2] = 3631.0  # r: AB 22.5
    flux[1:, :, 3] = np.nan  # i is missing, and of the last object all bands but g are
    flux[2, :, 2:] = np.nan
    columns = {"object_id": np.arange(3)}
    source = Source(columns=columns, bands=BANDS, flux=flux, flux_err=np.ones_like(flux))
    np.testing.assert_allclose(Photometry.of(source).magnitude, [25.0, 22.5, 25.0], atol=0.01)


def test_prior_is_normalised_and_shifts_to_higher_redshift_with_magnitude():
    grid = np.array(REDSHIFTS)
    places = np.arange(16) / 3
    found = benitez_prior(np.array([20.0, 24.0]), places, grid)
    redshift_prior = (found * np.gradient(grid)).sum(axis=1)
    np.testing.assert_allclose(redshift_prior.sum(axis=1), 1.0, rtol=1e-6)
    mean = (redshift_prior * grid).sum(axis=1)
    assert mean[1] > mean[0] + 0.2


def test_hydrogen_absorbs_only_blueward_of_lyman_alpha():
    wavelength = np.array([3000.0, 4500.0, 4900.0])
    # at redshift 3, Lyman alpha is at 4863 Å and the Lyman limit at 3647 Å
    found = absorption(wavelength, 3.0)
    assert found[0] < 0.2
    assert 0.4 < found[1] < 0.85
    assert found[2] == 1.0
    assert (np.diff([absorption(np.array([4000.0]), z)[0] for z in (2, 2.4, 2.8, 3.2)]) <= 0).all()


def test_unknown_filters_are_refused():
    assert filters_of(["ustar", "g"]) == ("cfht_megacam-ustar", "hsc2017-g")
    with pytest.raises(InputError, match="band 'w'; give filters, one for each of g, w"):
        filters_of(["g", "w"], None)
    with pytest.raises(InputError, match="1 filters for the 2 bands"):
        filters_of(["g", "r"], ["sdss2010-g"])
    with pytest.raises(InputError, match="nosuch"):
        template_fluxes(("nosuch-g", "sdss2010-r"), REDSHIFTS[:3])


@pytest.mark.slow
def test_lephare_recovers_redshifts_of_simulated_photometry():
    pytest.importorskip("lephare")
    from benchmarks.lephare_fit import LephareFit

    photometry, value = make_photometry(120)
    fit = LephareFit.learn(photometry, value, BANDS)
    assert point_metrics(fit.estimates(photometry).point, value)["sigma_mad"] < 0.05
    without = Photometry(
        flux=np.where(np.arange(5) == 2, np.nan, photometry.flux),
        flux_err=photometry.flux_err,
        magnitude=photometry.magnitude,
    )
    assert np.isfinite(fit.estimates(without.take(np.arange(5))).point).all()


def test_errors_without_lephare_say_how_to_install_it(monkeypatch):
    from benchmarks import lephare_fit

    monkeypatch.setattr(lephare_fit.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"pip install"):
        lephare_fit.LephareFit.learn(*make_photometry(30), BANDS)
