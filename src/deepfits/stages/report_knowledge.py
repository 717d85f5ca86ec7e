"""How well galaxy properties can be predicted from features on a simulated sky: a table of the report."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from deepfits.errors import naming
from deepfits.explorer.joined import TRUTH
from deepfits.fitting.features import read_features
from deepfits.fitting.similarity import Similarity
from deepfits.gaussian_psf import psf_or_moffat
from deepfits.photometry import reference_band
from deepfits.redshifts.features import Source
from deepfits.redshifts.knowledge import NEEDED, NUM_LABELS, predictability, properties_of, table_rows
from deepfits.redshifts.labels import match_labels, read_labels
from deepfits.redshifts.photometry import aperture_photometry
from deepfits.reporting.page import PageTable
from deepfits.splits import is_held_out
from deepfits.survey.store import CutoutStore
from deepfits.tables import match_identities

KNOWN_TO_MAG = 24.0
MIN_JUDGED, MOST_JUDGED = 50, 2000


def knowledge(run: Path, features: Path, store: CutoutStore) -> tuple[list[PageTable], list[dict[str, Any]]]:
    """Return tables and figures of how well features predict true properties; empty without a truth table."""
    path = run / TRUTH
    if not path.exists():
        return [], []
    with naming(path, "cannot read this table of true objects", "simulate the sky again, or remove it"):
        names = pq.read_schema(path).names
    bands = [band for band in store.info.bands if f"mag_{band}" in names]
    if not bands or not set(NEEDED) <= set(names):
        return [], []
    magnitude = f"mag_{reference_band(bands)}"
    columns = read_features(features)
    identity = store.catalogue([])["object_id"]
    usable = np.isfinite(columns["latent"]).all(axis=1)
    usable &= match_identities(columns["object_id"], identity) >= 0
    columns = {name: values[usable] for name, values in columns.items()}
    bright = f"{magnitude} < {KNOWN_TO_MAG:g}"
    truth = read_labels(path, column=magnitude, select=[bright])
    pairs = match_labels(columns, truth)
    held = is_held_out(columns["object_id"][pairs.rows])
    chosen = np.concatenate([np.flatnonzero(held)[:MOST_JUDGED], np.flatnonzero(~held)[: max(NUM_LABELS)]])
    rows, label_rows, held = pairs.rows[chosen], pairs.label_rows[chosen], held[chosen]
    if held.sum() < MIN_JUDGED or (~held).sum() < MIN_JUDGED:
        return [], []
    columns = {name: values[rows] for name, values in columns.items()}
    cutouts = store.take(match_identities(columns["object_id"], identity))
    info = store.info
    flux, flux_err = aperture_photometry(
        cutouts.image,
        cutouts.weight,
        psf_or_moffat(cutouts.psf, info.fwhm_arcsec, len(cutouts)),
        pixel_scale_arcsec=info.pixel_scale_arcsec,
    )
    similarity = Similarity.read(features, columns["latent"].shape[1]).matrix
    source = Source(columns=columns, bands=info.bands, flux=flux, flux_err=flux_err, similarity=similarity)
    known_columns = {name: values[label_rows] for name, values in truth.columns.items()}
    known_columns[truth.target] = truth.value[label_rows]
    figures = predictability(source, properties_of(known_columns), held)
    heads, cells = table_rows(figures)
    caption = (
        f"Properties of {figures[0]['num_judged']:,} held-out objects with {bright} predicted from their "
        "features by kernel ridge regression: R² (1: perfect, 0: no better than the mean, below 0: worse), "
        "for classes the area under the ROC curve (0.5: chance). Radius and redshift are logarithms, the "
        "orientation is (1 − axis ratio) cos 2θ; ± is the standard deviation over bootstrap resamples."
    )
    return [PageTable(columns=heads, rows=cells, caption=caption)], figures
