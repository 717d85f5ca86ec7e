"""deepfits: deep features of galaxies through best fits (after Murray, Fabbro & Yi 2019).

Each stage of the method is one function here and one command of ``deepfits``, with the same name and the
same arguments: `simulate`, `stack`, `check`, `detect`, `cutouts`, `train`, `calibrate`, `fit`, `inpaint`,
`redshift`, `export`, `plan`, `report`, `explore`, `show`, `similar`, `odd`, `model`, `run` and `demo`. The
package also gives access to their outputs (`Model`, `CutoutStore`, `read_features`, `join`) and makes figures
(`plot`). Submodules are imported on first use.
"""

from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from deepfits.stages import MODULES, load

if TYPE_CHECKING:
    from deepfits import plot as plot
    from deepfits.explorer.joined import join as join
    from deepfits.explorer.joined import read_features as read_features
    from deepfits.models.bundle import Model as Model
    from deepfits.stages.calibrate import calibrate as calibrate
    from deepfits.stages.check import check as check
    from deepfits.stages.cutouts import cutouts as cutouts
    from deepfits.stages.detect import detect as detect
    from deepfits.stages.explore import explore as explore
    from deepfits.stages.export import export as export
    from deepfits.stages.fit import fit as fit
    from deepfits.stages.inpaint import inpaint as inpaint
    from deepfits.stages.model import model as model
    from deepfits.stages.plan import plan as plan
    from deepfits.stages.redshifts.classes import redshift_classes as redshift_classes
    from deepfits.stages.redshifts.compare import redshift as redshift
    from deepfits.stages.redshifts.curves import redshift_curves as redshift_curves
    from deepfits.stages.redshifts.evaluate import redshift_evaluate as redshift_evaluate
    from deepfits.stages.redshifts.predict import redshift_predict as redshift_predict
    from deepfits.stages.redshifts.pretrain import redshift_pretrain as redshift_pretrain
    from deepfits.stages.redshifts.train import redshift_train as redshift_train
    from deepfits.stages.report import report as report
    from deepfits.stages.run import demo as demo
    from deepfits.stages.run import run as run
    from deepfits.stages.show import odd as odd
    from deepfits.stages.show import show as show
    from deepfits.stages.show import similar as similar
    from deepfits.stages.simulate import simulate as simulate
    from deepfits.stages.stack import stack as stack
    from deepfits.stages.train import train as train
    from deepfits.survey.store import CutoutStore as CutoutStore

__version__ = "0.1.0"

_NAMES = {
    "CutoutStore": "deepfits.survey.store",
    "Model": "deepfits.models.bundle",
    "join": "deepfits.explorer.joined",
    "read_features": "deepfits.explorer.joined",
}
__all__ = ["__version__", "plot", *_NAMES, *MODULES]


def __getattr__(name: str) -> Any:
    if name in MODULES:
        return load(name)
    if name in _NAMES:
        return getattr(import_module(_NAMES[name]), name)
    if not name.startswith("_") and find_spec(f"deepfits.{name}") is not None:
        return import_module(f"deepfits.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
