"""The explorer's server: a single page, and the data that it requests.

By default it listens on this machine only. The host of every request must be an allowed name, against DNS
rebinding; POST requests must carry a custom header, which pages of other sites cannot send; and a server on
any other address requires a token.
"""

from __future__ import annotations

import asyncio
import atexit
import base64
import hmac
import json
import re
import shutil
import tempfile
import threading
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import Future
from functools import wraps
from importlib import resources
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, RedirectResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from deepfits.errors import InputError, explain, require_known
from deepfits.explorer import samp
from deepfits.explorer.coadds import read_place
from deepfits.explorer.objects import Objects, json_value, unlike_warning
from deepfits.explorer.oddity import rank
from deepfits.explorer.uploads import MAX_UPLOAD_BYTES, read_dropped
from deepfits.files import parse_json
from deepfits.fitting.columns import Column
from deepfits.photometry import ab_magnitude, bands_of
from deepfits.tables import positions, read, with_standard_names, write_table

if TYPE_CHECKING:
    from deepfits.explorer.drawing import Drawer, Dropped

MAX_ROWS = 2_000_000
MAX_PICTURES = 96
MAX_MARKS = 20_000
SAVE_FORMATS = ("csv", "parquet", "fits", "votable", "ids")
DRAWING = ("drawer", "panels", "strip", "walk", "between", "upload", "position")
"""Requests that wait until the drawer is loaded."""
HEADER = "x-deepfits"
_STATIC = resources.files("deepfits.explorer") / "static"
COOKIE = "deepfits-token"
_LOCAL_HOSTS = [f"[{host}]" if ":" in host else host for host in samp.LOCAL_HOSTS]  # as in a header
_POLICY = (
    "default-src 'self'; img-src 'self' data: blob:; style-src 'self' 'unsafe-inline'; "
    # regl compiles its draw calls, which needs unsafe-eval; scripts still load from this server only.
    "script-src 'self' 'unsafe-eval'; worker-src 'self' blob:; frame-ancestors 'none'"
)

Content = Response | dict[str, Any] | bytes
Handler = Callable[[Request], Content]


def make_app(
    objects: Objects,
    drawer: Drawer | Future[Drawer | None] | None,
    *,
    title: str,
    token: str | None = None,
    is_samp: bool = False,
) -> Starlette:
    """Return the application that serves one run.

    The drawer may still be loading; without one there are no images. The token is required in the address
    (``?token=…``) of the first visit, and then kept in a cookie; without one, only requests to the local
    machine are answered. With `is_samp` the page may send data to other programs on this machine.
    """
    explorer = _Explorer(objects, drawer, title, is_samp)
    gets = ["about", "drawer", "column/{name:path}", "object/{row:int}", "panels/{row:int}.png", "strip.png"]
    gets += ["walk.png", "between.png", "odd", "find", "unmatched"]
    posts = ("neighbours", "save", "tag", "overlay", "upload", "position", "samp", "umap")

    def route(path: str, method: str) -> Route:
        name = re.split(r"[/.]", path)[0]
        before = explorer.loaded if name in DRAWING else None
        return Route(f"/api/{path}", _guarded(getattr(explorer, name), token, before), methods=[method])

    routes = [
        Route("/", _guarded(explorer.page, token)),
        *(route(path, "GET") for path in gets),
        *(route(path, "POST") for path in posts),
        Mount("/static", StaticFiles(directory=str(_STATIC))),
    ]
    hosts = _LOCAL_HOSTS if token is None else ["*"]
    middleware = [
        Middleware(TrustedHostMiddleware, allowed_hosts=hosts, www_redirect=False),
        Middleware(GZipMiddleware, minimum_size=2000, compresslevel=1),
    ]
    return Starlette(routes=routes, middleware=middleware)


