"""The stage `explore`: a local page on which a survey's features are looked at, selected and saved."""

from __future__ import annotations

import logging
import secrets
import socket
import webbrowser
from collections.abc import Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from threading import Thread, Timer
from typing import TYPE_CHECKING, Annotated

from deepfits.config import Range
from deepfits.errors import InputError
from deepfits.stages.parameters import Partial
from deepfits.stages.stage import stage

if TYPE_CHECKING:
    from deepfits.explorer.drawing import Drawer

log = logging.getLogger(__name__)


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
    port: Annotated[int, Range(ge=0, le=65535)] = 8642
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
    try:
        import uvicorn

        from deepfits.explorer.launch import load_drawer, load_objects
        from deepfits.explorer.samp import LOCAL_HOSTS
        from deepfits.explorer.server import make_app
    except ImportError as error:
        raise InputError(
            f"the explorer needs more packages: pip install 'deepfits[explore]' ({error})"
        ) from error

    host, run = config.host, Path(config.run)
    is_local = host in LOCAL_HOSTS
    if config.samp and not is_local:
        raise InputError(f"SAMP is for this machine alone: leave out --samp, or --host {host}")
    token = None if is_local else secrets.token_urlsafe(24)
    objects = load_objects(run, store=config.store, predictions=config.predictions, partial=config.partial)
    drawer: Future[Drawer | None] = Future()
    app = make_app(
        objects,
        drawer,
        title=f"deepfits: {run.resolve().name}",
        hosts=None if is_local else ["*"],
        token=token,
        is_samp=config.samp,
    )
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", access_log=False, server_header=False))

    def prepare() -> None:
        try:
            drawer.set_result(load_drawer(objects, run, model=config.model, images=config.images))
        except Exception as error:  # ends the server, and is raised below
            drawer.set_exception(error)
            server.should_exit = True

    with _bound_socket(host, config.port) as bound:
        address = f"http://{host}:{bound.getsockname()[1]}/" + (f"?token={token}" if token else "")
        log.info("%d objects: %s (Ctrl-C ends it)", len(objects), address)
        if config.open_browser and is_local:
            Timer(0.5, webbrowser.open, [address]).start()
        Thread(target=prepare, daemon=True).start()
        with suppress(KeyboardInterrupt):  # Ctrl-C is how it ends
            server.run(sockets=[bound])
        if drawer.done():
            drawer.result()


def _bound_socket(host: str, port: int) -> socket.socket:
    """Take a port, or say that it is not to be had."""
    bound = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind((host, port))
    except OSError as error:
        bound.close()
        raise InputError(
            f"port {port} of {host} is not available ({error.strerror}); name another with --port"
        ) from error
    return bound
