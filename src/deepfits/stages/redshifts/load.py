"""Training data of the redshift stages: features joined with labels, split, and measured on cutouts."""

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from deepfits.errors import InputError
from deepfits.fitting.similarity import Similarity
from deepfits.redshifts.dataset import Dataset, make_dataset
from deepfits.redshifts.features import available_sets, read_features
from deepfits.redshifts.inputs import can_match, check_store, complete_source, known_filters, with_filters
from deepfits.redshifts.labels import is_text, read_labels
from deepfits.redshifts.method import Inputs
from deepfits.redshifts.methods.pretrained import find_head
from deepfits.redshifts.methods.templates import filters_of
from deepfits.redshifts.options import LearningOptions
from deepfits.redshifts.scene_light import SceneLight
from deepfits.stages.redshifts.parameters import Labelled, Learning
from deepfits.stages.stage import part_of
from deepfits.tables import read, require_column
from deepfits.tables.entries import GAPS, is_number
from deepfits.tables.values import is_redshift_name

log = logging.getLogger(__name__)


def load_dataset(config: Labelled, *, classes: bool = False, **enough: int) -> Dataset:
    """Read, join and split features and labels; nothing is measured on cutouts yet.

    `enough` may be `fewest` and `fewest_to_test` of `deepfits.redshifts.split.split_objects`.
    """
    dataset = make_dataset(
        with_filters(read_features(config.features), getattr(config, "filters", ())),
        read_labels(config.labels, column=config.label_column, select=config.select, classes=classes),
        match=config.match,
        radius_arcsec=config.match_radius_arcsec,
        max_labels=config.max_labels,
        seed=config.seed,
        block_arcmin=config.block_arcmin,
        train_select=config.train_select,
        **enough,
    )
    length = dataset.source.columns["latent"].shape[1]
    place = Path(config.features)
    similarity = Similarity.read(place if place.is_dir() else place.parent, length).matrix
    return replace(dataset, source=replace(dataset.source, similarity=similarity))


def is_of_classes(path: str | Path, column: str) -> bool:
    """Return whether a target is a class: a column of names or booleans that is not a redshift."""
    if is_redshift_name(column):
        return False
    value = require_column(read(path, what="table of labels", wanted=(column,)).columns, column, path)
    named = [entry for entry in value.tolist() if is_text(value) and entry.lower() not in GAPS]
    return value.dtype.kind == "b" or (bool(named) and not any(map(is_number, named)))


def inputs_of(dataset: Dataset, config: Labelled, *, templates: bool = False) -> Inputs:
    """Describe the inputs of the methods, before anything is measured."""
    source = dataset.source
    info = None if config.store is None else check_store(config.store, source.bands)
    options = part_of(config, LearningOptions)
    return Inputs(
        bands=source.bands if info is None else info.bands,
        pixels=None if info is None else info.size,
        feature_sets=available_sets(
            source.columns,
            cutouts=info is not None,
            matched=info is not None and can_match(info),
            templates=templates,
            embedder=config.embedder_features is not None,
        ),
        options=replace(options, filters=tuple(options.filters) or known_filters(source.columns)),
        target=config.label_column,
        model_hash=dataset.model_hash,
    )


def has_head(dataset: Dataset, config: Learning) -> bool:
    """Return whether a head serves these features, or is given (and refused later, if it does not)."""
    if not is_redshift_name(config.label_column):
        return False
    try:
        SceneLight.of(dataset.source, find_head(config.head, dataset.model_hash).bands)
    except InputError:
        return config.head is not None
    return True


def warn_of_default_filters(inputs: Inputs) -> None:
    """Warn that templates are fitted through filters that may not be those of the images."""
    if not inputs.options.filters:
        log.warning(
            "WARNING: the filters of the images are not known: templates are fitted through those of CLAUDS "
            "and HSC, %s; if the images have others, give filters, one for each band",
            ", ".join(filters_of(inputs.bands)),
        )


def with_measurements(
    dataset: Dataset, config: Labelled, *, template_filters: Sequence[str] | None = None
) -> Dataset:
    """Add measurements of the cutouts, and the embedder's latents, if these inputs are given."""
    source = part_of(config, complete_source, source=dataset.source, template_filters=template_filters)
    return replace(dataset, source=source)


def fingerprints(config: Learning) -> dict[str, Any]:
    """Return the fingerprint of the model, a path or ``builtin:NAME``."""
    if config.model is None:
        return {}
    from deepfits.models.bundle import Model

    return {"model": Model.load(config.model).fingerprint}


def parse_names(given: str | Sequence[str] | None) -> list[str]:
    """Parse names given as a list, or as text such as ``latents,model`` or ``[latents, model]``."""
    parts = [given] if isinstance(given, str) else list(given or ())
    return [name for part in parts for text in part.strip("[] ").split(",") if (name := text.strip(" '\""))]