def _guarded(
    handler: Handler, token: str | None, before: Callable[[], Awaitable[None]] | None = None
) -> Callable[[Request], Awaitable[Response]]:
    """Check the token and the header, answer in a thread of its own, and turn user errors into messages.

    `before` is awaited first. The handler finds the body of a POST request in its ``state``.
    """

    @wraps(handler)
    async def guarded(request: Request) -> Response:
        if token is not None:
            given = request.query_params.get("token")
            if given is not None and hmac.compare_digest(given, token) and request.url.path == "/":
                welcome = RedirectResponse("/", status_code=303)
                welcome.set_cookie(COOKIE, token, httponly=True, samesite="strict")
                return welcome
            if not hmac.compare_digest(request.cookies.get(COOKIE, ""), token):
                return JSONResponse({"error": "open the address with its token"}, status_code=403)
        if request.method == "POST" and request.headers.get(HEADER) != "1":
            return JSONResponse({"error": f"the header {HEADER} is missing"}, status_code=403)
        try:
            if request.method == "POST":
                request.state.body = await _body(request)
            if before is not None:
                await before()
            answer = await run_in_threadpool(lambda: _response(handler(request)))
        except (ValueError, KeyError, TypeError, OSError) as error:
            said = explain(error) or f"invalid request ({error})"
            return JSONResponse({"error": said}, status_code=400)
        answer.headers["Content-Security-Policy"] = _POLICY
        answer.headers["X-Content-Type-Options"] = "nosniff"
        answer.headers.setdefault("Cache-Control", "no-store")
        return answer

    return guarded


