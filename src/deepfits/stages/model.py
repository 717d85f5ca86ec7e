"""Stage `model`: describe a model, and check whether it suits a cutout store."""

from dataclasses import KW_ONLY, dataclass
from pathlib import Path

from deepfits.stages.stage import Common, stage


@dataclass(frozen=True)
class ModelCardConfig(Common):
    """Parameters of `model`."""

    model: str | Path | None = None
    """A model from `train`, or ``builtin:NAME``. Without it, the models shipped with the package are
    listed."""
    _: KW_ONLY
    store: str | Path | None = None
    """Cutout store to check the model against. If the model cannot be fitted to it, the reasons and remedies
    are given."""


@stage(ModelCardConfig)
def model(config: ModelCardConfig) -> str:
    """Describe a model: its training data, networks, training, and performance on held-out objects.

    Returns
    -------
    str
        The model card, in Markdown.

    Raises
    ------
    InputError
        No model at this path, or a store that the model cannot be fitted to; all reasons are listed.

    Examples
    --------
    Models shipped with the package: `deepfits model`

    Your own: `deepfits model run/model`

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
        lines = [f"- {caution}" for caution in cautions or ["compatible: no objections"]]
        parts.append("\n".join([f"## Fits {config.store}", "", *lines]))
    return "\n\n".join(parts)
