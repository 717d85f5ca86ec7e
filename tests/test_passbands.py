"""Filters by their mean wavelengths, as names, files, numbers and headers tell them."""

import numpy as np
import pytest

from deepfits.errors import InputError
from deepfits.passbands import WAVELENGTHS, filter_centre, wavelength_in_header, wavelength_of


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


@pytest.mark.parametrize(
    ("header", "band", "expected"),
    [
        ({"ORIGIN": "SDSS", "TELESCOP": "2.5m", "FILTER": "u"}, "u", "sdss2010-u"),
        ({"FILTER": "g DECam SDSS c0001 4720.0 1520.0", "INSTRUME": "DECam"}, "g", "decam2014-g"),
        ({"INSTRUME": "DECam"}, "y", "decam2014-Y"),
        ({"FILTER": "HSC-R2"}, "r", "hsc2017-r2"),
        ({"FILTER": "HSC-R"}, "r", "hsc2017-r"),
        ({"FILTER": "u.MP9301", "INSTRUME": "MegaPrime"}, "u", "cfht_megacam-ustar"),
        ({"FILTER": "u.MP9302", "INSTRUME": "MegaPrime"}, "u", "cfht_megacam-u"),
        ({"TELESCOP": "PS1", "INSTRUME": "gpc1"}, "i", "panstarrs-i"),
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
