"""A trained model: three networks, the units they work in, and what they were made for, on disk.

Shapes: N objects, L latent dimensions, B bands, H = W pixels.

A model is a directory: ``weights.safetensors`` and ``model.json``, and ``aids.safetensors`` where networks
that help a fit were taught (`deepfits.models.aids`). None of them can run code when it is read, and every
size and type in them is checked against the description before memory is taken. ``model.json`` is written
last and holds the hashes of the weights, so a directory with it is whole.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, cast

import numpy as np
import torch
from torch import Tensor, nn

from deepfits.config import Range, convert
from deepfits.errors import InputError, naming
from deepfits.files import fingerprint, read_json, require_regular, write_json, writing
from deepfits.models.aids import Aids, AidsConfig
from deepfits.models.discriminator import Discriminator
from deepfits.models.embedder import Embedder
from deepfits.models.generator import Generator
from deepfits.models.layers import ModelConfig, without_allocating
from deepfits.models.sight import sight_of
from deepfits.observation import SceneGrid, Sight
from deepfits.photometry import bands_of
from deepfits.splits import evenly_spaced
from deepfits.survey.bands import passband, places_of
from deepfits.survey.normalise import Normalisation
from deepfits.survey.store import FLUX_UNIT, BandOrder, Cutouts, CutoutStore, StoreInfo

SCHEMA_VERSION = 1
SCENE_SCHEMA_VERSION = 2
BUILTIN_PREFIX = "builtin:"
BUILTIN_DIRECTORY = Path(__file__).parent / "builtin"
PIXEL_SCALE_TOLERANCE = 0.01
SEEING_TOLERANCE = 0.25
NETWORKS = ("generator", "discriminator", "embedder")
DRAWN_AT_ONCE = 256
_DTYPES = {"F32", "F16", "BF16"}


@dataclass(eq=False)
class Model:
    """Three networks and what is needed to use them on images in nJy.

    Attributes
    ----------
    info
        What the cutouts must be: bands, size, pixel scale; and the seeing they were trained at.
    normalisation
        Between nJy and the networks' units.
    generator, discriminator, embedder
        The networks, in the networks' units.
    card
        What the model was trained on, how, and how well it does: for people and for reports.
    reference_fwhm_arcsec
        The generator draws scenes at this PSF, a round Gaussian, and `info` describes their grid; the data
        may have any PSF that is wider, and any pixels (`deepfits.observation`). None: it draws images as
        they are observed.
    model_error
        What the generator draws wrong, as `deepfits.fitting.error_measurement` learns it, or None.
    aids
        What helps a fit, or None.
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
    aids: Aids | None = None

    @classmethod
    def make(
        cls,
        config: ModelConfig,
        info: StoreInfo,
        normalisation: Normalisation,
        reference_fwhm_arcsec: float | None = None,
    ) -> Model:
        """Make an untrained model; seed `torch` first if the start matters."""
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
        """What scenes are drawn on; None for a model that draws images."""
        if self.reference_fwhm_arcsec is None:
            return None
        return SceneGrid(
            size=self.info.size,
            pixel_scale_arcsec=self.info.pixel_scale_arcsec,
            reference_fwhm_arcsec=self.reference_fwhm_arcsec,
        )

    def cutout_size(self, pixel_scale_arcsec: float) -> int:
        """Return the side of the cutouts that the model takes, in their pixels."""
        if self.grid is None:
            return self.info.size
        return int(self.info.size * self.info.pixel_scale_arcsec / pixel_scale_arcsec + 1e-6)

    def sight(self, cutouts: Cutouts, info: StoreInfo) -> Sight | None:
        """Describe how cutouts of a store were observed; None where the model does not need to know.

        Raises
        ------
        InputError
            A band with data whose PSF is unknown or sharper than the model's scenes.
        """
        if self.grid is None:
            return None
        if (order := self.order(info)) is not None:
            cutouts, info = order.cutouts(cutouts), order.info(info)
        return sight_of(cutouts, info, self.grid).to(self._like.device)

    def order(self, info: StoreInfo) -> BandOrder | None:
        """Say how the bands of a store become the model's; None where they are.

        A model of scenes takes what bands there are, in any order; one that draws images takes its own alone.
        """
        return None if self.grid is None else BandOrder.of(info.bands, self.info.bands)

    def open(self, store: CutoutStore) -> CutoutStore:
        """Return a store as the model takes it: in its bands, weight 0 where the store has none."""
        return store if self.grid is None else store.in_bands(self.info.bands)

    def require_psf(self, store: CutoutStore) -> None:
        """Refuse a store, opened for the model, that knows no PSF of a band in which its objects have data.

        Raises
        ------
        InputError
            As `sight` has it, before any object is fitted.
        """
        is_unknown = np.isnan(store.info.fwhm_arcsec)
        if self.grid is None or not is_unknown.any() or not len(store):
            return
        try:
            some = store.take(evenly_spaced(len(store), 16))
        except InputError:  # damaged: the shard is named when it is its turn
            return
        if some.psf is not None:
            is_unknown &= ~np.isfinite(some.psf).all(axis=(2, 3)).any(axis=0)
        if (is_unknown & (some.weight > 0).any(axis=(2, 3)).all(axis=0)).any():
            self.sight(some, store.info)

    def render(self, latent: Tensor | np.ndarray, sight: Sight | None = None) -> Tensor:
        """Draw images in nJy, ``(N, B, H, W)``, from latents ``(N, L)``; differentiable.

        A model of scenes draws the scenes themselves, or, given how objects were observed, what their pixels
        would hold.
        """
        if isinstance(latent, np.ndarray):
            latent = self._to_tensor(latent)
        flux = self.normalisation.denormalise(self.generator(latent))
        return flux if sight is None or self.grid is None else sight.observation()(flux)

    @torch.no_grad()
    def draw(
        self,
        features: Mapping[str, np.ndarray],
        rows: Sequence[int] | np.ndarray | None = None,
        *,
        store: CutoutStore | None = None,
        sight: Sight | None = None,
    ) -> np.ndarray:
        """Draw best fits as the features have them, amplitudes included: ``(n, B, H, W)`` in nJy.

        Parameters
        ----------
        features
            Columns, from `deepfits.read_features` or `deepfits.join`.
        rows
            Which objects: row numbers, or ``(N,)`` bool; all by default.
        store
            The cutouts that were fitted: a model of scenes then draws what their pixels show, through the PSF
            of each object; without them, the scenes themselves.
        sight
            In place of `store`, where it is known how these objects were observed.

        Returns
        -------
        ndarray
            NaN for objects without a fit.

        Raises
        ------
        InputError
            Features of another model, or objects that are not in the store.
        """
        chosen = np.arange(len(features["latent"]))
        if rows is not None:
            chosen = chosen[np.asarray(rows)]
        known = features["model_hash"][chosen] if "model_hash" in features else ()
        for model_hash in np.unique(known).tolist():
            if model_hash != self.fingerprint:
                raise InputError(
                    f"these features were fitted with model {model_hash}, this is {self.fingerprint}; load "
                    "that one"
                )
        if store is not None and self.grid is not None:
            cutouts = store.take(store.rows_of(features["object_id"][chosen]))
            sight = self.sight(cutouts, store.info)
        parts = []
        for first in range(0, len(chosen), DRAWN_AT_ONCE):
            part = slice(first, first + DRAWN_AT_ONCE)
            latent = self._to_tensor(features["latent"][chosen[part]])
            parts.append(self.render(latent, None if sight is None else sight[part]).cpu().numpy())
        side = self.info.size if sight is None or self.grid is None else sight.size
        shape = (0, len(self.info.bands), side, side)
        drawn = np.concatenate(parts) if parts else np.empty(shape, dtype=np.float32)
        names = bands_of(features, "amplitude")
        for index, place in enumerate(places_of(self.info.bands, names)):  # called as the store calls them
            if place is not None:
                drawn[:, index] *= features[f"amplitude_{names[place]}"][chosen, None, None]
        return drawn

    def _repr_html_(self) -> str:
        from deepfits.notebook import NUM_PICTURES, describe

        latent = torch.randn(
            NUM_PICTURES, self.config.latent_size, generator=torch.Generator().manual_seed(0)
        )
        with torch.no_grad():
            pictures = self.render(self._to_tensor(latent)).cpu().numpy()
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
        """Turn images, in nJy with weights in nJy⁻², into the input of discriminator and embedder."""
        image, weight = (a if isinstance(a, Tensor) else self._to_tensor(a) for a in (image, weight))
        image = torch.where(weight > 0, image, 0.0)
        if self.grid is not None:
            if sight is None:
                raise ValueError("a model of scenes must be told how the images were observed")
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
        """Guess latents, ``(N, L)``, from images in nJy and weights in nJy⁻², both ``(N, B, H, W)``.

        Pixels without data (weight 0) are set to zero flux, whatever stands there.
        """
        return self.embedder(self.network_input(self._to_tensor(image), self._to_tensor(weight), sight))

    @property
    def _like(self) -> Tensor:
        """A tensor of the networks' type, on their device."""
        return cast(Tensor, self.embedder.last.bias)

    def _to_tensor(self, array: Tensor | np.ndarray) -> Tensor:
        return torch.as_tensor(array, dtype=self._like.dtype, device=self._like.device)

    def to(self, device: torch.device | str) -> Model:
        """Move the networks to a device, and return the model."""
        for network in self._all_networks():
            network.to(device)
        return self

    def eval(self) -> Model:
        """Freeze the networks for use, and return the model: no gradients for the weights."""
        for network in self._all_networks():
            network.eval().requires_grad_(False)
        return self

    def _all_networks(self) -> list[nn.Module]:
        return [*(getattr(self, name) for name in NETWORKS), *([] if self.aids is None else [self.aids])]

    def check(self, info: StoreInfo, *, to_train: bool = False) -> list[str]:
        """Refuse cutouts that the model was not made for.

        Parameters
        ----------
        to_train
            Refuse cutouts larger than the scenes too; fits give what lies beyond weight 0.

        Returns
        -------
        list of str
            Cautions that do not forbid the use: another seeing, other filters of nearly the same passband,
            bands that are left out or missing.

        Raises
        ------
        InputError
            Other bands, size, pixel scale or unit: every reason, each with what to do.
        """
        reasons = []
        order = None if to_train else self.order(info)
        is_known = [passband(b) for b in info.bands] == [passband(b) for b in self.info.bands]
        if not (is_known if order is None else any(place is not None for place in order.places)):
            reasons.append(
                f"bands {'-'.join(info.bands)}, the model knows {'-'.join(self.info.bands)}: cut again with "
                f"bands={','.join(self.info.bands)} and allow_missing (weight 0 where there is no data), or "
                "train a model"
            )
        side, scene = (store.size * store.pixel_scale_arcsec for store in (info, self.info))
        is_beyond = self.grid is not None and side > scene + info.pixel_scale_arcsec
        beyond = f"{side:.1f} arcsec a side, the model's scenes have {scene:.1f}"
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
            suiting = [] if to_train or self.grid is not None else _suiting(info)
            reasons += [f"or take {name}, which takes these cutouts" for name in suiting]
            raise InputError("the cutouts do not fit the model: " + "; ".join(reasons))
        cautions = self._cautions(info)
        return [*cautions, f"{beyond}: what lies beyond gets weight 0"] if is_beyond else cautions

    def _cautions(self, info: StoreInfo) -> list[str]:
        order = self.order(info)
        names = info.bands if order is None else order.bands
        others = [
            f"band {here}: taken for the model's {there}; their passbands are nearly the same, not equal"
            for here, there in zip(names, self.info.bands, strict=True)
            if here != there
        ]
        if order is not None:
            there = zip(names, order.places, strict=True)
            words = "not in the store; it has weight 0, and the model draws it"
            others += [f"band {band}: {words}" for band, place in there if place is None]
            words = f"left out, since the model knows {'-'.join(self.info.bands)}"
            others += [f"band {band}: {words}" for band in info.bands if band not in names]
        if self.grid is not None:
            return others
        return others + [
            f"band {band}: seeing {there:.2f} arcsec, the model was trained at {here:.2f}"
            for band, here, there in zip(info.bands, self.info.fwhm_arcsec, info.fwhm_arcsec, strict=True)
            if abs(there / here - 1) > SEEING_TOLERANCE  # False where either is unknown (NaN)
        ]

    @cached_property
    def fingerprint(self) -> str:
        """16 hexadecimal digits that change with the weights, the units or what the model is for.

        Computed once: ask after the last change to the weights.
        """
        digest = hashlib.sha256(json.dumps(self._identity(), sort_keys=True).encode())
        for name, tensor in sorted((self.state_dict() | self._aids_state()).items()):
            digest.update(name.encode())
            digest.update(tensor.detach().cpu().float().contiguous().numpy().tobytes())
        return digest.hexdigest()[:16]

    def _identity(self) -> dict[str, Any]:
        described = {"architecture": self.config, "info": self.info, "normalisation": self.normalisation}
        known = {"reference_fwhm_arcsec": self.reference_fwhm_arcsec, "model_error": self.model_error}
        return {name: part.to_json() for name, part in described.items()} | {
            name: value for name, value in known.items() if value is not None
        }

    def state_dict(self) -> dict[str, Tensor]:
        """Return all tensors of the three networks, each under its network's name."""
        return _state({name: getattr(self, name) for name in NETWORKS})

    def _aids_state(self) -> dict[str, Tensor]:
        return {} if self.aids is None else _state({"aids": self.aids})

    def save(self, directory: str | Path, *, dtype: Literal["float32", "float16"] = "float32") -> Path:
        """Write the model; ``model.json`` comes last, so that a directory with it is whole."""
        from safetensors.torch import save as serialised

        directory = Path(directory)
        to, hashes = getattr(torch, dtype), {}
        for name, state in (("weights", self.state_dict()), ("aids", self._aids_state())):
            if state:
                tensors = {k: t.detach().cpu().to(to).contiguous() for k, t in state.items()}
                with writing(directory / f"{name}.safetensors") as path:
                    path.write_bytes(serialised(tensors))  # its save_file() lets nobody else read it
                hashes[f"{name}_sha256"] = fingerprint(directory / f"{name}.safetensors")
        content = {
            "schema_version": SCHEMA_VERSION if self.grid is None else SCENE_SCHEMA_VERSION,
            **self._identity(),
            **({} if self.aids is None else {"aids": self.aids.config.to_json()}),
            **hashes,
            "card": self.card,
        }
        write_json(directory / "model.json", content)
        return directory

    @classmethod
    def load(cls, path: str | Path, device: torch.device | str = "cpu") -> Model:
        """Read a model's directory, or ``builtin:NAME``, ready for use: evaluation mode, weights frozen.

        Raises
        ------
        InputError
            No model there, unfinished training, another schema, or weights that are damaged or do not fit the
            description.
        """
        directory = resolve(path)
        where = directory / "model.json"
        if not where.exists() and (directory / "checkpoints").is_dir():
            raise InputError(
                f"{directory}: this model's training is not finished; run the same `deepfits train` again"
            )
        if not where.exists():
            shipped = ", ".join(BUILTIN_PREFIX + name for name in list_builtin())
            raise InputError(
                f"{path}: no model.json there, so this is not a model; make one with `deepfits train`, or "
                f"take one that came with the package: {shipped}"
            )
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
        if (aids := content.get("aids")) is not None:
            aids = AidsConfig.from_json(aids, f"{where}: aids")
        width, key = Annotated[float, Range(gt=0, lt=20)] | None, "reference_fwhm_arcsec"
        reference = convert(content.get(key), width, where=where, key=key)
        if info.flux_unit != FLUX_UNIT:
            raise InputError(f"{where}: the model's unit is {info.flux_unit!r}, only {FLUX_UNIT} is known")
        model = without_allocating(lambda: cls.make(config, info, normalisation, reference))
        card, measured = content.get("card"), content.get("model_error")
        model.card = dict(card) if isinstance(card, Mapping) else {}
        model.model_error = dict(measured) if isinstance(measured, Mapping) else None
        networks = {name: getattr(model, name) for name in NETWORKS}
        _read_into(networks, directory / "weights.safetensors", str(content.get("weights_sha256")))
        if aids is not None:
            model.aids = without_allocating(lambda: Aids(config, aids))
            _read_into({"aids": model.aids}, directory / "aids.safetensors", str(content.get("aids_sha256")))
        model.eval()._probe(directory)
        return model.to(device)

    @torch.no_grad()
    def _probe(self, directory: Path) -> None:
        """Draw and embed once: weights that are finite each may still make NaN together."""
        image = self.render(torch.zeros(1, self.config.latent_size))
        sight = None if self.grid is None else Sight.nominal(self.grid, len(self.info.bands))
        latent = self.embed(image, torch.ones_like(image), sight)
        if not (torch.isfinite(image).all() and torch.isfinite(latent).all()):
            raise InputError(
                f"{directory}: the networks do not draw or embed finite numbers; copy the model again, or "
                "train it again"
            )


