"""The model card: what a model is for, how it was trained, and how well it performs."""

import math
from typing import Any

from deepfits.models.bundle import Model
from deepfits.models.layers import count_parameters

METRICS = {
    "kernel_distance": "kernel distance between radial profiles of generated and real images (ideally 0)",
    "spread": "spread of generated objects over that of real ones (ideally 1; mode collapse below 0.3)",
    "texture": "finest structure of generated images over that of real ones (ideally 1; too high above 1.2)",
    "chi2_embedder": "median reduced χ² of the embedder's estimate (1 if only noise remains)",
    "chi2_both": "median reduced χ² of the best fit",
    "latent_spread": "standard deviation of the embedded latents of real objects (1 for prior draws)",
}
ALARMS = {
    "collapsed": "**The generator has collapsed: train again.**",
    "textured": "**Generated images have artificial patterns: train shorter, or with more smoothness.**",
}


def describe(model: Model, name: str = "model") -> str:
    """Return the card of a trained model in Markdown, with `name` as its title.

    All of it is read from the model; unknown properties are left out.
    """
    parts = [f"# {name}", _purpose(model), _networks(model), _training(model.card), _metrics(model)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _purpose(model: Model) -> str:
    info, pixels = model.info, f"pixels of {model.info.pixel_scale_arcsec:.4g}″"
    of_bands = zip(info.bands, info.fwhm_arcsec, strict=True)
    seeing = ", ".join(f"{band} {fwhm:.2f}″" for band, fwhm in of_bands if math.isfinite(fwhm))
    if model.grid is not None:
        side, reference = info.size * info.pixel_scale_arcsec, model.grid.reference_fwhm_arcsec
        lines = [
            f"- pixels of any size, and sides of up to {side:.2f}″",
            f"- known PSFs, wider than about {1.4 * reference:.2f}″ (FWHM): scenes have a PSF of "
            f"{reference:g}″ and {pixels}",
        ]
    else:
        lines = [f"- {info.size}×{info.size} {pixels}"]
        lines += [f"- seeing near that of the training images: {seeing}"] if seeing else []
    bands = f"- bands {', '.join(info.bands)}, in this order, in {info.flux_unit}"
    identity = f"Fingerprint `{model.fingerprint}`."
    if model.calibration is not None:
        survey = model.calibration.get("survey") or "a survey without a name"
        identity += f" Errors of fluxes and anomalies: those measured by `deepfits calibrate` on {survey}."
    return "\n".join(["For cutouts with", "", bands, *lines, "", identity])


def _networks(model: Model) -> str:
    config, kind = model.config, model.normalisation.kind
    numbers = {name: count_parameters(network) for name, network in model.networks.items()}
    return (
        f"{config.latent_size} latents, {config.width} channels at the widest, {kind} normalisation; "
        + ", ".join(f"{name} {number:,} parameters" for name, number in numbers.items())
        + "."
    )


def _training(card: dict[str, Any]) -> str:
    if "steps" not in card:
        return ""
    data, training = card.get("data", {}), card.get("training", {})
    lines = ["## Training", ""]
    lines.append(
        f"Recipe `{card.get('recipe')}`, {card['steps']:,} steps of {training.get('batch_size')} images in "
        f"{card.get('seconds', 0) / 60:.1f} minutes, seed {card.get('seed')}."
    )
    if data:
        lines.append(
            f"{data['num_used']:,} objects{' of ' + data['survey'] if data.get('survey') else ''}; "
            f"{data['num_incomplete']:,} others were incomplete, {data['num_held_out']:,} held out. "
            f"Data fingerprint `{data['fingerprint']}`."
        )
    if card.get("embedder_of"):
        lines.append(f"Only the embedder was trained, for the generator of `{card['embedder_of']}`.")
    return "\n".join(lines)


def _metrics(model: Model) -> str:
    metrics = model.card.get("metrics") or {}
    in_bands = {f"chi2_both_{band}": f"{METRICS['chi2_both']} in {band}" for band in model.info.bands}
    named = (METRICS | in_bands).items()
    rows = [f"| {text} | {metrics[name]:.3f} |" for name, text in named if metrics.get(name) is not None]
    if not rows:
        return ""
    head = ["## On held-out objects", "", "| | |", "|---|---|"]
    alarm = [text for name, text in ALARMS.items() if metrics.get(name)]
    return "\n".join([*head, *rows, *([""] if alarm else []), *alarm])
