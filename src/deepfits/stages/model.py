"""The stage `model`: what a model is, what it was trained on, how good it is and what it fits."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from pathlib import Path

from deepfits.stages.stage import Common, stage


@dataclass(frozen=True)
class ModelCardConfig(Common):
    """What `model` takes.

    Parameters
    ----------
    model
        A model, from `train`, or ``builtin:NAME``; without one, the models that came with the package are
        listed.
    store
        Cutouts: say whether the model can be fitted to them, and if not, what to do.
    """

    model: str | Path | None = None
    _: KW_ONLY
    store: str | Path | None = None


@stage(ModelCardConfig)
def model(config: ModelCardConfig) -> str:
    """Describe a model: its cutouts, networks, training, and measures on held-out objects.

    Returns
    -------
    str
        The model's card, in Markdown.

    Raises
    ------
    InputError
        No model there, or cutouts that do not fit it; every reason is given.

    Examples
    --------
    `deepfits model run/model`

    Can it be fitted to my cutouts? `deepfits model builtin:clauds-hsc --store run/cutouts`
    """
    from deepfits.models.bundle import BUILTIN_PREFIX, Model, list_builtin
    from deepfits.models.card import describe
    from deepfits.survey.store import read_info

    if config.model is None:
        return "\n".join(f"{BUILTIN_PREFIX}{name}" for name in list_builtin())
    loaded = Model.load(config.model)
    parts = [describe(loaded, f"Model {config.model}").rstrip()]
    if config.store is not None:
        cautions = loaded.check(read_info(config.store))
        lines = [f"- {caution}" for caution in cautions or ["nothing stands against it"]]
        parts.append("\n".join([f"## Fits {config.store}", "", *lines]))
    return "\n\n".join(parts)
