"""The objects of a run for the explorer: columns, maps, neighbours, tags.

Shapes: N objects, L latent dimensions, K examples.

Rows are those of the features; other tables are matched to them (`deepfits.explorer.joined`).
"""

import hashlib
import threading
from collections.abc import Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np

from deepfits.errors import InputError, require_known
from deepfits.explorer.coadds import read_place
from deepfits.explorer.joined import JoinedTable
from deepfits.explorer.redshifts import Distributions
from deepfits.explorer.tags import TAGS, read_tags, tag_column, write_tags
from deepfits.files import read_arrays, writing
from deepfits.fitting.similarity import Similarity
from deepfits.photometry import ab_magnitude, bands_of, bands_with_data, reference_band
from deepfits.splits import evenly_spaced
from deepfits.tables import match_identities, match_one_to_one, matches_conditions, require_column, take_rows

MAX_CATEGORIES = 24
NUM_COMPONENTS = 8
NUM_AS_BRIGHT = 200  # number of objects of similar brightness with which one is compared
UNLIKE = 0.8
"""Distance beyond which objects are not similar. In simulated skies, 95% have a neighbour within 0.66."""
FIND_RADIUS_ARCSEC = 5.0  # largest distance of an object from a position by which it is looked for
MAP_FILE = "_map-umap.npz"
_NOT_SHOWN = ("object_id", "latent", "latent_std", "embedding", "model_hash")


