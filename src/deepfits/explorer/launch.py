"""Load the objects of a run, and the model that draws them, for the explorer."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from deepfits.config import from_mapping
from deepfits.errors import InputError
from deepfits.explorer.coadds import find_images
from deepfits.explorer.joined import find_parts, join
from deepfits.explorer.objects import Objects
from deepfits.explorer.redshifts import find_distributions
from deepfits.fitting.features import DESCRIPTION, read_settings
from deepfits.fitting.settings import FitSettings

if TYPE_CHECKING:
    from deepfits.explorer.drawing import Drawer


def load_objects(
    run: str | Path,
    *,
    store: str | Path | None = None,
    predictions: Sequence[str | Path] = (),
    partial: bool = False,
) -> Objects:
    """Return the objects of a run, with their redshift distributions."""
    parts = find_parts(run, store)
    given = {Path(path).stem: Path(path) for path in predictions}
    objects = Objects(join(run, store=store, tables=given, partial=partial))
    predicted = {label: path for label, path in parts.tables.items() if label != "truth"}
    model_hash = read_settings(parts.features).get("model_hash")
    objects.distributions = find_distributions(parts.home, given | predicted, model_hash)
    return objects


def load_drawer(
    objects: Objects, run: str | Path, *, model: str | Path | None = None, images: str | Path | None = None
) -> Drawer | None:
    """Load the model and return the drawer of objects, which takes seconds; None without a store."""
    if objects.store is None:
        return None
    from deepfits.explorer.drawing import Drawer
    from deepfits.models.bundle import Model, find_builtin

    parts = find_parts(run, objects.store.directory, model)
    settings = read_settings(parts.features)
    known = {name: settings[name] for name in FitSettings.__dataclass_fields__ if name in settings}
    wanted = settings.get("model_hash")
    trained = find_builtin(wanted) if parts.model is None else Model.load(parts.model)
    if trained is not None and wanted and wanted != trained.fingerprint:
        raise InputError(
            f"{parts.model}: is not the model that {parts.features} was fitted with ({wanted}); give that "
            "one with --model"
        )
    fit = from_mapping(FitSettings, {**known, "mode": "both"}, where=parts.features / DESCRIPTION)
    return Drawer(objects, trained, fit, images or find_images(parts.home))