class _Explorer:
    """Handlers of the page's requests."""

    def __init__(
        self, objects: Objects, drawer: Drawer | Future[Drawer | None] | None, title: str, is_samp: bool
    ) -> None:
        self.objects, self._drawer, self.title, self.is_samp = objects, drawer, title, is_samp
        self._sent: Path | None = None
        self._unmatched: dict[str, np.ndarray] = {}
        self.umap_state = "done" if "umap1" in objects.names else "absent"
        self._starting = threading.Lock()

    def page(self, request: Request) -> Response:
        return FileResponse(str(_STATIC / "index.html"))

    def about(self, request: Request) -> dict[str, Any]:
        objects, store = self.objects, self.objects.store
        return {
            "title": self.title,
            "num_objects": len(objects),
            "num_fitted": int(objects.is_fitted.sum()),
            "columns": objects.names,
            "words": {name: text for name in objects.names if (text := self._words(name))},
            "bands": list(objects.bands if store is None else store.info.bands),
            "has_pictures": store is not None,
            "num_directions": len(objects.principal[1]),
            "num_tagged": len(objects.tags),
            "umap": self.umap_state,
            "samp": self.is_samp,
        }

    def _words(self, name: str) -> str:
        """Describe a column and its table of origin."""
        origin, about = self.objects.table.origin[name], self.objects.table.describe(name)
        words = f"{about.words} [{about.unit}]" if about.words and about.unit else about.words
        return "; ".join(part for part in (words, f"from {origin}" if origin else "") if part)

    def drawer(self, request: Request) -> dict[str, Any]:
        """Return what can be drawn, once the model is loaded."""
        drawer = None if self.objects.store is None else self._ready()
        has_model = drawer is not None and drawer.model is not None
        return {
            "has_model": has_model,
            "has_scenes": drawer is not None and drawer.draws_scenes,
            "has_images": has_model and drawer is not None and drawer.images_path is not None,
            "drawn_fwhm_arcsec": None if drawer is None else drawer.drawn_fwhm_arcsec,
        }

    def column(self, request: Request) -> Response:
        """Send a column as little-endian float32, with how to display it in a header."""
        info = self.objects.describe(request.path_params["name"])
        body = self.objects.as_float32(info).astype("<f4").tobytes()
        headers = {"X-Column": json.dumps(info), "Content-Encoding": "identity"}  # hardly compressible
        return Response(body, media_type="application/octet-stream", headers=headers)

    def object(self, request: Request) -> dict[str, Any]:
        row = self._row(request.path_params["row"])
        identity = str(self.objects.object_id[row])
        pdf, why = self.objects.redshift(row)
        return {
            "row": row,
            "object_id": identity,
            "facts": self.objects.facts(row),
            "latent": [json_value(value) for value in self.objects.latent[row].astype(float)],
            "tag": self.objects.tags.get(identity),
            "redshift": pdf,
            "why": why,
        }

    def panels(self, request: Request) -> bytes:
        return self._ready().panels(self._row(request.path_params["row"]))

    def strip(self, request: Request) -> bytes:
        text = request.query_params["rows"]
        rows = [self._row(int(row)) for row in text.split(",")[:MAX_PICTURES]]
        columns = max(1, min(24, int(request.query_params.get("columns", "8"))))
        return self._ready().strip(rows, columns=columns)

    def walk(self, request: Request) -> bytes:
        query = request.query_params
        row, end = (self._row(int(query[name])) if query.get(name) else None for name in ("row", "end"))
        offsets = [_bounded(offset, 20) for offset in query.get("offsets", "0").split(",")]
        way, seeing_and_noise = _bounded(query.get("way", "0"), 2), _seeing_and_noise(query)
        return self._ready().walk(row, offsets, end=end, way=way, **seeing_and_noise)

    def between(self, request: Request) -> bytes:
        query = request.query_params
        first, second = (self._row(int(query[name])) for name in ("first", "second"))
        return self._ready().between(first, second, **_seeing_and_noise(query))

    def odd(self, request: Request) -> dict[str, Any]:
        number = max(1, min(MAX_PICTURES, int(request.query_params.get("number", "48"))))
        where = request.query_params.getlist("where") or None
        everything = request.query_params.get("everything") == "1"
        ranking = rank(self.objects, number, self.objects.satisfying(where), everything=everything)
        columns = zip(ranking.rows.tolist(), ranking.score.tolist(), ranking.why, strict=True)
        answer = [{"row": row, "score": score, "why": why} for row, score, why in columns]
        return {"objects": answer, "left_out": ranking.left_out}

    def find(self, request: Request) -> dict[str, Any]:
        """Find an object by its identity or its position."""
        text = request.query_params["what"].strip()[:200]
        row, separation = self.objects.find(text)
        return {"row": row} | ({} if separation is None else {"separation_arcsec": separation})

    def neighbours(self, request: Request) -> dict[str, Any]:
        content = _json(request)
        like = [self._row(row) for row in content["like"]]
        unlike = [self._row(row) for row in content.get("unlike", [])]
        window, where = content.get("magnitude_window"), content.get("where") or None
        if where is not None and not (isinstance(where, list) and all(isinstance(c, str) for c in where)):
            raise InputError("conditions must be a list of strings")
        rows, distance = self.objects.neighbours(
            like,
            unlike=unlike,
            number=max(1, min(1000, int(content.get("number", 24)))),
            magnitude_window=None if window is None else float(window),
            allowed=self.objects.satisfying(where),
        )
        return _nearest(rows, distance)

    def save(self, request: Request) -> Response:
        """Send the selected objects as a file."""
        content = _json(request)
        rows = self._rows(content["rows"])
        kind = content.get("format", "csv")
        require_known("format", kind, SAVE_FORMATS)
        body, ending, media = selection_file(self.objects, rows, kind)
        return _attachment(body, f"selection{ending}", media)

    def tag(self, request: Request) -> dict[str, Any]:
        content = _json(request)
        self.objects.tag([self._row(row) for row in content["rows"]], content.get("tag"))
        return {"num_tagged": len(self.objects.tags)}

    def overlay(self, request: Request) -> dict[str, Any]:
        radius = _bounded(request.query_params.get("radius", "1"), 3600)
        name, content = _file_name(request), request.state.body
        result, self._unmatched = _overlay(self.objects, name, content, radius)
        places = np.stack([self._unmatched[axis][:MAX_MARKS] for axis in ("ra", "dec")], axis=1)
        number = len(self._unmatched["ra"])
        return {**result, "num_unmatched": number, "unmatched": places.tolist()}

    def unmatched(self, request: Request) -> Response:
        """Send the rows of the last overlay that match no object, as CSV."""
        if not len(self._unmatched.get("ra", ())):
            raise InputError("there are no unmatched positions of an overlay")
        return _attachment(_table_file(self._unmatched, ".csv"), "unmatched.csv")

    def upload(self, request: Request) -> dict[str, Any]:
        """Fit an uploaded cutout."""
        image, weight = read_dropped(_file_name(request), request.state.body)
        return self._fitted(self._ready().fit_dropped(image, weight))

    def position(self, request: Request) -> dict[str, Any]:
        """Make a cutout at a position, and fit it."""
        place = read_place(str(_json(request)["place"])[:200])
        return self._fitted(self._ready().fit_position(*place))

    def _fitted(self, dropped: Dropped) -> dict[str, Any]:
        """Return the picture of a fit, χ², fluxes, missing bands, redshift and nearest objects."""
        objects, redshift, why = self.objects, None, ""
        if objects.distributions and objects.store is not None:
            try:
                best = objects.distributions[0]
                redshift = best.predict(dropped.features, dropped.cutouts, objects.store.info)
            except InputError as error:  # show the fit without a redshift
                why = f"no redshift: {error}"
        features = {name: values[0] for name, values in dropped.features.items()}
        brightness = float(ab_magnitude(features[f"flux_model_{objects.reference}"]))
        rows, distance = objects.neighbours(features["embedding"], number=24, brightness=brightness)
        answer = {
            "reduced_chi2": json_value(features["chi2"] / max(1, features["dof"])),
            "status": str(features["status"]),
            "fluxes": {
                band: [json_value(features[f"flux_model{end}_{band}"]) for end in ("", "_err")]
                for band in bands_of(features)  # predicted by the model in bands without data
            },
            "missing": list(dropped.missing),
            "redshift": redshift,
            "why": why,
            "picture": "data:image/png;base64," + base64.b64encode(dropped.picture).decode(),
        }
        return answer | _nearest(rows, distance)

    def samp(self, request: Request) -> dict[str, Any]:
        """Send the selection to SAMP clients for tables, or a position to those for the sky."""
        content = _json(request)
        if not self.is_samp:
            raise InputError("SAMP is off: restart the explorer with --samp")
        rows = self._rows(content["rows"])
        if content.get("what") == "position":
            names = samp.send_position(*self.objects.place(int(rows[0])))
        else:
            names = self._send_table(rows)
        return {"sent_to": names}

    def _send_table(self, rows: np.ndarray) -> list[str]:
        """Write the table to a temporary file, which is kept until the explorer ends, and send it."""
        if self._sent is None:
            self._sent = Path(tempfile.mkdtemp(prefix="deepfits-samp-"))
            atexit.register(shutil.rmtree, self._sent, ignore_errors=True)
        path = self._sent / f"selection-{len(list(self._sent.iterdir())) + 1}.vot"
        path.write_bytes(selection_file(self.objects, rows, "votable")[0])
        return samp.send_table(path, f"{self.title}: {len(rows)} selected")

    def umap(self, request: Request) -> dict[str, Any]:
        """Start a UMAP in the background, or return its state."""
        with self._starting:
            if self.umap_state in ("absent", "failed"):
                if find_spec("umap") is None:
                    how = "pip install 'deepfits[umap]', then restart the explorer"
                    raise InputError(f"UMAP needs umap-learn: {how}")
                self.umap_state = "running"
                threading.Thread(target=self._make_umap, daemon=True).start()
        return {"state": self.umap_state}

    def _make_umap(self) -> None:
        try:
            self.objects.make_umap()
            self.umap_state = "done"
        except Exception:
            self.umap_state = "failed"
            raise

    async def loaded(self) -> None:
        """Wait until the drawer is loaded, or has turned out to be missing."""
        if isinstance(self._drawer, Future):
            self._drawer = await asyncio.shield(asyncio.wrap_future(self._drawer))

    def _ready(self) -> Drawer:
        if self._drawer is None or isinstance(self._drawer, Future):
            raise InputError("pictures need the cutouts: restart the explorer with --store")
        return self._drawer

    def _row(self, row: Any) -> int:
        if isinstance(row, bool) or not isinstance(row, int) or not 0 <= row < len(self.objects):
            raise InputError(f"row {row!r} is outside the {len(self.objects)} objects")
        return row

    def _rows(self, rows: Any) -> np.ndarray:
        if not isinstance(rows, list) or not rows:
            raise InputError("nothing is selected")
        return np.array([self._row(row) for row in rows[:MAX_ROWS]], dtype=np.int64)


