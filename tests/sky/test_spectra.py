import numpy as np
import pytest

from deepfits.errors import InputError
from deepfits.passbands import load_filter
from deepfits.sky.hydrogen import LINES, transmission
from deepfits.sky.spectra import (
    CWW,
    REDDENINGS,
    REDSHIFTS,
    band_flux,
    calzetti,
    colour_grid,
    draw_sequence,
    galaxy_templates,
    quasar_grid,
    template_places,
)

FILTERS = ("cfht_megacam-u", "hsc2017-g", "hsc2017-r2", "hsc2017-i2", "hsc2017-z")


def test_hydrogen_line_centres_are_those_of_the_lyman_series():
    # NIST vacuum wavelengths; the Rydberg formula with one constant is good to 0.01 Å here.
    np.testing.assert_allclose(LINES[:4], [1215.67, 1025.72, 972.54, 949.74], atol=0.01)


def test_hydrogen_leaves_light_redward_of_lyman_alpha_alone():
    wavelength = np.linspace(1216.0, 3000.0, 50) * 4.0
    np.testing.assert_array_equal(transmission(wavelength, 3.0), 1.0)


@pytest.mark.parametrize(
    ("redshift", "observed", "expected"),
    [
        # Lyman α forest alone, by hand from equation 21: 2.354e-3 (λ/λα)^3.7 + 5.39e-5 (λ/λα)^3
        (3.0, 4600.0, np.exp(-(2.354e-3 * (4600 / 1215.67) ** 3.7 + 5.390e-5 * (4600 / 1215.67) ** 3))),
        (4.5, 6400.0, np.exp(-(2.354e-3 * (6400 / 1215.67) ** 3.7 + 5.390e-5 * (6400 / 1215.67) ** 3))),
        (1.0, 2300.0, np.exp(-(1.690e-2 * (2300 / 1215.67) ** 1.2 + 1.617e-4 * (2300 / 1215.67) ** 2))),
    ],
)
def test_hydrogen_between_lyman_alpha_and_beta_follows_the_printed_formula(redshift, observed, expected):
    # Table 2 is printed with four digits: our coefficients above a break follow from continuity instead.
    assert transmission(np.array([observed]), redshift)[0] == pytest.approx(expected, rel=2e-3)


def test_hydrogen_is_continuous_where_the_law_changes():
    for redshift, edge in ((3.0, 2.2 * LINES[0]), (5.5, 5.7 * LINES[0]), (3.0, 3.0 * LINES[0])):
        below, above = transmission(np.array([edge * (1 - 1e-7), edge * (1 + 1e-7)]), redshift)
        assert below == pytest.approx(above, rel=1e-4)


def test_hydrogen_dims_more_with_distance_and_hides_the_lyman_continuum():
    blue = np.array([1150.0])
    seen = [transmission(blue * (1 + z), z)[0] for z in (1.0, 2.0, 3.0, 4.0, 5.0, 6.0)]
    assert (np.diff(seen) < 0).all()
    # Inoue et al. (2014), fig. 4: ionising photons just below the limit at z = 3.5 pass at about 0.3,
    # those far below it hardly.
    assert 0.2 < transmission(np.array([880.0 * 4.5]), 3.5)[0] < 0.4
    assert transmission(np.array([600.0 * 4.5]), 3.5)[0] < 0.1
    assert 0.3 < transmission(np.array([880.0 * 1.5]), 0.5)[0] < 1.0


def test_filters_are_normalised_so_that_a_flat_spectrum_has_one_flux():
    # A source of constant flux per frequency has f_λ ∝ λ⁻², and AB colours of zero.
    for name in FILTERS:
        wavelength, _ = load_filter(name)
        assert band_flux(wavelength, wavelength**-2.0, name) == pytest.approx(1.0, rel=1e-12)


