"""Placeholders for missing values: −99, 9.99, 999 and similar numbers."""

import re

import numpy as np

_REDSHIFT = re.compile(
    r"(?i:^z$|^z[_\d]|^z(s|pec|cos|hel|cmb|use|true|fin|red|obs|adopt|grism|primus|legac|lya$|ha$|dist$|vi$|out$|abs$|em$|hd$|host|neb|lambda|chi2|ml_\d|b_\d|eazy|ann)|redshift"
    r"|(^|_)z_?(spec|best|phot|mean|med|mode|peak|pdf|ml$|mc(_|$))|(^|_)phz_(median|mode|mean)"
    r"|(spec|phot|photo|true|ez|best|sp|spe|final|adopted|vi|dnf|helio|nsa|demp|bpz|ann)_?z(_\d+)?$"
    r"|(^|_)(photo|phot|spec|p|ann|dnf)z\d*_(best|mean|median|mode|peak|mc)\d*(_|$)|(^|_)lp_z|^z_?(ph|b|gal|qso)$"
    r"|(median|mean|map|hetdex|mosfire|muse|grism)_z(_bpz)?$|^dnf_zn$|^zp_(best|gal|sec)$|^rvz_z?value$)"
    r"|_z[A-Z]"
)
_SPEC_Z = re.compile(
    r"(?i)(?<=spec|phot)[^a-z\d]+(?=z$)|(?<=photo)[^a-z\d]+(?=z$)|(?<=^z)[^a-z\d]+(?=spec|phot)"
)
"""What stands between the two words of spec-z, photo-z and z (spec)."""
_OF_PHOTOMETRY = re.compile(
    r"(?i)^(?!.*spec).*(phot|phz|(^|_)pz_|^zp_|lp_z|ez_z|eazy|lephare|bpz|tpz|gpz|dnf|ann_?z|z_?ann|zpdf|minchi2"
    r"|^z_?b(_\d)?$|^z_peak|^z_?m[lc]$)"
)
"""Names of photometric redshifts, among those of redshifts: those of programs, and COSMOS's and EAZY's."""
_LIKE_A_REDSHIFT = re.compile(r"(?i)(^|_)(ph|p)?z|z$|^red")
_NO_REDSHIFT = re.compile(
    r"mag|flux|err|flag|snr|fwhm|psf|std|conf|ivar|[lu](68|95)|z_(ra|dec)$|auto|aper|petro|kron|cmodel|_ab$|qual"
    r"|(?<!min_)risk|grade|type|source$|src$|_q$|_ref$|score|_(min|max|lower|upper)$|(16|84)$",
    re.IGNORECASE,
)
"""Parts of the names of magnitudes in the z band, and of errors, bounds and the quality of redshifts."""
_SIGNED_CODES = (
    9.9, 9.99, 9.999, 9.9999, 99, 99.9, 99.99, 999, 999.9, 9999, 9999.9, 99999, 999999, 1e20, 1e30,
    2**15 - 1, 2**15, 2**31 - 1, 2**31, float(np.finfo(np.float32).max),
)  # fmt: skip
_CODES = np.array([*_SIGNED_CODES, *(-code for code in _SIGNED_CODES), -1, -2, -9, -10, -42, -100, 9.0])
LOWEST, HIGHEST = -0.01, 20.0
"""Range of possible redshifts: blueshifts of infall stay above, and nothing has been observed beyond."""
STAR_REDSHIFT = 0.001  # objects at redshifts closer to 0 (300 km/s) are usually stars
HIGHEST_MEDIAN = 12.0  # columns with a higher median contain magnitudes rather than redshifts


def is_redshift_name(name: str) -> bool:
    """Return whether a column is named like a redshift: z_spec, Z, zBEST, lp_zBEST, redshift, spec-z."""
    name = _SPEC_Z.sub("_", name)
    return bool(_REDSHIFT.search(name)) and not _NO_REDSHIFT.search(name)


def is_photometric_name(name: str) -> bool:
    """Return whether a column is named like a photometric redshift: z_phot, Z_B, lp_zBEST, DNF_Z."""
    return is_redshift_name(name) and bool(_OF_PHOTOMETRY.match(name))


def may_be_redshifts(name: str, value: np.ndarray) -> bool:
    """Return whether values ``(N,)`` may be redshifts by their range and a name such as zfit or PHZ_BEST."""
    is_named = bool(_LIKE_A_REDSHIFT.search(name)) and not _NO_REDSHIFT.search(name)
    return is_named and bool(((value >= LOWEST) & (value < HIGHEST_MEDIAN)).all())


def is_no_value(value: np.ndarray, *, is_redshift: bool, codes_only: bool = False) -> np.ndarray:
    """Return a mask ``(N,)`` of the finite values, among ``(N,)``, that are placeholders for missing ones.

    Redshifts below `LOWEST` or above `HIGHEST` are, and so are the common codes that are negative or above 8;
    in other columns, the common codes outside the range of the other values. A nonzero number that
    occurs at least three times and lies far outside the range of those that do not (7.0 a hundred times
    where nothing else exceeds 3) is a placeholder too, unless `codes_only` is set: estimates pile up at the
    ends of their program's grid.

    Examples
    --------
    >>> is_no_value(np.array([0.5, -99.0, 9.99, 1.2]), is_redshift=True).tolist()
    [False, True, True, False]
    """
    is_finite = np.isfinite(value)
    if not is_finite.all():
        is_finite[is_finite] = is_no_value(value[is_finite], is_redshift=is_redshift, codes_only=codes_only)
        return is_finite
    is_code = np.zeros(len(value), dtype=bool)
    for code in _CODES:
        is_code |= np.abs(value - code) <= 1e-6 * abs(code)
    if is_redshift:
        out = (value < LOWEST) | (value > HIGHEST) | (is_code & ((value < 0) | (value > 8)))
    else:
        out = np.zeros(len(value), dtype=bool)
        if (~is_code).any():
            low, high = value[~is_code].min(), value[~is_code].max()
            out = is_code & ((value < low) | (value > high))
    if codes_only:
        return out
    left = value[~out]
    unique, place, counts = np.unique(left, return_inverse=True, return_counts=True)
    once = unique[counts < 3]
    if len(once) >= max(10, 0.2 * len(left)):
        low, high = once.min(), once.max()
        margin = 0.25 * (high - low)
        is_odd = (counts >= 3) & ((unique > high + margin) | (unique < low - margin)) & (unique != 0)
        out[~out] |= is_odd[place]
    return out


def list_values(values: np.ndarray) -> str:
    """Describe the five commonest values and how often each occurs."""
    unique, counts = np.unique(values, return_counts=True)
    order = np.argsort(-counts, kind="stable")[:5]
    listed = ", ".join(f"{unique[i]:g} ({counts[i]} times)" for i in order)
    return listed + (", …" if len(unique) > 5 else "")