def _response(content: Content) -> Response:
    """Return a dictionary as JSON, and bytes as PNG."""
    if isinstance(content, bytes):
        return Response(content, media_type="image/png")
    return JSONResponse(content) if isinstance(content, dict) else content


def _attachment(body: bytes, name: str, media_type: str = "application/octet-stream") -> Response:
    headers = {"Content-Disposition": f'attachment; filename="deepfits-{name}"'}
    return Response(body, media_type=media_type, headers=headers)


def selection_file(objects: Objects, rows: np.ndarray, kind: str) -> tuple[bytes, str, str]:
    """Return the selected rows as a file: content, ending and media type.

    ``ids`` is a plain list of identities, one per line, as accepted by ``--object-ids``.
    """
    if kind == "ids":
        lines = "".join(f"{identity}\n" for identity in objects.object_id[rows].tolist())
        return lines.encode(), ".txt", "text/plain"
    ending = {"votable": ".vot"}.get(kind, f".{kind}")
    content = _table_file(objects.selection(rows), ending, objects.table.describe)
    return content, ending, "application/octet-stream"


def _table_file(
    columns: Mapping[str, np.ndarray], ending: str, describe: Callable[[str], Column] | None = None
) -> bytes:
    """Return columns as the content of a table file."""
    with tempfile.TemporaryDirectory(prefix="deepfits-") as directory:
        return write_table(Path(directory) / f"table{ending}", columns, describe=describe).read_bytes()


