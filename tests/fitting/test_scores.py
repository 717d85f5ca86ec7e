"""Anomaly scores find odd objects and do not depend on brightness."""

import numpy as np

from deepfits.fitting.scores import anomaly_score, robust_z_at_fixed_brightness


def make_columns(number: int = 3000, seed: int = 1) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    flux = 10 ** rng.uniform(1, 4, number)
    return {
        "chi2": 1000 * (1 + flux / 1000) * np.exp(rng.normal(0, 0.1, number)),  # worse for brighter objects
        "dof": np.full(number, 1000),
        "latent": rng.normal(size=(number, 16)),
        "flux_model_g": flux,
        "flux_model_r": 2 * flux,
        "flux_model_err_r": 0.1 * flux,
        "discriminator_score": rng.normal(size=number),
    }


def test_score_does_not_depend_on_brightness_although_chi2_does():
    columns = make_columns()
    brightness = np.log(columns["flux_model_g"])
    assert np.corrcoef(np.log(columns["chi2"]), brightness)[0, 1] > 0.8
    # The correlation of 3000 independent draws scatters by 0.018.
    assert abs(np.corrcoef(anomaly_score(columns), brightness)[0, 1]) < 0.08


def test_objects_odd_in_any_way_rank_first():
    columns = make_columns()
    columns["chi2"][10] *= 3
    columns["latent"][20] *= 3
    columns["discriminator_score"][30] = -9
    order = np.argsort(-anomaly_score(columns))
    assert {10, 20, 30} == set(order[:3].tolist())


def test_objects_without_a_fit_have_no_score():
    columns = make_columns()
    columns["chi2"][5] = np.nan
    columns["latent"][6] = np.nan
    score = anomaly_score(columns)
    assert np.isnan(score[[5, 6]]).all()
    assert np.isfinite(np.delete(score, [5, 6])).all()


def test_robust_z_at_fixed_brightness_against_a_plain_loop():
    rng = np.random.default_rng(2)
    values, brightness = rng.normal(size=50), rng.normal(size=50)
    found = robust_z_at_fixed_brightness(values, brightness, num_neighbours=11)
    order = np.argsort(brightness)
    for place in range(5, 45):
        window = values[order[place - 5 : place + 6]]
        middle = np.median(window)
        scatter = 1.4826 * np.median(np.abs(window - middle))
        assert np.isclose(found[order[place]], (values[order[place]] - middle) / scatter)
    assert np.isnan(robust_z_at_fixed_brightness(values[:2], brightness[:2])).all()
