"""A trained model: three networks, their units, and what they were trained for, in memory and on disk.

Shapes: N objects, L latent dimensions, B bands, H = W pixels.

A model is a directory with ``weights.safetensors`` and ``model.json``. Reading them cannot execute code, and
all sizes and types are checked against the description before memory is allocated. ``model.json`` is written
last and holds the hash of the weights, so a directory that has it is complete.
"""

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, Self, cast

import numpy as np
import torch
from torch import Tensor, nn

from deepfits.config import Range, convert
from deepfits.errors import InputError, naming
from deepfits.files import digest, fingerprint, give_inside, read_json, require_regular, write_json, writing
from deepfits.models.layers import ModelConfig, without_allocating
from deepfits.models.networks import Discriminator, Embedder, Generator
from deepfits.models.sight import require_psf, sight_of
from deepfits.observation import SceneGrid, Sight
from deepfits.photometry import bands_of
from deepfits.splits import evenly_spaced
from deepfits.survey.bands import passband, places_of
from deepfits.survey.normalise import Normalisation
from deepfits.survey.store import FLUX_UNIT, BandOrder, Cutouts, CutoutStore, StoreInfo, as_rows
from deepfits.tensors import as_tensor, plain_defaults, require_device

SCHEMA_VERSION = 1
SCENE_SCHEMA_VERSION = 2
BUILTIN_PREFIX = "builtin:"
BUILTIN_DIRECTORY = Path(__file__).parent / "builtin"
PIXEL_SCALE_TOLERANCE = 0.01
SEEING_TOLERANCE = 0.25
DRAWN_AT_ONCE = 256
_DTYPES = {"F32", "F16", "BF16"}