def _overlay(
    objects: Objects, name: str, content: bytes, radius_arcsec: float
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Read and match an uploaded catalogue; return the result, and the rows without a match."""
    with tempfile.TemporaryDirectory(prefix="deepfits-") as directory:
        path = Path(directory) / ("catalogue" + "".join(Path(name).suffixes[-2:])[-16:])
        path.write_bytes(content)
        try:
            table = read(path, what="catalogue")
            sky = positions(table.columns, table.units, path)
        except InputError as error:
            raise InputError(str(error).replace(str(path), name)) from None
    if sky is None:
        raise InputError(
            f"{name}: no positions (ra and dec) were recognised; its columns are {sorted(table.columns)}"
        )
    label = "".join(c if c.isalnum() or c in "-_" else "_" for c in Path(name).stem)[:40] or "overlay"
    answer, rows = objects.overlay(label, sky.ra, sky.dec, table.columns, radius_arcsec)
    return answer, {name: values[rows] for name, values in with_standard_names(table, sky).items()}


def _json(request: Request) -> dict[str, Any]:
    content = parse_json(request.state.body.decode(), where="the request")
    if not isinstance(content, dict):
        raise InputError("a request must be a JSON object")
    return content


def _file_name(request: Request) -> str:
    return Path(request.query_params.get("name", "")).name


async def _body(request: Request) -> bytes:
    """Read the body in pieces, and stop as soon as it exceeds the limit."""
    out = bytearray()
    async for piece in request.stream():
        out += piece
        if len(out) > MAX_UPLOAD_BYTES:
            raise InputError(f"the upload exceeds the limit of {MAX_UPLOAD_BYTES >> 20} MiB")
    return bytes(out)


def _nearest(rows: np.ndarray, distance: np.ndarray) -> dict[str, Any]:
    return {"rows": rows.tolist(), "distance": distance.tolist(), "warning": unlike_warning(distance)}


def _seeing_and_noise(query: Any) -> dict[str, float]:
    fwhm, noise = _bounded(query.get("fwhm", "0"), 10), _bounded(query.get("noise", "0"), 100)
    return {"fwhm_arcsec": max(0.0, fwhm), "noise": max(0.0, noise)}


def _bounded(text: str, largest: float) -> float:
    value = float(text)
    if not abs(value) <= largest:
        raise InputError(f"{text} is outside ±{largest:g}")
    return value
