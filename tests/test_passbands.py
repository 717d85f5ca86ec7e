"""Filters by their mean wavelengths, as names, files, numbers and headers tell them."""

import numpy as np
import pytest
from astropy import units
from astropy.table import Table

from deepfits.errors import InputError
from deepfits.passbands import (
    WAVELENGTHS,
    filter_centre,
    require_own_bands,
    wavelength_in_header,
    wavelength_of,
)
from deepfits.redshifts.spectra import template_fluxes


def test_wavelengths_are_those_of_the_filters_curves():
    names = [f"{camera}-{band}" for camera, bands in WAVELENGTHS.items() for band in bands]
    of_curves = [name for name in names if not name.startswith(("suprime", "omegacam", "vircam"))]
    assert len(of_curves) > 30
    for name in of_curves:
        assert wavelength_of(name) == pytest.approx(filter_centre(name), abs=1)


def test_a_filter_is_a_name_a_file_or_a_number(tmp_path):
    curve = tmp_path / "mine.txt"
    np.savetxt(curve, [[4990, 0], [5000, 1], [5200, 1], [5210, 0]])
    assert wavelength_of(str(curve)) == pytest.approx(5100, abs=5)
    assert wavelength_of("panstarrs-w") == pytest.approx(6389, abs=1)
    assert wavelength_of("4777") == wavelength_of("suprime-g") == 4777
    for wrong in ("sdss2010-q", "0.48", "nan"):
        with pytest.raises(InputError, match="filter"):
            wavelength_of(wrong)


def test_a_curve_that_was_replaced_is_read_anew(tmp_path):
    path = tmp_path / "g.txt"
    found = []
    for centre in (4800, 5300):
        path.write_text(f"{centre - 500} 0\n{centre} 1\n{centre + 500} 0\n")
        fluxes = template_fluxes((str(path), "sdss2010-r"), (0.5,))[0]
        found.append(
            (wavelength_of(str(path)), fluxes, template_fluxes((str(path), "sdss2010-r"), (0.5,))[0])
        )
    assert [round(wavelength) for wavelength, *_ in found] == [4800, 5300]
    assert (found[0][1] != found[1][1]).any()
    assert all(first is second for _, first, second in found)  # cached until it changes


def test_curves_in_other_units_than_angstrom_are_refused(tmp_path):
    for factor in (0.1, 1e-4):
        curve = tmp_path / f"{factor}.txt"
        np.savetxt(curve, np.array([[4990, 0], [5000, 1], [5200, 1], [5210, 0]]) * [factor, 1])
        with pytest.raises(InputError, match="write Å, not nm or µm"):
            wavelength_of(str(curve))


def test_filters_of_other_bands_are_refused():
    """As they are in another order, or one place further; those of every camera suit their own bands."""
    for camera, known in WAVELENGTHS.items():
        require_own_bands(list(known), [f"{camera}-{band}" for band in known], list(known.values()))
    require_own_bands(["V", "g"], ["mine.txt", "other.txt"], [5470, 5100])  # unusual ones may be
    for bands, wavelengths, band in (
        ("gri", (7506, 6187, 4718), "g"),
        ("gri", (3599, 4718, 6187), "g"),
        ("griz", (4842, 6438, 9172, 7821), "i"),
        ("izy", (7821, 9877, 9172), "z"),
    ):
        with pytest.raises(InputError, match=rf"is given for band {band}, .*each of {', '.join(bands)} in"):
            require_own_bands(list(bands), ["a-filter"] * len(bands), wavelengths)


@pytest.mark.parametrize(
    ("header", "band", "expected"),
    [
        ({"ORIGIN": "SDSS", "TELESCOP": "2.5m", "FILTER": "u"}, "u", "sdss2010-u"),
        ({"FILTER": "g DECam SDSS c0001 4720.0 1520.0", "INSTRUME": "DECam"}, "g", "decam2014-g"),
        ({"INSTRUME": "DECam"}, "y", "decam2014-Y"),
        ({"FILTER": "des-z"}, "z", "decam2014-z"),
        ({"FILTER": "HSC-R2"}, "r", "hsc2017-r2"),
        ({"FILTER": "HSC-R"}, "r", "hsc2017-r"),
        ({"FILTER": "u.MP9301", "INSTRUME": "MegaPrime"}, "u", "cfht_megacam-ustar"),
        ({"FILTER": "u.MP9302", "INSTRUME": "MegaPrime"}, "u", "cfht_megacam-u"),
        ({"TELESCOP": "PS1", "INSTRUME": "gpc1"}, "i", "panstarrs-i"),
        ({"FPA.TELESCOPE": "PS1", "FPA.INSTRUMENT": "GPC1", "FPA.FILTERID": "i.00000"}, "i", "panstarrs-i"),
        ({"INSTRUME": "LSSTComCam"}, "z", "lsst2023-z"),
        ({"INSTRUME": "OMEGACAM", "FILTER": "r_SDSS"}, "r", "omegacam-r"),
        ({"INSTRUME": "VIRCAM"}, "z", "vircam-Z"),
        ({"WAVELEN": 4777.0, "INSTRUME": "DECam"}, "g", 4777),
        ({"WAVELEN": 0.0, "FILTER": "HSC-G"}, "g", None),
        ({"ORIGIN": "deepfits simulate", "SURVEY": "sdss-like"}, "g", None),
        ({"INSTRUME": "gpc1"}, "u", None),
        ({"INSTRUME": "HSC"}, "r(", None),
        ({"ORIGIN": "Observatoire des Monts"}, "g", None),
        ({}, "g", None),
    ],
)
def test_headers_tell_the_filter(header, band, expected):
    found = wavelength_in_header(header, band)
    assert found == (None if expected is None else wavelength_of(expected))


@pytest.mark.parametrize("name", ["g.csv", "g.xml", "g.txt", "g.ecsv"])
def test_a_curve_may_be_any_table_in_either_order(tmp_path, name):
    """The Filter Profile Service of SVO distributes VOTables, and many curves begin at the red end."""
    wavelength = np.linspace(5500.0, 4000.0, 60)
    table = Table({"Wavelength": wavelength, "Transmission": np.exp(-(((wavelength - 4750) / 300) ** 2))})
    if name == "g.ecsv":
        table["Wavelength"] = table["Wavelength"] / 10 * units.nm
    form = {"xml": "votable", "csv": "ascii.csv", "txt": "ascii.no_header", "ecsv": "ascii.ecsv"}
    table.write(tmp_path / name, format=form[name.partition(".")[2]])
    assert filter_centre(str(tmp_path / name)) == pytest.approx(4750, abs=2)


@pytest.mark.parametrize("text", ["wavelength\n4000\n5000\n", "nothing at all", ""])
def test_what_is_no_curve_is_named(tmp_path, text):
    (tmp_path / "g.csv").write_text(text)
    with pytest.raises(InputError, match=r"g\.csv"):
        filter_centre(str(tmp_path / "g.csv"))