@dataclass(eq=False)
class Model:
    """Three networks and what is needed to apply them to images in nJy.

    Attributes
    ----------
    info
        What cutouts must be like (bands, size, pixel scale), and the seeing of the training images.
    normalisation
        Conversion between nJy and the networks' units.
    generator, discriminator, embedder
        The networks, in the networks' units.
    card
        How the model was trained, and how well it performs: for people and for reports.
    reference_fwhm_arcsec
        For scene models: FWHM of the round Gaussian PSF at which the generator renders scenes, on the grid
        that `info` describes; the data may have any wider PSF and any pixels (`deepfits.observation`). None
        for models of images as observed.
    model_error
        Errors of the generator, as measured by `deepfits.fitting.error_measurement` in training, or None.
    calibration
        The same, measured on another survey by `deepfits.calibrate`, and that survey's name.
    """

    config: ModelConfig
    info: StoreInfo
    normalisation: Normalisation
    generator: Generator
    discriminator: Discriminator
    embedder: Embedder
    card: dict[str, Any] = field(default_factory=dict)
    reference_fwhm_arcsec: float | None = None
    model_error: dict[str, Any] | None = None
    calibration: dict[str, Any] | None = None

    @classmethod
    def make(
        cls,
        config: ModelConfig,
        info: StoreInfo,
        normalisation: Normalisation,
        reference_fwhm_arcsec: float | None = None,
    ) -> Self:
        """Make an untrained model; seed `torch` first to make the initial weights reproducible."""
        networks = Generator(config), Discriminator(config), Embedder(config)
        return cls(config, info, normalisation, *networks, reference_fwhm_arcsec=reference_fwhm_arcsec)

    def __post_init__(self) -> None:
        expected = (len(self.info.bands), self.info.size)
        if (self.config.num_bands, self.config.size) != expected:
            raise InputError(
                f"model: networks for {self.config.num_bands} bands of {self.config.size} pixels, but the "
                f"description says {expected[0]} bands of {expected[1]} pixels"
            )
        if len(self.normalisation.mean) != len(self.info.bands):
            raise InputError(
                f"model: normalisation for {len(self.normalisation.mean)} bands of {len(self.info.bands)}"
            )

    @property
    def grid(self) -> SceneGrid | None:
        """The grid of the scenes; None for a model of images."""
        if self.reference_fwhm_arcsec is None:
            return None
        return SceneGrid(
            size=self.info.size,
            pixel_scale_arcsec=self.info.pixel_scale_arcsec,
            reference_fwhm_arcsec=self.reference_fwhm_arcsec,
        )

    @property
    def errors(self) -> dict[str, Any] | None:
        """The errors to use: those of the calibration, or else of the training."""
        return self.model_error if self.calibration is None else self.calibration.get("errors")

    @property
    def networks(self) -> nn.ModuleDict:
        """The three networks by name."""
        return nn.ModuleDict(
            {name: getattr(self, name) for name in ("generator", "discriminator", "embedder")}
        )

    def cutout_size(self, pixel_scale_arcsec: float) -> int:
        """Return the side of cutouts that match the model, in their pixels."""
        if self.grid is None:
            return self.info.size
        return int(self.info.size * self.info.pixel_scale_arcsec / pixel_scale_arcsec + 1e-6)

    def sight(self, cutouts: Cutouts, info: StoreInfo) -> Sight | None:
        """Describe how cutouts of a store were observed; None for a model of images.

        Raises
        ------
        InputError
            The PSF of a band with data is unknown or sharper than the model's scenes.
        """
        if self.grid is None:
            return None
        order = self.order(info)
        return sight_of(order.cutouts(cutouts), order.info(info), self.grid).to(self._any_parameter.device)

    def order(self, info: StoreInfo) -> BandOrder:
        """Return how the bands of a store map to those of the model.

        Scene models take any of their bands in any order; models of images take exactly their own.
        """
        return BandOrder.of(info.bands, info.bands if self.grid is None else self.info.bands)

    def open(self, store: CutoutStore) -> CutoutStore:
        """Return a store in the model's bands, with weight 0 for bands that it lacks (scene models only)."""
        return store if self.grid is None else store.in_bands(self.info.bands)

    def require_psf(self, store: CutoutStore) -> None:
        """Refuse a store, opened for the model, of whose objects none has PSFs that `sight` accepts.

        Raises
        ------
        InputError
            The error of `sight`, before any object is fitted.
        """
        if self.grid is None:
            return
        try:
            sample = store.take(evenly_spaced(len(store), 16))
        except InputError:  # a damaged shard, which raises an error when its turn comes
            return
        used = np.asarray((sample.weight > 0).any(axis=(2, 3)))
        require_psf(sample.psf, used, store.info, self.grid)

    def render(self, latent: Tensor | np.ndarray, sight: Sight | None = None) -> Tensor:
        """Render images in nJy, ``(N, B, H, W)``, from latents ``(N, L)``; differentiable.

        Scene models render the scenes themselves or, given `sight`, images at the PSF and pixels of the data.
        """
        latent = self._to_tensor(latent, "latents")
        if latent.shape[-1:] != (self.config.latent_size,):
            raise InputError(
                f"latents have shape {tuple(latent.shape)}; it must be (N, {self.config.latent_size})"
            )
        flux = self.normalisation.denormalise(self.generator(latent))
        return flux if sight is None or self.grid is None else sight.observation()(flux)

    @torch.no_grad()
    def draw(
        self,
        features: Mapping[str, np.ndarray],
        rows: Sequence[int] | np.ndarray | None = None,
        *,
        store: CutoutStore | str | Path | None = None,
        sight: Sight | None = None,
    ) -> np.ndarray:
        """Render the best fits in the features, amplitudes included: ``(n, B, H, W)`` in nJy.

        Parameters
        ----------
        features
            Columns, from `deepfits.read_features` or `deepfits.join`, or a table of astropy, pandas, Polars
            or Arrow.
        rows
            Which objects: row numbers, or ``(N,)`` bool; all by default.
        store
            The cutouts that were fitted, or their directory. With them, scene models render images at the PSF
            and pixels of each object; without them, the scenes themselves.
        sight
            How these objects were observed, as an alternative to `store`.

        Returns
        -------
        ndarray
            NaN for objects without a fit.

        Raises
        ------
        InputError
            The features are of another model, or objects are not in the store.
        """
        if hasattr(features, "__arrow_c_stream__") and not hasattr(features, "keys"):  # Polars, Arrow
            import pyarrow as pa

            table = pa.table(features)
            features = {name: table[name].to_numpy() for name in table.column_names}
        if not hasattr(features, "keys"):
            kind = type(features).__name__
            raise InputError(f"features must be columns, as from deepfits.read_features, not {kind}")
        chosen = np.arange(len(features["latent"]))
        if rows is not None:
            chosen = as_rows(rows, len(chosen), "features")
        columns = features.keys()  # of an astropy table too
        known = np.asarray(features["model_hash"])[chosen] if "model_hash" in columns else ()
        for model_hash in np.unique(known).tolist():
            if model_hash != self.fingerprint:
                raise InputError(
                    f"these features were fitted with model {model_hash}, but this is {self.fingerprint}; "
                    "load that model"
                )
        if store is not None and self.grid is not None:
            store = store if isinstance(store, CutoutStore) else CutoutStore(store)
            cutouts = store.take(store.rows_of(np.asarray(features["object_id"])[chosen]))
            sight = self.sight(cutouts, store.info)
        parts = []
        for first in range(0, len(chosen), DRAWN_AT_ONCE):
            part = slice(first, first + DRAWN_AT_ONCE)
            latent = np.asarray(features["latent"])[chosen[part]]
            parts.append(self.render(latent, None if sight is None else sight.take(part)).cpu().numpy())
        side = self.info.size if sight is None or self.grid is None else sight.size
        shape = (0, len(self.info.bands), side, side)
        drawn = np.concatenate(parts) if parts else np.empty(shape, dtype=np.float32)
        names = bands_of(columns, "amplitude")
        for index, place in enumerate(places_of(self.info.bands, names)):  # by the store's names
            if place is not None:
                amplitude = np.asarray(features[f"amplitude_{names[place]}"])
                drawn[:, index] *= amplitude[chosen, None, None]
        return drawn

    def __repr__(self) -> str:
        info = self.info
        return (
            f"<Model of {', '.join(info.bands)}, {info.size}×{info.size} pixels of "
            f"{info.pixel_scale_arcsec:.4g}″, {self.config.latent_size} latents>"
        )

    def _repr_html_(self) -> str:
        from deepfits.notebook import NUM_PICTURES, describe

        latent = torch.randn(
            NUM_PICTURES, self.config.latent_size, generator=torch.Generator().manual_seed(0)
        )
        with torch.no_grad():
            pictures = self.render(latent).cpu().numpy()
        info, data = self.info, self.card.get("data") or {}
        facts = {
            "bands": ", ".join(info.bands),
            "cutouts": f"{info.size}×{info.size} pixels of {info.pixel_scale_arcsec:.4g}″",
            "latent dimensions": self.config.latent_size,
            "trained on": f"{data['num_used']:,} objects" if "num_used" in data else None,
            "survey": info.survey,
            "recipe": self.card.get("recipe"),
            "fingerprint": self.fingerprint,
        }
        return describe("Model: random draws below", facts, pictures)

    def network_input(
        self, image: Tensor | np.ndarray, weight: Tensor | np.ndarray, sight: Sight | None = None
    ) -> Tensor:
        """Convert images in nJy, with weights in nJy⁻², to the input of discriminator and embedder."""
        image, weight = self._to_tensor(image, "images"), self._to_tensor(weight, "weights")
        if self.grid is not None and sight is None:
            raise InputError(
                "a model of scenes must know how the images were observed: give "
                "model.sight(cutouts, store.info), or a Sight"
            )
        side = self.info.size if self.grid is None or sight is None else sight.size
        if image.shape != weight.shape or image.shape[1:] != (len(self.info.bands), side, side):
            raise InputError(
                f"images have shape {tuple(image.shape)} and weights {tuple(weight.shape)}; both must be "
                f"(N, {len(self.info.bands)}, {side}, {side}) for this model"
            )
        image = torch.where(weight > 0, image, 0.0)
        if self.grid is not None and sight is not None:
            floor = torch.tensor(self.normalisation.softening, dtype=image.dtype, device=image.device)
            image = sight.on_grid(image, weight, floor[:, None, None])
        x = self.normalisation.normalise(image)
        if self.config.sees_observation:
            assert sight is not None
            x = torch.cat((x, sight.described(weight, floor[:, None, None])), dim=1)
        return x

    def embed(
        self, image: Tensor | np.ndarray, weight: Tensor | np.ndarray, sight: Sight | None = None
    ) -> Tensor:
        """Estimate latents, ``(N, L)``, from images in nJy and weights in nJy⁻², both ``(N, B, H, W)``.

        Pixels of weight 0 are set to zero flux, whatever their value.
        """
        return self.embedder(self.network_input(image, weight, sight))

    @property
    def _any_parameter(self) -> Tensor:
        """A parameter of the networks, for its dtype and device."""
        return cast(Tensor, self.embedder.last.bias)

    def _to_tensor(self, array: Tensor | np.ndarray, name: str) -> Tensor:
        return as_tensor(array, name, dtype=self._any_parameter.dtype, device=self._any_parameter.device)

    def to(self, device: torch.device | str) -> Self:
        """Move the networks to a device, and return the model."""
        self.networks.to(device)
        return self

    def eval(self) -> Self:
        """Switch the networks to evaluation mode, freeze their weights, and return the model."""
        self.networks.eval().requires_grad_(False)
        return self

    def check(self, info: StoreInfo, *, to_train: bool = False) -> list[str]:
        """Refuse cutouts for which the model was not made.

        Parameters
        ----------
        to_train
            Also refuse cutouts larger than the scenes, whose outer pixels have weight 0 in a fit.

        Returns
        -------
        list of str
            Warnings: different seeing, filters with similar but different passbands, bands that are ignored
            or missing.

        Raises
        ------
        InputError
            Bands, size, pixel scale or unit do not match; the message has every reason, each with a remedy.
        """
        reasons = []
        is_known = [passband(b) for b in info.bands] == [passband(b) for b in self.info.bands]
        takes_any = self.grid is not None and not to_train
        if not is_known and not (takes_any and set(self.order(info).places) - {None}):
            reasons.append(
                f"bands {'-'.join(info.bands)}, the model knows {'-'.join(self.info.bands)}: cut again with "
                f"bands={','.join(self.info.bands)} and allow_missing (weight 0 where there is no data), or "
                "train a model"
            )
        side, scene = (store.size * store.pixel_scale_arcsec for store in (info, self.info))
        is_beyond = self.grid is not None and side > scene + info.pixel_scale_arcsec
        beyond = f"{side:.3g} arcsec a side, the model's scenes have {scene:.3g}"
        if to_train and is_beyond:
            reasons.append(f"{beyond}: cut with size={self.cutout_size(info.pixel_scale_arcsec)}")
        elif self.grid is None and info.size != self.info.size:
            reasons.append(
                f"{info.size} pixels a side, the model draws {self.info.size}: cut with size={self.info.size}"
            )
        ratio = info.pixel_scale_arcsec / self.info.pixel_scale_arcsec
        if self.grid is None and not abs(ratio - 1) <= PIXEL_SCALE_TOLERANCE:
            reasons.append(
                f"pixels of {info.pixel_scale_arcsec:g} arcsec, the model's are "
                f"{self.info.pixel_scale_arcsec:g}: stack the images onto that scale, or train a model"
            )
        if info.flux_unit != self.info.flux_unit:
            reasons.append(
                f"fluxes in {info.flux_unit}, the model's are in {self.info.flux_unit}: convert the store"
            )
        if reasons:
            suitable = [] if to_train or self.grid is not None else _suitable_builtin(info)
            reasons += [f"or take {name}, which takes these cutouts" for name in suitable]
            raise InputError("the cutouts do not fit the model: " + "; ".join(reasons))
        warnings = self._warnings(info)
        return [*warnings, f"{beyond}: pixels outside get weight 0"] if is_beyond else warnings

    def _warnings(self, info: StoreInfo) -> list[str]:
        order = self.order(info)
        out = [
            f"band {name}: used as the model's {band}; their passbands are similar, not identical"
            for name, band in zip(order.bands, self.info.bands, strict=True)
            if name != band
        ]
        places = zip(order.bands, order.places, strict=True)
        if absent := [band for band, place in places if place is None]:
            out.append(f"bands not in the store, which the model predicts: {', '.join(absent)}")
        if unknown := [band for band in info.bands if band not in order.bands]:
            known = ", ".join(self.info.bands)
            out.append(f"bands left out, since the model knows only {known}: {', '.join(unknown)}")
        if self.grid is not None:
            return out
        return out + [
            f"band {band}: seeing {fwhm:.2f} arcsec, the model was trained at {trained:.2f}"
            for band, fwhm, trained in zip(info.bands, info.fwhm_arcsec, self.info.fwhm_arcsec, strict=True)
            if abs(fwhm / trained - 1) > SEEING_TOLERANCE  # False where either is unknown (NaN)
        ]

    @cached_property
    def fingerprint(self) -> str:
        """16 hexadecimal digits that identify weights, units and description, but not the calibration.

        So calibrated models have the latents, redshift heads and predictors of the one they were made from.
        Cached: do not use it before the last change to the weights.
        """
        hashed = hashlib.sha256(json.dumps(self._identity(), sort_keys=True).encode())
        for name, tensor in sorted(self.state_dict().items()):
            hashed.update(name.encode())
            hashed.update(tensor.detach().cpu().float().contiguous().numpy().tobytes())
        return hashed.hexdigest()[:16]

    def _identity(self) -> dict[str, Any]:
        described = {"architecture": self.config, "info": self.info, "normalisation": self.normalisation}
        known = {"reference_fwhm_arcsec": self.reference_fwhm_arcsec, "model_error": self.model_error}
        return {name: part.to_json() for name, part in described.items()} | {
            name: value for name, value in known.items() if value is not None
        }

    def made_from(self) -> dict[str, str]:
        """Return what results record as their input: the fingerprint, and that of a calibration."""
        known = {} if self.calibration is None else {"calibration": digest(self.calibration)}
        return {"model": self.fingerprint, **known}

    def state_dict(self) -> dict[str, Tensor]:
        """Return all tensors of the three networks, prefixed with the network's name."""
        return self.networks.state_dict()

    def save(self, directory: str | Path, *, dtype: Literal["float32", "float16"] = "float32") -> Path:
        """Write the model; ``model.json`` is written last, so that a directory that has it is complete."""
        from safetensors.torch import save as serialised

        directory = Path(directory)
        to, weights = getattr(torch, dtype), directory / "weights.safetensors"
        tensors = {k: t.detach().cpu().to(to).contiguous() for k, t in self.state_dict().items()}
        with writing(weights) as path:
            path.write_bytes(serialised(tensors))  # save_file() makes files private to the user
        content = {
            "schema_version": SCHEMA_VERSION if self.grid is None else SCENE_SCHEMA_VERSION,
            **self._identity(),
            "weights_sha256": fingerprint(weights),
            "card": self.card,
            **({} if self.calibration is None else {"calibration": self.calibration}),
        }
        write_json(directory / "model.json", content)
        return directory

    @classmethod
    @plain_defaults()
    def load(cls, path: str | Path, device: torch.device | str = "cpu") -> Self:
        """Read a model's directory, or ``builtin:NAME``: in evaluation mode, with frozen weights.

        Raises
        ------
        InputError
            There is no model, its training is not finished, its schema is unknown, or its weights are damaged
            or do not match the description.
        """
        device, directory = require_device(device), resolve(path)
        where = directory / "model.json"
        if not where.exists() and (directory / "checkpoints").is_dir():
            raise InputError(
                f"{directory}: this model's training is not finished; run the same `deepfits train` again"
            )
        if not where.exists():
            shipped = ", ".join(BUILTIN_PREFIX + name for name in list_builtin())
            elsewhere = f"make one with `deepfits train`, or take one that came with the package: {shipped}"
            remedy = give_inside(directory, where.name, elsewhere)
            raise InputError(f"{path}: no model.json there, so this is not a model; {remedy}")
        content = read_json(where, what="model description")
        if content.get("schema_version") not in (SCHEMA_VERSION, SCENE_SCHEMA_VERSION):
            raise InputError(
                f"{where}: model schema {content.get('schema_version')!r}, this version reads "
                f"{SCHEMA_VERSION} and {SCENE_SCHEMA_VERSION}; train again or install the version that "
                "wrote it"
            )
        with naming(where, "not a valid model description", "train again"):
            config = ModelConfig.from_json(content["architecture"], f"{where}: architecture")
            info = StoreInfo.from_json(content["info"], f"{where}: info")
            normalisation = Normalisation.from_json(content["normalisation"], f"{where}: normalisation")
        width, key = Annotated[float, Range(gt=0, lt=20)] | None, "reference_fwhm_arcsec"
        reference = convert(content.get(key), width, where=where, key=key)
        if info.flux_unit != FLUX_UNIT:
            raise InputError(f"{where}: the model's unit is {info.flux_unit!r}, only {FLUX_UNIT} is known")
        model = without_allocating(lambda: cls.make(config, info, normalisation, reference))
        parts = {name: content.get(name) for name in ("card", "model_error", "calibration")}
        known = {name: dict(part) for name, part in parts.items() if isinstance(part, Mapping)}
        model.card, model.model_error = known.get("card", {}), known.get("model_error")
        model.calibration = known.get("calibration")
        weights = directory / "weights.safetensors"
        tensors = read_tensors(weights, {key: tuple(t.shape) for key, t in model.state_dict().items()})
        if fingerprint(weights) != content.get("weights_sha256"):
            raise InputError(
                f"{weights}: not the weights that model.json describes; copy or train the model again"
            )
        # Copied, because views of a memory-mapped file would crash if the file changed.
        own = {key: tensor.to(torch.float32, copy=True) for key, tensor in tensors.items()}
        model.networks.load_state_dict(own, assign=True)
        model.eval()._probe(directory)
        return model.to(device)

    @torch.no_grad()
    def _probe(self, directory: Path) -> None:
        """Render and embed once, since finite weights may still produce NaN."""
        image = self.render(torch.zeros(1, self.config.latent_size))
        sight = None if self.grid is None else Sight.nominal(self.grid, len(self.info.bands))
        latent = self.embed(image, torch.ones_like(image), sight)
        if not (torch.isfinite(image).all() and torch.isfinite(latent).all()):
            raise InputError(
                f"{directory}: the networks do not draw or embed finite numbers; copy the model again, or "
                "train it again"
            )


