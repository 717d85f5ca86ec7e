"""Parameters that several stages share, stated once: each group is inherited by the stages that take it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from deepfits.stages.stage import NEUTRAL, Common, part_of
from deepfits.tables.conditions import as_conditions

if TYPE_CHECKING:
    from deepfits.scale.cluster import Workers
    from deepfits.survey.fields import ImageSet

Images = str | Path | Sequence[str | Path]
PerBand = Sequence[str] | float | Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class InProcesses(Common):
    """Work that is shared out to processes.

    Parameters
    ----------
    workers
        Processes on this machine that work at the same time, each on parts of its own. Changes no number.
    """

    workers: Annotated[int, NEUTRAL] = 1


@dataclass(frozen=True, kw_only=True)
class OnCluster(InProcesses):
    """Work that a cluster may do.

    Parameters
    ----------
    scheduler
        Address (``tcp://HOST:8786``, or a scheduler file) of a Dask scheduler, whose workers then do the
        work; they need to see the same paths.
    """

    scheduler: Annotated[str | None, NEUTRAL] = None


@dataclass(frozen=True, kw_only=True)
class OnWorkers(OnCluster):
    """Work that is shared out, shard by shard.

    Parameters
    ----------
    threads
        Cores to use, of all workers together; PyTorch's own choice by default. Changes no number.
    device
        ``"cpu"`` or ``"cuda"``. Workers on this machine take turns among its GPUs; those of a scheduler use
        the one that they were given.
    partial
        Take inputs that are not finished: some shards are missing, or still being made.
    """

    threads: Annotated[int | None, NEUTRAL] = None
    device: Annotated[str, NEUTRAL] = "cpu"
    partial: Annotated[bool, NEUTRAL] = False

    def hands(self) -> Workers:
        """Return who works."""
        from deepfits.scale.cluster import Workers

        return Workers(
            number=self.workers, scheduler=self.scheduler, threads=self.threads, device=self.device
        )


@dataclass(frozen=True, kw_only=True)
class Choosing(Common):
    """Which objects are taken.

    Parameters
    ----------
    where
        Conditions on the columns of the catalogue, all of which must hold: ``"flags == 0"``,
        ``"mag_i < 22"``, ``"kind == galaxy"``. Objects without a value are left out.
    """

    where: Sequence[str] | str | None = None

    def __post_init__(self) -> None:
        if self.where is not None:
            object.__setattr__(self, "where", as_conditions(self.where) or None)


@dataclass(frozen=True, kw_only=True)
class Reading(Common):
    """How images are read.

    Parameters
    ----------
    bands
        Bands to use, in this order; all by default.
    zero_point
        AB zero point where the headers have none: ``27``, or one for each band, ``["u=30", "g=27"]``.
    pixel_scale
        Arcseconds per pixel, for images without WCS.
    bad_planes
        Names of mask planes whose pixels count as no data.
    mask_polarity
        What a non-zero pixel of a mask without named planes means: ``"bad"`` or ``"good"``.
    weight_scale
        What weights mean: ``"auto"`` (those that do not agree with the measured noise are relative and are
        scaled), ``"absolute"`` (inverse variances as they stand) or ``"relative"`` (always scaled).
    """

    bands: Sequence[str] | None = None
    zero_point: PerBand | None = None
    pixel_scale: float | None = None
    bad_planes: Sequence[str] | None = None
    mask_polarity: Literal["bad", "good"] | None = None
    weight_scale: Literal["auto", "absolute", "relative"] = "auto"


@dataclass(frozen=True, kw_only=True)
class ReadingFields(Reading):
    """How images of fields are read, whose bands belong together.

    Parameters
    ----------
    assume_aligned
        Images without WCS: the bands are aligned pixel to pixel.
    """

    assume_aligned: bool = False

    def find(self, images: Images, **others: Any) -> ImageSet:
        """Find the fields of images; `others` go to `deepfits.survey.fields.image_set` instead."""
        from deepfits.survey.fields import image_set

        paths = [images] if isinstance(images, str | Path) else list(images)
        return part_of(self, image_set, images=paths, **others)


@dataclass(frozen=True, kw_only=True)
class ReadingOnGrid(ReadingFields):
    """How images are brought to one grid.

    Parameters
    ----------
    reference_band
        The band whose pixel grid the others are brought to; i, else r, z or g, else the middle one.
    allow_missing
        Fields that lack a band are taken, without data in it.
    """

    reference_band: str | None = None
    allow_missing: bool = False

    def find(self, images: Images, **others: Any) -> ImageSet:
        """Find the fields of images."""
        return super().find(images, reference=self.reference_band, **others)


@dataclass(frozen=True, kw_only=True)
class Detecting(ReadingOnGrid):
    """What counts as a source.

    Parameters
    ----------
    threshold
        In standard deviations of the smoothed combined image.
    min_pixels
        Connected pixels above the threshold that a source needs.
    smoothing_arcsec
        FWHM of the Gaussian that the image is smoothed with; 2.5 pixels by default.
    min_snr
        Keep sources with at least this signal-to-noise of the total flux, all bands together. The default
        keeps everything.
    """

    threshold: float = 4.0
    min_pixels: int = 5
    smoothing_arcsec: float | None = None
    min_snr: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Solving(Choosing, OnWorkers):
    """How a latent is fitted to an image.

    Parameters
    ----------
    objective
        ``"flux"`` (χ² in nJy), ``"stretched"`` (the same noise, carried into the network's units), or
        ``"paper"`` (squared differences in the network's units, every valid pixel alike: M19 eq. 2).
    solver
        ``"lbfgs"``, ``"lbfgs-plain"`` or ``"adam"`` (the paper's).
    num_steps
        The most steps per object.
    tolerance
        A fit ends when a step would lower the objective by less than this; see `deepfits.fitting.fit`.
    num_starts
        Starts per object, the best of which is kept. In mode ``"both"`` the first is the embedder's guess.
    prior_strength
        Of the unit-normal prior on the latent. By default 1, the maximum a posteriori; for the paper's
        objective 0.
    amplitudes
        ``"after"``: 1 in the fit, so that latents carry brightness and colour; at the best latent each band's
        is solved for once, and multiplies the model's fluxes. ``"fit"``: free in the fit, by variable
        projection, with ``objective="flux"`` alone. ``"none"``: 1 throughout, as in M19. By default
        ``"after"``; for the paper's objective ``"none"``.
    centre_fwhm_arcsec
        Let the weights fall off from the middle with this width.
    held_out_only, object_ids
        Fit only the objects that training never saw, or only these.
    batch_size
        Objects that are fitted side by side.
    seed
        Of the random starts, which depend on seed and identity alone.
    """

    objective: Literal["flux", "stretched", "paper"] = "flux"
    solver: Literal["lbfgs", "lbfgs-plain", "adam"] = "lbfgs"
    num_steps: int | None = None
    tolerance: float | None = None
    num_starts: int = 1
    prior_strength: float | None = None
    amplitudes: Literal["after", "fit", "none"] | None = None
    centre_fwhm_arcsec: float | None = None
    held_out_only: bool = False
    object_ids: Sequence[int | str] | None = None
    batch_size: int = 64
    seed: int = 0