def test_band_magnitudes_agree_with_speclite():
    import astropy.units as u
    import speclite.filters

    wavelength, spectra = galaxy_templates()
    redshift = 0.7
    observed = wavelength * (1 + redshift)
    flux = np.interp(np.linspace(3000, 11000, 8001), observed, spectra["Sbc"])
    flux *= transmission(np.linspace(3000, 11000, 8001), redshift)
    grid = colour_grid(FILTERS)
    ours = -2.5 * grid.at(np.array([1.0]), np.array([0.0]), np.array([redshift]))[0]
    unit = u.erg / u.s / u.cm**2 / u.AA
    theirs = [
        speclite.filters.load_filter(n).get_ab_magnitude(flux * unit, np.linspace(3000, 11000, 8001) * u.AA)
        for n in FILTERS
    ]
    # Differences, as our normalisation has no unit. Grid in redshift and 5 Å filters: below 0.01 mag.
    np.testing.assert_allclose(np.diff(ours), np.diff(theirs), atol=0.01)


def test_colour_grid_interpolates_through_its_nodes():
    grid = colour_grid(FILTERS)
    found = grid.at(np.array([2.0, 4.0]), REDDENINGS[[1, 3]], REDSHIFTS[[100, 300]])
    np.testing.assert_allclose(found, grid.log_flux[[2, 4], [1, 3], [100, 300]], rtol=1e-12)


def test_templates_grow_bluer_along_the_sequence():
    grid = colour_grid(FILTERS)
    at = grid.at(np.arange(6.0), np.zeros(6), np.full(6, 0.3))
    assert (np.diff(at[:, 0] - at[:, 3]) > 0).all()


@pytest.mark.slow
def test_sequences_of_templates_go_from_red_to_blue_in_other_libraries_too():
    places, rng = template_places(), np.random.default_rng(3)
    assert [places[name] for name in CWW] == pytest.approx(range(6))
    drawn = {draw_sequence(rng) for _ in range(60)}
    assert CWW in drawn
    assert len(drawn) > 20
    for sequence in drawn:
        assert (np.diff([places[name] for name in sequence]) >= 0).all()
    recent = {draw_sequence(rng, recent=True) for _ in range(20)}
    assert len(recent) > 10
    assert not any(set(sequence) & set(CWW) for sequence in recent)
    # shapes, not only colours, differ: of the same place, galaxies at z = 0.7 have other colours
    other = next(sequence for sequence in drawn if not set(sequence) & set(CWW))
    at = (np.full(50, 1.0), np.zeros(50), np.full(50, 0.7))
    ours, theirs = (colour_grid(FILTERS, sequence).at(*at)[0] for sequence in (CWW, other))
    assert np.abs(np.diff(ours - theirs)).max() > 0.02 / 2.5


def test_an_unknown_template_is_refused_with_those_that_are_known():
    with pytest.raises(InputError, match=r"Sbd.*six names.*Sbc_B2004a"):
        colour_grid(FILTERS, ("E", "Sbd", "Scd", "Im", "Im_0.5", "Im_1.0"))
    with pytest.raises(InputError, match="six names"):
        colour_grid(FILTERS, CWW[:5])


def test_dust_reddens_and_follows_calzetti_at_his_normalisation():
    # R_V = k(V) = 4.05 by construction, at 5500 Å to the precision of the fit.
    assert calzetti(np.array([5500.0]))[0] == pytest.approx(4.05, abs=0.02)
    assert (np.diff(calzetti(np.linspace(1500, 20000, 100))) < 0).all()


def test_a_quasar_drops_out_of_the_blue_bands_beyond_redshift_three():
    grid = quasar_grid(FILTERS)
    u_g = [-2.5 * np.interp(z, REDSHIFTS, grid[:, 0] - grid[:, 1]) for z in (1.5, 3.5)]
    assert abs(u_g[0]) < 0.5
    assert u_g[1] > 1.5


def test_a_users_filter_file_is_read_and_a_wrong_name_is_an_error(tmp_path):
    wavelength, response = load_filter("hsc2017-g")
    path = tmp_path / "mine.txt"
    np.savetxt(path, np.column_stack([wavelength, response]))
    mine, theirs = colour_grid((str(path),)), colour_grid(("hsc2017-g",))
    np.testing.assert_allclose(mine.log_flux, theirs.log_flux, atol=1e-4)
    with pytest.raises(InputError, match="hsc2017-nope"):
        load_filter("hsc2017-nope")
