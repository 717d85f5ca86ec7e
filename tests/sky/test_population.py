import numpy as np
import pytest
from scipy.stats import gamma

from deepfits.errors import InputError
from deepfits.sky.points import draw_quasars, draw_stars, quasar_counts, star_counts
from deepfits.sky.population import (
    EARLY,
    IRREGULAR,
    SPIRAL,
    PopulationLaws,
    absolute_magnitudes,
    brightest_absolute,
    cumulative_counts,
    draw_galaxies,
    draw_radii,
    draw_ratios,
    draw_redshifts,
    draw_types,
)
from deepfits.sky.surveys import find_survey

FILTERS = tuple(band.filter for band in find_survey("clauds-hsc").bands)


@pytest.fixture(scope="module")
def galaxies():
    return draw_galaxies(60_000, 26.0, FILTERS, np.random.default_rng(1))


def test_counts_follow_the_law():
    assert cumulative_counts(25.0) == pytest.approx(46.0, rel=0.02)
    # 46 × 10^0.31 brighter than 26, and the same slope down to the limit
    assert cumulative_counts(26.0) / cumulative_counts(25.0) == pytest.approx(10**0.31, rel=0.02)
    step = cumulative_counts(20.5 + 1e-4) - cumulative_counts(20.5)
    before = cumulative_counts(20.5) - cumulative_counts(20.5 - 1e-4)
    assert step == pytest.approx(before, rel=1e-3)  # no jump in the differential law


def test_magnitudes_drawn_follow_the_counts(galaxies):
    mag = galaxies["mag_count"]
    for limit in (22.0, 24.0, 25.0):
        expected = len(mag) * cumulative_counts(limit) / cumulative_counts(26.0)
        # Five standard deviations of a binomial draw.
        assert abs((mag < limit).sum() - expected) < 5 * np.sqrt(expected)


def test_the_count_band_has_the_drawn_magnitude(galaxies):
    mag = 31.4 - 2.5 * np.log10(galaxies["flux"][:, 3])
    scatter = mag - galaxies["mag_count"]
    # i is the band of the counts: only the calibration moves it.
    assert scatter.std() == pytest.approx(PopulationLaws().calibration_scatter, rel=0.03)
    assert abs(scatter.mean()) < 1e-3


def test_types_follow_benitez():
    rng = np.random.default_rng(2)
    for mag, early, spiral in ((20.0, 0.35, 0.50), (24.0, 0.35 * np.exp(-1.8), 0.50 * np.exp(-0.588))):
        kinds = draw_types(np.full(40_000, mag), rng)
        assert (kinds == EARLY).mean() == pytest.approx(early, abs=0.012)
        assert (kinds == SPIRAL).mean() == pytest.approx(spiral, abs=0.012)


@pytest.mark.parametrize(
    ("kind", "alpha", "scale"),
    [
        (EARLY, 2.465, 0.431 + 3 * 0.0913),
        (SPIRAL, 1.806, 0.390 + 3 * 0.0636),
        (IRREGULAR, 0.906, 0.0626 + 3 * 0.123),
    ],
)
def test_redshifts_follow_the_density_they_are_drawn_from(kind, alpha, scale):
    number = 50_000
    drawn = draw_redshifts(np.full(number, 23.0), np.full(number, kind), np.random.default_rng(3))
    z = np.linspace(0, 12, 20_001)
    density = z**alpha * np.exp(-((z / scale) ** alpha))
    total = np.concatenate([[0], np.cumsum(0.5 * (density[1:] + density[:-1]))])
    distance = np.abs(np.interp(np.sort(drawn), z, total / total[-1]) - np.arange(number) / number).max()
    assert distance < 1.95 / np.sqrt(number)  # Kolmogorov and Smirnov, one in a thousand


def test_the_sky_reaches_beyond_redshift_four_without_monsters(galaxies):
    assert (galaxies["z_spec"] > 4).sum() > 50
    assert (galaxies["mag_absolute_r"] < brightest_absolute(galaxies["z_spec"])).mean() < 1e-3


@pytest.mark.parametrize("limit", [23.0, 24.0, 25.0])
def test_redshifts_to_a_limit_are_those_of_the_lsst_science_book(galaxies, limit):
    """Its eqs. 3.8 and 3.9: p(z) ∝ z² exp(−z/z₀) with z₀ = 0.0417 i − 0.744 (2009)."""
    z = galaxies["z_spec"][galaxies["mag_count"] < limit]
    law = gamma(3, scale=0.0417 * limit - 0.744)
    assert np.median(z) == pytest.approx(law.median(), rel=0.06)
    assert (z > 1.4).mean() == pytest.approx(law.sf(1.4), rel=0.6, abs=0.03)


