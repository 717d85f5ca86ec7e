"""The redshift methods, one module each; a new one is a subclass of `Method`, listed in `METHODS`."""

from deepfits.redshifts.features import FEATURE_SETS
from deepfits.redshifts.method import Method
from deepfits.redshifts.methods.adapted import Adapted
from deepfits.redshifts.methods.boosting import Boosting
from deepfits.redshifts.methods.constant import Constant
from deepfits.redshifts.methods.images import Hybrid, Scratch, SemiSupervised, WideResNetOnImages
from deepfits.redshifts.methods.neighbours import Neighbours
from deepfits.redshifts.methods.network import MLPEnsemble
from deepfits.redshifts.methods.pretrained import Pretrained
from deepfits.redshifts.methods.stack import STACKS as STACKS
from deepfits.redshifts.methods.stack import Stack
from deepfits.redshifts.methods.templates import TemplateFit
from deepfits.redshifts.methods.tpot import TpotModel

METHODS: dict[str, type[Method]] = {
    method.name: method
    for method in (
        Constant,
        Boosting,
        MLPEnsemble,
        TpotModel,
        Neighbours,
        WideResNetOnImages,
        SemiSupervised,
        Scratch,
        Hybrid,
        Stack,
        TemplateFit,
        Pretrained,
        Adapted,
    )
}
"""Methods by name, in the order of the table."""


def uses_templates(method: str, feature_set: str) -> bool:
    """Return whether a method's features include the quantiles of template fitting."""
    keys = STACKS.get(feature_set, ()) if method == Stack.name else ((method, feature_set),)
    return any(
        METHODS[member].takes_features and "templates" in FEATURE_SETS.get(name, ()) for member, name in keys
    )