def _state(networks: Mapping[str, nn.Module]) -> dict[str, Tensor]:
    """Return all tensors of networks, each under its network's name."""
    return {
        f"{name}.{key}": t for name, network in networks.items() for key, t in network.state_dict().items()
    }


def _read_into(networks: Mapping[str, nn.Module], path: Path, sha256: str) -> None:
    """Read the weights of networks, by their names, from a file that has to be the one that was described."""
    tensors = read_tensors(path, {key: tuple(t.shape) for key, t in _state(networks).items()})
    if fingerprint(path) != sha256:
        raise InputError(f"{path}: other weights than model.json says; copy or train the model again")
    for name, network in networks.items():
        # Copies: a view of a file that later changes would crash.
        own = {k: tensors[f"{name}.{k}"].to(torch.float32, copy=True) for k in network.state_dict()}
        network.load_state_dict(own, assign=True)


def resolve(path: str | Path) -> Path:
    """Return the directory that a path or a ``builtin:NAME`` means."""
    text = str(path)
    if not text.startswith(BUILTIN_PREFIX):
        return Path(path)
    name = text.removeprefix(BUILTIN_PREFIX)
    if name not in (names := list_builtin()):
        raise InputError(f"no model {text!r} came with the package; there are: {', '.join(names) or 'none'}")
    return BUILTIN_DIRECTORY / name