def test_distant_galaxies_are_as_rare_as_their_luminosity_function_says(galaxies):
    """Reddy & Steidel (2009): M* = −20.70, φ* = 0.00275 per Mpc³, α = −1.73 at 1.9 < z < 2.7."""
    mag, z = galaxies["mag_count"], galaxies["z_spec"]
    seen = (mag > 22) & (mag < 23) & (z > 1.9) & (z < 2.7)
    share = seen.sum() / ((mag > 22) & (mag < 23)).sum()
    volume = 2600.0  # Mpc³ per square arcminute between these redshifts (flat, H₀ = 70, Ω_m = 0.3)
    luminosity = 10 ** (-0.4 * (np.linspace(22, 23, 101) - 46.2 + 2.5 * np.log10(3.2) + 20.70))
    density = 0.4 * np.log(10) * 0.00275 * np.mean(luminosity**-0.73 * np.exp(-luminosity))
    per_arcmin2 = np.diff(cumulative_counts(np.array([22.0, 23.0])))[0]
    assert share < 3 * density * volume / per_arcmin2
    assert share > 0


def test_absolute_magnitudes_agree_with_the_definition_nearby():
    # At small redshift the K-correction from i to r is the template's own colour, and DM = 5 lg(d/10 pc).
    z = np.array([0.003])
    distance = 299792.458 * 0.003 / 70 * (1 + 0.003 / 2 * (1 - (0.15 - 0.7))) * 1e6  # pc, to second order
    modulus = 5 * np.log10(distance / 10)
    mag = absolute_magnitudes(np.array([15.0]), z, np.array([1.0]), np.array([0.0]))
    r_i = 0.39  # Sbc at rest
    assert mag[0] == pytest.approx(15.0 - modulus + r_i, abs=0.05)


@pytest.mark.parametrize(("mag", "expected"), [(20, 0.64), (22, 0.38), (24, 0.25), (25, 0.20)])
def test_median_sizes_are_those_measured(galaxies, mag, expected):
    near = np.abs(galaxies["mag_count"] - mag) < 0.25
    assert np.median(galaxies["half_light_radius_arcsec"][near]) == pytest.approx(expected, rel=0.15)


def test_radii_follow_shen_for_a_milky_way():
    # M = -20.52 is their M0: lg R = 0.084 · 20.52 + 0.32 lg 2 − 1.31 kpc
    number = 4000
    radii = draw_radii(
        np.full(number, SPIRAL), np.full(number, -20.52), np.full(number, 0.05), np.random.default_rng(4)
    )
    kpc = radii * 0.977  # kpc per arcsecond at z = 0.05, flat, H0 = 70, Ω_m = 0.3
    expected = 10 ** (0.4 * 0.21 * 20.52 + 0.32 * np.log10(2) - 1.31) * 1.05**-0.75
    assert np.median(kpc) == pytest.approx(expected, rel=0.03)


def test_ellipticities_have_their_dispersion():
    ratio = draw_ratios(np.full(50_000, 0.2), np.random.default_rng(5))
    ellipticity = (1 - ratio**2) / (1 + ratio**2)
    assert np.sqrt((ellipticity**2).mean()) == pytest.approx(0.2, rel=0.02)
    assert ratio.min() > 0
    assert ratio.max() <= 1


def test_bulges_are_redder_than_discs_and_never_the_whole(galaxies):
    spiral = (galaxies["type"] == SPIRAL) & (galaxies["z_spec"] < 1)
    bulge = galaxies["bulge_flux"][spiral]
    disc = galaxies["flux"][spiral] - bulge
    assert (disc > 0).all()
    colour = -2.5 * np.log10(np.stack([bulge[:, 1] / bulge[:, 3], disc[:, 1] / disc[:, 3]]))
    assert np.median(colour[0] - colour[1]) > 0.3
    assert (galaxies["bulge_flux"][galaxies["type"] == IRREGULAR] == 0).all()


def test_the_same_seed_gives_the_same_galaxies():
    one, two, other = (draw_galaxies(100, 25.0, FILTERS, np.random.default_rng(s)) for s in (7, 7, 8))
    for name, column in one.items():
        np.testing.assert_array_equal(column, two[name])
    assert (one["flux"] != other["flux"]).all()


def test_star_share_is_that_of_a_field_at_high_latitude():
    def per_mag(counts, mag):
        return float(counts(mag + 0.5) - counts(mag - 0.5))

    share = per_mag(star_counts, 20.5) / (per_mag(cumulative_counts, 20.5) + per_mag(star_counts, 20.5))
    assert 0.2 < share < 0.4
    share = per_mag(star_counts, 25) / (per_mag(cumulative_counts, 25) + per_mag(star_counts, 25))
    assert 0.01 < share < 0.06


