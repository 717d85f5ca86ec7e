"""The stage `explore`: a local page on which a survey's features are looked at, selected and saved."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from pathlib import Path

from deepfits.stages.parameters import Partial
from deepfits.stages.stage import stage


@dataclass(frozen=True)
class ExploreConfig(Partial):
    """What `explore` takes.

    Parameters
    ----------
    run
        A run directory (its ``features-both/``, ``cutouts/``, ``model/`` and ``redshift/`` are found, and
        what `redshift predict` and `property predict` wrote into it), or the directory of features that `fit`
        wrote.
    store
        The cutouts of the features, where they lie elsewhere; pictures need them.
    model
        The model of the features, where it lies elsewhere; drawing needs it.
    images
        The images that the cutouts were cut from, where they lie elsewhere than in the run: positions that
        are asked for are cut out of them and fitted.
    predictions
        Predictions of redshifts or properties that lie elsewhere than in the run.
    host
        Address to serve on. On another one than this machine's own, the page asks for a token.
    port
        Port to serve on; 0 takes a free one.
    open_browser
        Open the page in a browser.
    samp
        Let the page hand selections to a TOPCAT and positions to an Aladin that run on this machine.
    """

    run: str | Path
    _: KW_ONLY
    store: str | Path | None = None
    model: str | Path | None = None
    images: str | Path | None = None
    predictions: Sequence[str | Path] = ()
    host: str = "127.0.0.1"
    port: int = 8642
    open_browser: bool = True
    samp: bool = False


@stage(ExploreConfig)
def explore(config: ExploreConfig) -> None:
    """Look at a survey's features: a local page with a map of all objects, until Ctrl-C.

    Every object with its images, best fit and residual; objects that look alike, and odd ones; walks through
    the latent; catalogues laid over by position; selections and tags saved for other programs. Nothing is
    loaded from elsewhere, and nothing is served to other machines unless `host` says so.

    Raises
    ------
    InputError
        No features there, results that are not finished, a model that did not make them, a port that is
        taken, or a package that is missing.

    Examples
    --------
    The demonstration: `deepfits explore demo`

    Features with cutouts elsewhere: `deepfits explore features --store cutouts --model builtin:clauds-hsc`
    """
    from deepfits.explorer.launch import serve

    serve(
        config.run,
        store=config.store,
        model=config.model,
        images=config.images,
        host=config.host,
        port=config.port,
        open_browser=config.open_browser,
        samp=config.samp,
        predictions=config.predictions,
        partial=config.partial,
    )