def list_builtin() -> list[str]:
    """List the names of the models that came with the package."""
    return sorted(p.parent.name for p in BUILTIN_DIRECTORY.glob("*/model.json"))


def _suiting(info: StoreInfo) -> list[str]:
    """Return the models of scenes that came with the package and take cutouts such as these."""
    out = []
    for name in list_builtin():
        model = Model.load(f"{BUILTIN_PREFIX}{name}")
        if model.grid is not None:  # else it is as particular as the model that was asked
            with suppress(InputError):
                model.check(info)
                out.append(f"{BUILTIN_PREFIX}{name}")
    return out


def find_builtin(fingerprint: str | None) -> Model | None:
    """Load the model that came with the package and has this fingerprint; None if none has."""
    if fingerprint is None:
        return None
    models = (Model.load(f"{BUILTIN_PREFIX}{name}") for name in list_builtin())
    return next((model for model in models if model.fingerprint == fingerprint), None)


def read_tensors(path: Path, expected: Mapping[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """Read a safetensors file whose names, shapes and types must be those expected, checked before reading.

    Raises
    ------
    InputError
        The file is absent, damaged, or holds anything else.
    """
    from safetensors import safe_open

    require_regular(path)
    reading = naming(path, "damaged weights", "copy or train the model again")
    with reading, safe_open(path, framework="pt", device="cpu") as file:
        names = set(file.keys())
        if names != set(expected):
            unexpected = sorted(names ^ set(expected))[:3]
            raise InputError(f"{path}: other tensors than the description says, among them {unexpected}")
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