def resolve(path: str | Path) -> Path:
    """Return the directory of a model, given as a path or as ``builtin:NAME``."""
    text = str(path)
    if not text.startswith(BUILTIN_PREFIX):
        return Path(path)
    name = text.removeprefix(BUILTIN_PREFIX)
    if name not in (names := list_builtin()):
        raise InputError(f"no model {text!r} came with the package; there are: {', '.join(names) or 'none'}")
    return BUILTIN_DIRECTORY / name


def list_builtin() -> list[str]:
    """List the names of the models that come with the package."""
    return sorted(p.parent.name for p in BUILTIN_DIRECTORY.glob("*/model.json"))


def _suitable_builtin(info: StoreInfo) -> list[str]:
    """Return the scene models that come with the package and take such cutouts."""
    out = []
    for name in list_builtin():
        model = Model.load(f"{BUILTIN_PREFIX}{name}")
        if model.grid is not None:  # models of images are no more flexible than the one that refused
            with suppress(InputError):
                model.check(info)
                out.append(f"{BUILTIN_PREFIX}{name}")
    return out


def find_builtin(fingerprint: str | None) -> Model | None:
    """Load the model with this fingerprint that comes with the package; None if there is none."""
    if fingerprint is None:
        return None
    models = (Model.load(f"{BUILTIN_PREFIX}{name}") for name in list_builtin())
    return next((model for model in models if model.fingerprint == fingerprint), None)


def read_tensors(path: Path, expected: Mapping[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """Read a safetensors file; raise `InputError` unless it has these names, shapes, and finite numbers."""
    from safetensors import safe_open

    require_regular(path)
    reading = naming(path, "damaged weights", "copy or train the model again")
    with reading, safe_open(path, framework="pt", device="cpu") as file:
        names = set(file.keys())
        if names != set(expected):
            unexpected = sorted(names ^ set(expected))[:3]
            raise InputError(f"{path}: tensors do not match the description, among them {unexpected}")
        for name, shape in expected.items():
            part = file.get_slice(name)
            stored = tuple(part.get_shape())
            if stored != shape or part.get_dtype() not in _DTYPES:
                raise InputError(
                    f"{path}: {name} is {part.get_dtype()} of shape {stored}, expected floats of {shape}"
                )
        tensors = {name: file.get_tensor(name) for name in expected}
    for name, tensor in tensors.items():
        if not math.isfinite(float(tensor.float().sum())):
            raise InputError(f"{path}: {name} holds values that are not finite; train the model again")
    return tensors
