"""Parameters that several stages share, stated once: each group is inherited by the stages that take it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from deepfits.config import Range
from deepfits.fitting.settings import SolverSettings
from deepfits.scale.cluster import Workers
from deepfits.stages.stage import INPUT, NEUTRAL, Common
from deepfits.survey.reading import FieldReadingOptions, PerBand, ReadingOptions
from deepfits.survey.sources import SourceOptions
from deepfits.tables.conditions import as_conditions

if TYPE_CHECKING:
    from deepfits.survey.fields import ImageSet

Images = str | Path | Sequence[str | Path]


def as_list(paths: Images) -> list[str | Path]:
    """Return one path as a list of one."""
    return [paths] if isinstance(paths, str | Path) else list(paths)


def images_at(images: Images, place: Callable[[str], str]) -> list[str]:
    """Return images under other paths; ``band=path`` keeps its band."""

    def moved(image: str) -> str:
        band, equals, path = image.partition("=")
        return f"{band}={place(path)}" if equals and "/" not in band else place(image)

    return [moved(str(image)) for image in as_list(images)]


@dataclass(frozen=True, kw_only=True)
class Partial(Common):
    """Unfinished inputs.

    Parameters
    ----------
    partial
        Accept inputs that are not finished, with shards missing or still being made.
    """

    partial: Annotated[bool, NEUTRAL] = False


@dataclass(frozen=True, kw_only=True)
class InProcesses(Common):
    """Parallel work.

    Parameters
    ----------
    workers
        Processes on this machine that work at the same time. The results do not depend on it.
    """

    workers: Annotated[int, NEUTRAL, Range(ge=1, le=256)] = 1


@dataclass(frozen=True, kw_only=True)
class OnCluster(InProcesses):
    """Work on a cluster.

    Parameters
    ----------
    scheduler
        Address (``tcp://HOST:8786``, or a scheduler file) of a Dask scheduler, whose workers then do the
        work; they must see the same paths.
    """

    scheduler: Annotated[str | None, NEUTRAL] = None


@dataclass(frozen=True, kw_only=True)
class OnWorkers(OnCluster, Partial):
    """Parallel work, shard by shard.

    Parameters
    ----------
    threads
        Cores to use, of all workers together; PyTorch's own choice by default. Changes no number.
    device
        ``"cpu"`` or ``"cuda"``. Workers on this machine take turns among its GPUs; those of a scheduler use
        the one that they were given.
    """

    workers: Annotated[int, NEUTRAL, Range(ge=0, le=256)] = 1  # 0: this process, too
    threads: Annotated[int | None, NEUTRAL, Range(ge=1)] = None
    device: Annotated[str, NEUTRAL] = "cpu"

    def pool(self) -> Workers:
        """Return who works."""
        return Workers(
            number=self.workers, scheduler=self.scheduler, threads=self.threads, device=self.device
        )


@dataclass(frozen=True, kw_only=True)
class Choosing(Common):
    """Selection of objects.

    Parameters
    ----------
    where
        Conditions on the columns of the catalogue, all of which must hold: ``"flags == 0"``,
        ``"mag_auto_i < 22"``, ``"field == A"``. Objects without a value are left out.
    """

    where: Sequence[str] | str | None = None

    def __post_init__(self) -> None:
        getattr(super(), "__post_init__", lambda: None)()  # of other settings beside it
        if self.where is not None:
            object.__setattr__(self, "where", as_conditions(self.where) or None)


@dataclass(frozen=True, kw_only=True)
class Reading(ReadingOptions, Common):
    """Which bands are read.

    Parameters
    ----------
    bands
        Bands to use, in this order; all by default.
    """

    bands: Sequence[str] | None = None


@dataclass(frozen=True, kw_only=True)
class ReadingFields(Reading, FieldReadingOptions):
    """Images of fields, whose bands belong together."""

    def find(self, images: Images, **others: Any) -> ImageSet:
        """Find the fields of images; `others` go to `deepfits.survey.fields.image_set`."""
        from deepfits.survey.fields import image_set

        reading = {f.name: getattr(self, f.name) for f in fields(FieldReadingOptions)}
        return image_set(images, bands=self.bands, **reading, **others)


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
        return super().find(images, reference=self.reference_band, allow_missing=self.allow_missing, **others)


@dataclass(frozen=True, kw_only=True)
class Detecting(ReadingOnGrid, SourceOptions):
    """Detection.

    Parameters
    ----------
    smoothing_arcsec
        FWHM of the Gaussian that the image is smoothed with; 2.5 pixels by default.
    min_snr
        Keep sources with at least this signal-to-noise of the total flux, all bands together. The default
        keeps everything.
    """

    smoothing_arcsec: Annotated[float, Range(gt=0)] | None = None
    min_snr: Annotated[float, Range(ge=0)] = 0.0


@dataclass(frozen=True, kw_only=True)
class Cutting(Detecting):
    """How objects are cut out.

    Parameters
    ----------
    shard_size
        Objects in one file of the store.
    survey
        A name for people to read.
    psf
        Of the bands, one or several: ``g=0.8`` (FWHM, arcsec), ``g=0.8:2.5`` (with the index of a Moffat
        profile), ``g=PSF.fits`` (an image of it), ``g=MODEL.psf`` (PSFEx); without a band, of all. Where it
        is not given it is measured on the field's stars, where they stand out, else read from ``FWHM`` in the
        header, else said to be unknown.
    keep_duplicates
        Cut all detections of an object that lies on several fields, not the primary one alone. The others are
        counted in ``summary.json``; this holds for catalogues made by `detect`.
    """

    shard_size: Annotated[int, Range(ge=1)] = 2048
    survey: str = ""
    psf: PerBand | Mapping[str, str] | None = None
    keep_duplicates: bool = False


@dataclass(frozen=True)
class Solving(Choosing, SolverSettings, OnWorkers):
    """Which objects are fitted.

    Parameters
    ----------
    store
        The cutout store, from `cutouts`.
    model
        The trained model, from `train`, or ``builtin:NAME``.
    out
        Directory for the results.
    held_out_only
        Fit only the objects that training never saw.
    object_ids
        Fit only the objects with these identities.
    """

    store: Annotated[str | Path, INPUT]
    model: Annotated[str | Path, INPUT]
    out: str | Path
    _: KW_ONLY
    held_out_only: bool = False
    object_ids: Sequence[int | str] | None = None