class Objects:
    """All objects with features, and everything known about them."""

    def __init__(self, table: JoinedTable) -> None:
        self.table, self.directory, self.store = table, table.directory, table.store
        self.store_row = table.store_row
        self.object_id = table["object_id"]
        self.latent = np.ascontiguousarray(table["latent"], dtype=np.float32)
        self.embedding = np.ascontiguousarray(table["embedding"], dtype=np.float32)
        self.is_fitted: np.ndarray = np.asarray(np.isfinite(self.latent).all(axis=1))
        if not self.is_fitted.any():
            raise InputError(f"{self.directory}: no object has a finite latent; fit first")
        self.distributions: list[Distributions] = []
        self._lock = threading.RLock()
        self._derive()
        self.tags = read_tags(self.directory)
        self._offer_tags()

    def __len__(self) -> int:
        return len(self.object_id)

    # Columns

    @property
    def names(self) -> list[str]:
        """Names of all columns, maps first."""
        return [name for name in self.table if name not in _NOT_SHOWN]

    def column(self, name: str) -> np.ndarray:
        """Return a column, ``(N,)``."""
        return require_column(self.table, name, self.directory)

    def describe(self, name: str) -> dict[str, Any]:
        """Return how the page displays a column, whose ``kind`` is ``"number"`` or ``"category"``.

        For numbers, the 1st and 99th percentiles ``low`` and ``high``, and whether a logarithmic scale is
        better (``is_skewed``); for ``categories``, their values, commonest first.
        """
        values = self.column(name)
        out = {"name": name, "kind": "number", "low": 0.0, "high": 1.0, "is_skewed": False, "categories": ()}
        if values.dtype.kind not in "fiub":
            categories, counts = np.unique(values.astype(str), return_counts=True)
            order = np.argsort(-counts, kind="stable")[:MAX_CATEGORIES]
            return out | {"kind": "category", "categories": categories[order].tolist()}
        finite = values[np.isfinite(values)].astype(np.float64)
        if finite.size == 0:
            return out
        low, middle, high = (float(v) for v in np.percentile(finite, [1, 50, 99]))
        is_skewed = low > 0 and high / low > 30 and (high - middle) > 3 * (middle - low)
        return out | {"low": low, "high": high, "is_skewed": is_skewed}

    def as_float32(self, info: Mapping[str, Any]) -> np.ndarray:
        """Return a described column as numbers: values, or indices of categories; NaN where unknown."""
        values = self.column(info["name"])
        if info["kind"] == "number":
            return values.astype(np.float32)
        index = {text: number for number, text in enumerate(info["categories"])}
        return np.array([index.get(text, np.nan) for text in values.astype(str).tolist()], dtype=np.float32)

    def facts(self, row: int) -> dict[str, Any]:
        """Return all columns of one object, as JSON-compatible values."""
        self.table.load(self.names)
        return {name: json_value(self.column(name)[row]) for name in self.names}

    def redshift(self, row: int) -> tuple[Mapping[str, Any] | None, str]:
        """Return p(z) of an object from the first distribution that has it, or None with the reason."""
        if not self.distributions:
            return None, ""
        for distribution in self.distributions:
            if (pdf := distribution.of(self.object_id[row])) is not None:
                return pdf, ""
        known = ", ".join(f"{d.method} ({len(d.object_id):,} objects)" for d in self.distributions)
        return None, (
            f"no p(z): this object is not among those of {known}; `deepfits redshift predict` makes "
            "predictions for all objects of the run"
        )

    def rows_of(self, object_ids: Sequence[Any]) -> np.ndarray:
        """Return the rows of objects by identity, −1 for unknown ones."""
        return match_identities(np.asarray(object_ids), self.object_id)

    def find(self, text: str) -> tuple[int, float | None]:
        """Return the row of the object of an identity, or nearest to a position, with their separation.

        Raise `InputError` if there is no such object.
        """
        if (row := int(self.rows_of([text])[0])) >= 0:
            return row, None
        try:
            ra, dec = read_place(text)
        except InputError:
            example = f"an example of an object_id there is {self.object_id[0]}"
            raise InputError(
                f"{self.directory}: has no object_id {text}, and this is not a position; {example}"
            ) from None
        place = np.array([ra]), np.array([dec])
        rows, separation, _ = match_one_to_one(*place, *self._positions(), FIND_RADIUS_ARCSEC)
        if rows[0] < 0:
            nothing = f"no object lies within {FIND_RADIUS_ARCSEC:g}″ of {ra:.6f} {dec:+.6f}"
            raise InputError(f"{self.directory}: {nothing}")
        return int(rows[0]), float(separation[0])

    def overlay(
        self,
        label: str,
        ra: np.ndarray,
        dec: np.ndarray,
        columns: Mapping[str, np.ndarray],
        radius_arcsec: float,
    ) -> tuple[dict[str, Any], np.ndarray]:
        """Match another catalogue by position, one to one, and add its columns as ``label.column``.

        Returns the ``rows`` of the objects with a match, the counts ``matched`` and ``total`` and the names
        of the ``columns`` added; and the rows of the catalogue without an object.
        """
        other, separation, nearest = match_one_to_one(*self._positions(), ra, dec, radius_arcsec)
        added = []
        for name, values in columns.items():
            if np.ndim(values) == 1:
                self.table.add(f"{label}.{name}", take_rows(np.asarray(values), other), label)
                added.append(f"{label}.{name}")
        self.table.add(f"{label}.separation_arcsec", separation, label)
        rows = np.flatnonzero(other >= 0).tolist()
        unmatched = np.flatnonzero((nearest < 0) & np.isfinite(ra) & np.isfinite(dec))
        return {"rows": rows, "matched": len(rows), "total": len(ra), "columns": added}, unmatched

    def _positions(self) -> tuple[np.ndarray, np.ndarray]:
        """Return right ascension and declination of the objects, in degrees."""
        if not {"ra", "dec"} <= self.table.keys():
            raise InputError("the features have no ra and dec, so they cannot be matched by position")
        return self.column("ra"), self.column("dec")

    def selection(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        """Return all columns of some rows, including their tags, for saving."""
        self.table.load(self.names)
        return {name: np.asarray(self.column(name)[rows]) for name in ("object_id", *self.names)}

    def place(self, row: int) -> tuple[float, float]:
        """Return right ascension and declination of an object, in degrees."""
        if not {"ra", "dec"} <= self.table.keys() or not np.isfinite(self.column("ra")[row]):
            raise InputError(f"the position of {self.object_id[row]} is unknown")
        return float(self.column("ra")[row]), float(self.column("dec")[row])

    def satisfying(self, where: str | Sequence[str] | None) -> np.ndarray:
        """Return which objects satisfy conditions on columns, ``(N,)`` bool; all if there are none."""
        if where is None:
            return np.ones(len(self), dtype=bool)
        return matches_conditions(self.table, where, self.directory)

    def _derive(self) -> None:
        """Add derived columns: reduced χ², magnitudes and colours, anomaly, principal components, the map."""
        table = self.table

        def magnitude(flux: str) -> np.ndarray:
            return ab_magnitude(table[flux])

        def colour(blue: str, red: str) -> np.ndarray:
            return magnitude(f"flux_gauss_{blue}") - magnitude(f"flux_gauss_{red}")

        def reduced() -> np.ndarray:
            with np.errstate(divide="ignore", invalid="ignore"):
                return np.where(table["dof"] > 0, table["chi2"] / table["dof"], np.nan).astype(np.float32)

        table.add("reduced_chi2", reduced)
        self.bands = bands = bands_of(table)
        self.with_data = bands_with_data(table)
        if self.store is not None:
            self.store = self.store.in_bands(bands)
        for band in bands:
            table.add(f"mag_model_{band}", partial(magnitude, f"flux_model_{band}"))
        for number, blue in enumerate(bands):
            for red in bands[number + 1 : number + 5]:  # all of five bands, but not thousands of fifty
                table.add(f"{blue}_minus_{red}", partial(colour, blue, red))
        for number in range(min(NUM_COMPONENTS, self.latent.shape[1])):
            table.add(f"pc{number + 1}", partial(lambda n: self.principal[2][:, n], number))
        if (self.directory / MAP_FILE).exists():
            self.load_map(self.directory / MAP_FILE)

    @property
    def brightness(self) -> np.ndarray:
        """AB magnitude in the reference band."""
        return self.column(f"mag_model_{self.reference}")

    @property
    def reference(self) -> str:
        """Reference band among those with data."""
        return reference_band(self.with_data or self.bands)

    # Maps

    @cached_property
    def principal(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Mean latent, principal directions, each one σ long, and the components of all objects along them.

        ``(L,)``, ``(NUM_COMPONENTS, L)`` and ``(N, NUM_COMPONENTS)``; NaN for objects without a fit.
        """
        good = self.latent[self.is_fitted]
        middle = good.mean(axis=0, dtype=np.float64).astype(np.float32)
        centred = good - middle
        variance, vectors = np.linalg.eigh(centred.T @ centred / len(good))
        vectors = vectors[:, ::-1][:, :NUM_COMPONENTS]
        # The sign of a direction is arbitrary: make its largest entry positive, so that maps do not flip.
        vectors = vectors * np.sign(vectors[np.abs(vectors).argmax(axis=0), range(vectors.shape[1])])
        out = np.full((len(self), vectors.shape[1]), np.nan, dtype=np.float32)
        out[self.is_fitted] = centred @ vectors
        scale = np.sqrt(np.maximum(variance[::-1][: vectors.shape[1]], 0))
        return middle, (vectors * scale).T.astype(np.float32), out

    def load_map(self, path: Path) -> None:
        """Load a map written by `make_umap`, if it is of these embeddings."""
        arrays = read_arrays(path, what="map")
        position = arrays.get("position")
        is_current = str(arrays.get("made_from", "")) == self._made_from
        if is_current and position is not None and position.shape == (len(self), 2):
            self.table.add("umap1", position[:, 0].astype(np.float32))
            self.table.add("umap2", position[:, 1].astype(np.float32))

    @property
    def _made_from(self) -> str:
        """Fingerprint of the embeddings, by which an earlier map is recognised."""
        return hashlib.sha256(self.embedding.tobytes()).hexdigest()[:16]

    def make_umap(self) -> None:
        """Compute a UMAP of the embeddings, save it with the features, and add it as two columns."""
        import umap

        position = np.full((len(self), 2), np.nan, dtype=np.float32)
        position[self.is_fitted] = umap.UMAP(random_state=1, n_jobs=1).fit_transform(
            self.embedding[self.is_fitted]
        )
        with writing(self.directory / MAP_FILE) as temporary:
            np.savez(temporary, position=position, made_from=np.array(self._made_from))
        self.load_map(self.directory / MAP_FILE)

    # Neighbours

    def neighbours(
        self,
        like: Sequence[int] | np.ndarray,
        *,
        unlike: Sequence[int] | np.ndarray = (),
        number: int = 24,
        magnitude_window: float | None = None,
        allowed: np.ndarray | None = None,
        brightness: float = np.nan,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Find the rows nearest by embedding, nearest first, exactly, with distances; without the examples.

        The examples are rows, or an embedding ``(L,)`` or ``(K, L)`` of float, of which `brightness` is the
        AB magnitude in the reference band. Objects closer to one of the rows `unlike` than to the examples
        are excluded, as are those that are not `allowed`, ``(N,)`` bool, and those farther than the window
        from the examples' mean magnitude.

        The distance is the root mean square over dimensions, in units of the scatter caused by noise,
        orientation and sub-pixel position (`deepfits.fitting.similarity`), averaged over the examples and
        divided by the median distance to objects of similar brightness: 1 is as far as a random one, and
        beyond `UNLIKE` objects are not similar.
        """
        given = np.asarray(like)
        rows = given.astype(np.int64) if given.dtype.kind in "iu" else np.empty(0, dtype=np.int64)
        examples = self.embedding[rows] if rows.size else np.atleast_2d(given).astype(np.float32)
        if not np.isfinite(examples).all():
            raise InputError("an example has no fit and therefore no neighbours")
        if rows.size:
            known = self.brightness[rows][np.isfinite(self.brightness[rows])]
            brightness = float(known.mean()) if len(known) else float("nan")
        distance = self._distance(examples)
        others = self.as_bright(brightness, NUM_AS_BRIGHT + len(rows), self.is_fitted)
        others = others[~np.isin(others, rows)]
        typical = float(np.median(distance[others])) or 1.0 if len(others) else 1.0
        allowed = self.is_fitted.copy() if allowed is None else self.is_fitted & allowed
        allowed[rows] = False
        for row in np.asarray(unlike, dtype=np.int64):
            allowed &= self._distance(self.embedding[[row]]) > distance
        if magnitude_window is not None and rows.size:
            allowed &= np.abs(self.brightness - brightness) <= magnitude_window
        distance = np.where(allowed, distance, np.inf)
        number = min(number, int(allowed.sum()))
        if number == 0:
            return np.empty(0, dtype=np.int64), np.empty(0)
        nearest_rows = np.argpartition(distance, number - 1)[:number]
        order = nearest_rows[np.argsort(distance[nearest_rows], kind="stable")]
        return order, distance[order].astype(np.float64) / typical

    def _distance(self, examples: np.ndarray) -> np.ndarray:
        """Return the distances of all objects, ``(N,)``, averaged over the examples, ``(K, L)``."""
        similarity, coordinates, length = self._places
        total = np.zeros(len(self), dtype=np.float32)
        for example in similarity.coordinates(examples):
            squared = length - 2 * (coordinates @ example) + example @ example
            total += np.sqrt(np.maximum(squared, 0))
        return np.nan_to_num(total / (len(examples) * np.sqrt(self.embedding.shape[1])), nan=np.inf)

    @cached_property
    def _places(self) -> tuple[Similarity, np.ndarray, np.ndarray]:
        """The metric, the coordinates of all objects in it, ``(N, L)``, and their squared norms, ``(N,)``."""
        similarity = Similarity.read(self.directory, self.embedding.shape[1])
        coordinates = similarity.coordinates(self.embedding)
        return similarity, coordinates, np.einsum("nl,nl->n", coordinates, coordinates)

    def as_bright(self, brightness: float, number: int, allowed: np.ndarray) -> np.ndarray:
        """Return `number` allowed rows: the closest in brightness rank or, if it is NaN, spread evenly."""
        rows = self._by_brightness[allowed[self._by_brightness]]
        if not np.isfinite(brightness) or not len(rows):
            every = np.flatnonzero(allowed)
            return every[evenly_spaced(len(every), number)]
        place = int(np.searchsorted(self.brightness[rows], brightness)) - number // 2
        first = min(max(place, 0), max(len(rows) - number, 0))
        return rows[first : first + number]

    @cached_property
    def _by_brightness(self) -> np.ndarray:
        """Rows of the objects of known brightness, sorted by it."""
        rows = np.flatnonzero(np.isfinite(self.brightness))
        return rows[np.argsort(self.brightness[rows], kind="stable")]

    # Tags

    def tag(self, rows: Sequence[int], tag: str | None) -> None:
        """Set (or, with None, remove) the tag of objects, and save all tags with the features."""
        if tag is not None:
            require_known("tag", tag, TAGS)
        with self._lock:
            tags = read_tags(self.directory)  # another explorer may have set some
            for row in rows:
                key = str(self.object_id[row])
                if tag is None:
                    tags.pop(key, None)
                else:
                    tags[key] = tag
            write_tags(self.directory, tags)
            self.tags = tags
            self._offer_tags()

    def _offer_tags(self) -> None:
        self.table.add("tag", lambda: tag_column(self.tags, self.object_id), "tags")


def unlike_warning(distance: np.ndarray) -> str:
    """Return a warning if no object was found, or even the nearest is not similar, else ''."""
    if not len(distance):
        return "no other object satisfies the conditions (filters, brightness, counter-examples)"
    if distance[0] < UNLIKE:
        return ""
    near = "no nearer" if distance[0] >= 1 else "hardly nearer"
    where = f"the nearest, at {distance[0]:.2f}, is {near} than a random one of this brightness (1)"
    return f"no similar objects: {where}"


def json_value(value: Any) -> Any:
    """Convert a value for JSON: NaN to None, large integers, which JavaScript rounds, to strings."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float):
        return value if np.isfinite(value) else None
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) > 2**53:
        return str(value)
    return value