def test_stars_lie_on_the_locus():
    stars = draw_stars(4000, 24.0, tuple(f"sdss2010-{b}" for b in "ugriz"), np.random.default_rng(9))
    mag = -2.5 * np.log10(stars["flux"])
    r_i, g_r = mag[:, 2] - mag[:, 3], mag[:, 1] - mag[:, 2]
    locus = 1.39 * (1 - np.exp(-4.9 * r_i**3 - 2.45 * r_i**2 - 1.68 * r_i - 0.05))
    # 0.03 mag in each band, and the filters' centres are not exactly the locus' own.
    assert 1.4826 * np.median(np.abs(g_r - locus)) < 0.12
    assert r_i.min() < 0.15
    assert r_i.max() > 1.2


def test_quasars_are_rare_and_reach_far():
    assert 0.002 < quasar_counts(22.5) / float(cumulative_counts(22.5)) < 0.02
    quasars = draw_quasars(3000, 25.0, FILTERS, np.random.default_rng(10))
    assert (quasars["z_spec"] > 3).mean() > 0.03
    assert np.isfinite(quasars["flux"]).all()
    assert (quasars["flux"] > 0).all()


def test_laws_of_nothing_change_nothing_and_others_do_what_they_say(tmp_path):
    """Extra laws draw no random numbers where they are off; each moves what it names, the right way."""

    def drawn(**laws):
        return draw_galaxies(6000, 24.0, FILTERS, np.random.default_rng(4), PopulationLaws(**laws))

    plain = drawn()
    assert np.median(drawn(redshift_scale=1.3)["z_spec"]) > 1.2 * np.median(plain["z_spec"])
    faint = drawn(ultraviolet_limit=-20.2)["z_spec"]
    assert (faint > 1.4).mean() < 0.7 * (plain["z_spec"] > 1.4).mean()
    assert (drawn(early_share=0.3)["type"] == 0).mean() < 0.5 * (plain["type"] == 0).mean()

    def blue(table):
        return float(np.median(np.log(table["flux"][:, 1] / table["flux"][:, 3])))

    assert blue(drawn(template_offset=0.5)) > blue(plain) + 0.05
    shifted = drawn(zero_point_scatter=0.1)
    ratio = shifted["flux"] / plain["flux"]
    np.testing.assert_allclose(ratio, ratio[:1] * np.ones((6000, 1)), rtol=1e-6)
    assert 0.01 < np.abs(np.log(ratio[0])).max() < 0.4
    lines = drawn(line_strength=1.0)["flux"] / plain["flux"]
    early = plain["type"] == 0
    np.testing.assert_allclose(lines[early], 1, rtol=1e-9)
    # Hα of an irregular galaxy at z ≈ 0.15 lies in i: beside it all other bands are fainter at the same i
    near = (plain["type"] == 2) & (np.abs(plain["z_spec"] - 0.16) < 0.04)
    assert np.median(lines[near, 4]) < 0.99
    path = tmp_path / "mine.toml"
    path.write_text("redshift_scale = 1.3\n")
    assert PopulationLaws.read(path) == PopulationLaws(redshift_scale=1.3)
    path.write_text("templates = ['S0_A_0', 'Sc_A_2', 'Sdm_A_0', 'SB5_A_0', 'SB8_A_0', 'SB9_A_0']\n")
    others = PopulationLaws.read(path)
    assert others.templates[1] == "Sc_A_2"
    assert np.abs(np.log(drawn(templates=others.templates)["flux"] / plain["flux"])).max() > 0.05
    path.write_text("smooth_scatter = -1.0\n")
    with pytest.raises(InputError, match="smooth_scatter"):
        PopulationLaws.read(path)
    one, two = (PopulationLaws.randomised(np.random.default_rng(n)) for n in (1, 2))
    assert one != two
    pairs = [
        [PopulationLaws.randomised(np.random.default_rng(n), narrow=narrow) for narrow in (False, True)]
        for n in range(30)
    ]
    for name in ("smooth_scatter", "calibration_scatter", "common_scatter", "zero_point_scatter"):
        wide, narrow = np.mean([[getattr(laws, name) for laws in pair] for pair in pairs], axis=0)
        assert narrow < 0.8 * wide
    assert all(wide.templates == narrow.templates for wide, narrow in pairs)
    of_cww = PopulationLaws.randomised(np.random.default_rng(1), templates="cww")
    assert of_cww.templates == PopulationLaws().templates
