"""What the report says: each function turns measured arrays into a section of the page.

Shapes: N held-out objects, B bands, H, W pixels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from deepfits.photometry import ab_magnitude
from deepfits.reporting import figures
from deepfits.reporting.page import Picture, Section, Table

MAX_ON_SHEET = 160
HEALTH = {
    "answer_real": "discriminator's answer to real images (target 1)",
    "answer_generated": "discriminator's answer to generated images (target 0)",
    "spread": "spread of generated galaxies, relative to real ones",
    "kernel_distance": "kernel distance of profiles and colours to real images",
}
RULE = (
    "Objects are chosen by rule: held-out objects with data in every band, at evenly spaced quantiles "
    "(0.99 to 0.35) of their signal to noise, the same in every row and figure."
)


@dataclass(frozen=True, kw_only=True)
class HeldOut:
    """Held-out objects of a store.

    Attributes
    ----------
    object_id
        ``(N,)``.
    image, weight
        ``(N, B, H, W)``, nJy and nJy⁻².
    flux, flux_error
        ``(N, B)``, nJy, in the central aperture.
    examples
        Indices of the objects that figures show.
    """

    object_id: np.ndarray
    image: np.ndarray
    weight: np.ndarray
    flux: np.ndarray
    flux_error: np.ndarray
    examples: np.ndarray
    bands: tuple[str, ...]
    reference: int
    aperture_arcsec: float

    @property
    def magnitude(self) -> np.ndarray:
        """Aperture magnitude in the reference band, ``(N,)``."""
        return ab_magnitude(self.flux[:, self.reference])

    @property
    def magnitude_name(self) -> str:
        """What `magnitude` is, for axes and tables."""
        return f"{self.bands[self.reference]} magnitude (AB, {self.aperture_arcsec:g}″ radius)"

    def titles(self) -> list[str]:
        """One line per example."""
        band = self.bands[self.reference]
        return [
            f"{self.object_id[i]}   {band} = {self.magnitude[i]:.1f}"
            if np.isfinite(self.magnitude[i])
            else str(self.object_id[i])
            for i in self.examples
        ]


@dataclass(frozen=True, kw_only=True)
class FitResult:
    """What one mode of the fit gave for the held-out objects, in their order.

    Attributes
    ----------
    chi2, dof
        ``(N,)``; NaN where the object was not fitted.
    chi2_band, dof_band
        ``(N, B)``.
    status
        ``(N,)`` text.
    examples
        Fitted images of the examples, ``(number, B, H, W)``, nJy.
    """

    chi2: np.ndarray
    dof: np.ndarray
    chi2_band: np.ndarray
    dof_band: np.ndarray
    status: np.ndarray
    num_steps: np.ndarray
    examples: np.ndarray

    @property
    def reduced(self) -> np.ndarray:
        """Reduced χ², ``(N,)``."""
        return self.chi2 / np.where(self.dof > 0, self.dof, np.nan)


def sky_section(held: HeldOut, num_objects: int, counts: Mapping[str, Any]) -> Section:
    """Show what the cutouts look like."""
    noise = figures.noise_per_band(held.weight)
    order = held.object_id.argsort(kind="stable")[:MAX_ON_SHEET]
    text = [
        f"{num_objects:,} cutouts of {held.image.shape[-1]}×{held.image.shape[-1]} pixels in the bands "
        f"{', '.join(held.bands)}; {len(held.object_id):,} of the held-out ones were read for this page.",
    ]
    rows = [
        [
            band,
            f"{noise[b]:.3g}",
            f"{ab_magnitude(5 * np.nanmedian(held.flux_error[:, b])):.2f}"
            if np.isfinite(held.flux_error[:, b]).any()
            else "no data",
            f"{(held.weight[:, b] <= 0).mean():.2%}",
            f"{(held.weight[:, b] <= 0).all(axis=(1, 2)).mean():.2%}",
        ]
        for b, band in enumerate(held.bands)
    ]
    table = Table(
        columns=["band", "noise per pixel (nJy)", "5σ depth (AB)", "pixels without data", "objects without"],
        rows=rows,
        caption=f"Depth in an aperture of {held.aperture_arcsec:g}″ radius, from the weights, taking pixels "
        "as independent. " + " ".join(f"{k}: {v}." for k, v in counts.items()),
    )
    sheet = Picture(
        name="contact-sheet",
        figure=figures.contact_sheet(held.image[order], noise),
        caption=f"The first {len(order)} held-out objects by identity, all bands in one colour picture each.",
    )
    histogram = Picture(
        name="magnitudes",
        figure=figures.magnitude_histogram(held.magnitude, held.magnitude_name),
        caption="Brightness of the held-out objects.",
    )
    return Section(title="Images", paragraphs=text, tables=[table], pictures=[sheet, histogram])


def training_section(card: Mapping[str, Any], metrics: Sequence[Mapping[str, Any]]) -> Section:
    """Show how the networks were trained."""
    names = [k for k in ("discriminator", "generator", "embedder") if metrics and k in metrics[0]]
    pictures = []
    if names:
        used = [m for m in metrics if all(k in m for k in names)]
        curves = {k: np.array([m[k] for m in used], dtype=float) for k in names}
        steps = np.array([m["step"] for m in used], dtype=float)
        pictures.append(
            Picture(
                name="training",
                figure=figures.training_curves(steps, curves),
                caption="Losses while training (M19 §2.2): least-squares GAN, and the embedder's mean "
                "squared error of the latent (a guess without any skill has 1).",
            )
        )
    facts = {
        "recipe": card.get("recipe"),
        "steps": card.get("steps"),
        "minutes": card["seconds"] / 60 if "seconds" in card else None,
        "images trained on": (card.get("data") or {}).get("num_used"),
        "images held out": (card.get("data") or {}).get("num_held_out"),
        **{name: (card.get("metrics") or {}).get(key) for key, name in HEALTH.items()},
    }
    rows = [[name, _fact(value)] for name, value in facts.items() if value is not None]
    caption = "Spread: of generated images against that of real ones; near 0 the generator has collapsed."
    tables = [Table(columns=["", ""], rows=rows, caption=caption)] if rows else []
    return Section(title="Training", tables=tables, pictures=pictures)


def _fact(value: Any) -> str:
    return f"{value:,.3g}" if isinstance(value, float) else f"{value:,}" if type(value) is int else str(value)


def fit_section(held: HeldOut, fits: Mapping[str, FitResult], explanations: Mapping[str, str]) -> Section:
    """Show M19 Fig. 1 and the χ² of each mode on the same objects."""
    noise = figures.noise_per_band(held.weight)
    observed = np.where(held.weight > 0, held.image, np.nan)[held.examples]
    rows = [("observed", observed)] + [(mode, fit.examples) for mode, fit in fits.items()]
    notes = {mode: [f"χ²ᵣ {fit.reduced[i]:.2f}" for i in held.examples] for mode, fit in fits.items()}
    last = list(fits)[-1]
    rows.append(("residual", observed - fits[last].examples))
    figure1 = figures.gallery(rows, held.bands, noise, titles=held.titles(), notes=notes)
    pictures = [
        Picture(
            name="figure-1",
            figure=figure1,
            caption="Observation and reconstructions (after M19 Fig. 1). The stretch of a band is the same "
            f"in all rows of a galaxy; the residual is that of “{last}”. {RULE}",
        ),
        Picture(
            name="chi2",
            figure=figures.chi2_distributions(
                {mode: fit.reduced for mode, fit in fits.items()},
                magnitude=held.magnitude,
                magnitude_name=held.magnitude_name,
            ),
            caption="Reduced χ² over all valid pixels of the cutout, in nJy with inverse-variance weights.",
        ),
    ]
    paragraphs = [f"{mode}: {explanations[mode]}" for mode in fits if mode in explanations]
    return Section(
        title="Best fits", paragraphs=paragraphs, tables=[_chi2_table(held, fits)], pictures=pictures
    )


def chi2_summary(held: HeldOut, fits: Mapping[str, FitResult]) -> dict[str, Any]:
    """Return the medians that the table shows, for ``summary.json``."""
    return {
        mode: {
            name: {"median_reduced_chi2": _median(fit.reduced[which]), "num_objects": int(which.sum())}
            for name, which in _magnitude_ranges(held).items()
        }
        for mode, fit in fits.items()
    }


def _chi2_table(held: HeldOut, fits: Mapping[str, FitResult]) -> Table:
    ranges = _magnitude_ranges(held)
    columns = [
        "mode",
        *(f"χ²ᵣ {name} ({int(which.sum()):,})" for name, which in ranges.items()),
        *(f"χ²ᵣ in {band}" for band in held.bands),
        "steps",
        "converged",
    ]
    rows = []
    for mode, fit in fits.items():
        per_band = fit.chi2_band / np.where(fit.dof_band > 0, fit.dof_band, np.nan)
        done = fit.status[fit.status != ""]
        rows.append(
            [
                mode,
                *(_number(_median(fit.reduced[which])) for which in ranges.values()),
                *(_number(_median(per_band[:, b])) for b in range(len(held.bands))),
                _number(_median(fit.num_steps), "{:.0f}"),
                f"{np.mean(done == 'converged'):.0%}" if done.size else "",
            ]
        )
    return Table(
        columns=columns,
        rows=rows,
        caption="Median reduced χ² of held-out objects (how many in brackets), and in each band. 1 is a fit "
        "to the noise; neighbours that a model does not draw raise it.",
    )


def _magnitude_ranges(held: HeldOut) -> dict[str, np.ndarray]:
    band, values = held.bands[held.reference], held.magnitude
    ranges = {"all": np.ones(len(values), dtype=bool)}
    with np.errstate(invalid="ignore"):
        ranges[f"{band} < 22"] = values < 22
        ranges[f"{band} > 22"] = ~(values < 22)
    return {name: which for name, which in ranges.items() if which.any()}


def _median(values: np.ndarray) -> float | None:
    good = values[np.isfinite(values)]
    return float(np.median(good)) if good.size else None


def _number(value: float | None, form: str = "{:.3f}") -> str:
    return "" if value is None else form.format(value)
