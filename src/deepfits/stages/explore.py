"""Stage `explore`: a local web page to browse the features of a survey and to save selections."""

import errno
import logging
import secrets
import socket
import webbrowser
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from threading import Thread, Timer
from typing import TYPE_CHECKING, Annotated

from deepfits.config import Range
from deepfits.errors import InputError
from deepfits.stages.parameters import OfRun
from deepfits.stages.stage import stage

if TYPE_CHECKING:
    from deepfits.explorer.drawing import Drawer

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ExploreConfig(OfRun):
    """Parameters of `explore`."""

    _: KW_ONLY
    images: str | Path | None = None
    """Images that the cutouts were made from, if they are not in the run directory. Needed to cut out and fit
    an object at any position."""
    host: str = "127.0.0.1"
    """Address to serve on. If it is not the local host, the page requires a token, which is part of the
    address that is printed."""
    port: Annotated[int, Range(ge=0, le=65535)] = 8642
    """Port to serve on; 0 selects a free one."""
    open_browser: bool = True
    """Open the page in a browser."""
    samp: bool = False
    """Allow the page to send selections to TOPCAT and positions to Aladin on this machine, through SAMP."""


@stage(ExploreConfig)
def explore(config: ExploreConfig) -> None:
    """Browse the features of a survey on a local web page with a map of all objects; Ctrl-C ends it.

    Shows each object with its images, best fit and residual; finds similar and unusual objects; walks through
    latent space; overlays your catalogues by position; and saves selections and tags for other programs. The
    page needs no internet connection, and is served to other machines only if `host` says so.

    Raises
    ------
    InputError
        No features, unfinished results, a model that did not make the features, a port that is in use, or a
        missing package.

    Examples
    --------
    The demonstration: `deepfits explore demo`

    Features without a run directory: `deepfits explore features --store cutouts --model builtin:clauds-hsc`
    """
    import uvicorn

    from deepfits.explorer.launch import load_drawer, load_objects
    from deepfits.explorer.samp import LOCAL_HOSTS
    from deepfits.explorer.server import make_app

    host, run = config.host, Path(config.run)
    is_local = host in LOCAL_HOSTS
    if config.samp and not is_local:
        raise InputError(f"SAMP works on this machine only: leave out --samp, or --host {host}")
    token = None if is_local else secrets.token_urlsafe(24)
    objects = load_objects(run, store=config.store, predictions=config.predictions, partial=config.partial)
    drawer: Future[Drawer | None] = Future()
    app = make_app(objects, drawer, title=f"deepfits: {run.resolve().name}", token=token, is_samp=config.samp)
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", access_log=False, server_header=False))

    def prepare() -> None:
        try:
            drawer.set_result(load_drawer(objects, run, model=config.model, images=config.images))
        except Exception as error:  # stop the server; the error is raised below
            drawer.set_exception(error)
            server.should_exit = True

    with _bound_socket(host, config.port) as bound:
        address = f"http://{host}:{bound.getsockname()[1]}/" + (f"?token={token}" if token else "")
        number = len(objects)
        log.info("%d object%s: %s (Ctrl-C ends it)", number, "s" * (number != 1), address)
        if config.open_browser and is_local:
            Timer(0.5, webbrowser.open, [address]).start()
        Thread(target=prepare, daemon=True).start()
        with suppress(KeyboardInterrupt):  # the normal way to stop the server
            server.run(sockets=[bound])
        if drawer.done():
            drawer.result()


def _bound_socket(host: str, port: int) -> socket.socket:
    """Bind a port; raise an error with a remedy if it is not available."""
    bound = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind((host, port))
    except OSError as error:
        bound.close()
        other = "port" if error.errno in (errno.EADDRINUSE, errno.EACCES) else "host"
        raise InputError(
            f"port {port} of {host} is not available ({error.strerror}); name another with --{other}"
        ) from error
    return bound
