"""What the stages learn from: features and labels, joined and divided, and measurements of cutouts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from deepfits.progress import Progress, silent
from deepfits.redshifts.dataset import Dataset, make_dataset
from deepfits.redshifts.features import available_sets, read_features
from deepfits.redshifts.inputs import check_store, complete_source
from deepfits.redshifts.labels import read_labels
from deepfits.redshifts.method import Inputs
from deepfits.redshifts.options import LearningOptions


def load_dataset(
    features: str | Path,
    labels: str | Path,
    *,
    label_column: str = "z_spec",
    select: Sequence[str] = (),
    match: str = "auto",
    match_radius_arcsec: float = 1.0,
    max_labels: int | None = None,
    block_arcmin: float | None = None,
    train_select: Sequence[str] = (),
    seed: int = 0,
    classes: bool = False,
) -> Dataset:
    """Read, join and split; see the stage `redshift` for the arguments. Nothing is measured yet."""
    return make_dataset(
        read_features(features),
        read_labels(labels, column=label_column, select=select, classes=classes),
        match=match,
        radius_arcsec=match_radius_arcsec,
        max_labels=max_labels,
        seed=seed,
        block_arcmin=block_arcmin,
        train_select=train_select,
    )


def inputs_of(
    dataset: Dataset,
    options: LearningOptions,
    *,
    store: str | Path | None,
    embedder_features: str | Path | None,
    templates: bool,
) -> Inputs:
    """Say what the methods will be given, before it is measured."""
    source = dataset.source
    info = None if store is None else check_store(store, source.bands)
    return Inputs(
        bands=source.bands if info is None else info.bands,
        pixels=None if info is None else info.size,
        feature_sets=available_sets(
            source.columns,
            cutouts=store is not None,
            templates=templates,
            embedder=embedder_features is not None,
        ),
        options=options,
    )


def with_measurements(
    dataset: Dataset,
    options: LearningOptions,
    *,
    store: str | Path | None,
    embedder_features: str | Path | None,
    templates: bool,
    photometry: str | Path | None = None,
    progress: Progress = silent,
) -> Dataset:
    """Add what is measured in the cutouts, and the embedder's latents, where these are given."""
    source = complete_source(
        dataset.source,
        store=store,
        embedder_features=embedder_features,
        photometry=photometry,
        template_filters=options.filters if templates else None,
        progress=progress,
    )
    return replace(dataset, source=source)
