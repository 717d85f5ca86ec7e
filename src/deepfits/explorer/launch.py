"""Collect a run for the explorer, and serve it."""

from __future__ import annotations

import logging
import secrets
import socket
import webbrowser
from collections.abc import Sequence
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path
from threading import Thread, Timer
from typing import TYPE_CHECKING

from deepfits.config import from_mapping
from deepfits.errors import InputError
from deepfits.explorer.coadds import find_images
from deepfits.explorer.joined import find_parts, join
from deepfits.explorer.objects import Objects
from deepfits.explorer.redshifts import find_distributions
from deepfits.fitting.features import DESCRIPTION, read_settings

if TYPE_CHECKING:
    from deepfits.explorer.drawing import Drawer

log = logging.getLogger(__name__)


def load(
    run: str | Path,
    *,
    store: str | Path | None = None,
    model: str | Path | None = None,
    images: str | Path | None = None,
    predictions: Sequence[str | Path] = (),
    partial: bool = False,
) -> tuple[Objects, Drawer | None]:
    """Return the objects of a run, and their drawer (None without a store).

    Raises
    ------
    InputError
        Features, store or redshifts that are not finished, unless `partial`.
    """
    objects = _load_objects(run, store, model, predictions, partial)
    return objects, load_drawer(objects, run, model=model, images=images)


def _load_objects(
    run: str | Path,
    store: str | Path | None,
    model: str | Path | None,
    predictions: Sequence[str | Path],
    partial: bool,
) -> Objects:
    features, _, _, tables = find_parts(run, store, model)
    given = {Path(path).stem: Path(path) for path in predictions}
    objects = Objects(join(run, store=store, tables=given, partial=partial))
    tables.pop("truth", None)
    model_hash = read_settings(features).get("model_hash")
    objects.distributions = find_distributions(features, given | tables, model_hash)
    return objects


def load_drawer(
    objects: Objects,
    run: str | Path,
    *,
    model: str | Path | None = None,
    images: str | Path | None = None,
) -> Drawer | None:
    """Return what draws objects: PyTorch and the model take seconds to load. None without a store.

    Raises
    ------
    InputError
        A model that did not make the features.
    """
    if objects.store is None:
        return None
    from deepfits.explorer.drawing import Drawer
    from deepfits.fitting.settings import FitSettings
    from deepfits.models.bundle import Model, find_builtin

    features, _, model_path, _ = find_parts(run, objects.store.directory, model)
    settings = read_settings(features)
    known = {name: settings[name] for name in FitSettings.__dataclass_fields__ if name in settings}
    wanted = settings.get("model_hash")
    trained = find_builtin(wanted) if model_path is None else Model.load(model_path)
    if trained is not None and wanted and wanted != trained.fingerprint:
        raise InputError(
            f"{model_path}: is not the model that {features} was fitted with ({wanted}); give that one "
            "with --model"
        )
    fit = from_mapping(FitSettings, {**known, "mode": "both"}, where=features / DESCRIPTION)
    home = features.parent if features == Path(run) else Path(run)
    return Drawer(objects, trained, fit, images or find_images(home))


def serve(
    run: str | Path,
    *,
    store: str | Path | None = None,
    model: str | Path | None = None,
    images: str | Path | None = None,
    host: str = "127.0.0.1",
    port: int = 8642,
    open_browser: bool = True,
    samp: bool = False,
    predictions: Sequence[str | Path] = (),
    partial: bool = False,
) -> None:
    """Serve the explorer until it is interrupted."""
    try:
        import uvicorn

        from deepfits.explorer.server import make_app
    except ImportError as error:
        raise InputError(
            f"the explorer needs more packages: pip install 'deepfits[explore]' ({error})"
        ) from error

    is_local = host in ("127.0.0.1", "localhost", "::1")
    if samp and not is_local:
        raise InputError(f"SAMP is for this machine alone: leave out --samp, or --host {host}")
    token = None if is_local else secrets.token_urlsafe(24)
    objects = _load_objects(run, store, model, predictions, partial)
    drawer: Future[Drawer | None] = Future()
    app = make_app(
        objects,
        drawer,
        title=f"deepfits: {Path(run).resolve().name}",
        hosts=None if is_local else ["*"],
        token=token,
        is_samp=samp,
    )
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as chosen:
        chosen.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            chosen.bind((host, port))
        except OSError as error:
            raise InputError(
                f"port {port} of {host} is not available ({error.strerror}); name another with --port"
            ) from error
        address = f"http://{host}:{chosen.getsockname()[1]}/" + (f"?token={token}" if token else "")
        log.info("%d objects: %s (Ctrl-C ends it)", len(objects), address)
        if open_browser and is_local:
            Timer(0.5, webbrowser.open, [address]).start()
        config = uvicorn.Config(app, log_level="warning", access_log=False, server_header=False)
        server = uvicorn.Server(config)

        def prepare() -> None:
            try:
                drawer.set_result(load_drawer(objects, run, model=model, images=images))
            except Exception as error:  # ends the server, and is raised below
                drawer.set_exception(error)
                server.should_exit = True

        Thread(target=prepare, daemon=True).start()
        with suppress(KeyboardInterrupt):  # Ctrl-C is how it ends
            server.run(sockets=[chosen])
        if drawer.done():
            drawer.result()
