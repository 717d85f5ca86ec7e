"""Groups of parameters shared by several stages, defined once and inherited by the stages that take them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from deepfits.config import NAMES_FILES, Range
from deepfits.errors import InputError
from deepfits.fitting.settings import SolverSettings
from deepfits.scale.cluster import Workers
from deepfits.stages.stage import INPUT, NEUTRAL, Common, refuse_given
from deepfits.survey.bands import pairs_in
from deepfits.survey.reading import FieldReadingOptions, PerBand, ReadingOptions
from deepfits.survey.sources import SourceOptions
from deepfits.tables import as_conditions, exists

if TYPE_CHECKING:
    from deepfits.survey.fields import ImageSet

Images = str | Path | Sequence[str | Path]


def as_list(paths: Images) -> list[str | Path]:
    """Return the paths as a list, also where a single one is given, and ``band=path,band=path`` split."""
    out: list[str | Path] = []
    for path in [paths] if isinstance(paths, str | Path) else paths:
        is_one = isinstance(path, Path) or "=" not in path or Path(path).exists()
        out += [path] if is_one else pairs_in(str(path))
    return out


def images_at(images: Images, place: Callable[[str], str]) -> list[str]:
    """Map paths of images through `place`; the band of ``band=path`` and the end of ``tiles/*/`` are kept."""

    def moved(image: str) -> str:
        band, equals, path = image.partition("=")
        slash = "/" * image.endswith("/")  # only directories match
        return (f"{band}={place(path)}" if equals and "/" not in band else place(image)) + slash

    return [moved(str(image)) for image in as_list(images)]


@dataclass(frozen=True, kw_only=True)
class Partial(Common):
    """Unfinished inputs."""

    partial: Annotated[bool, NEUTRAL] = False
    """Accept inputs that are not finished, with shards that are missing or still being written."""


@dataclass(frozen=True)
class OfRun(Partial):
    """Further inputs."""

    run: str | Path
    """A run directory (``features-both/``, ``cutouts/``, ``model/``, ``redshift/`` and tables from `redshift
    predict` and `property predict` in it are used), or a directory of features from `fit`."""
    _: KW_ONLY
    store: str | Path | None = None
    """Cutout store of the features, if it is not in the run directory. Needed to show images."""
    model: str | Path | None = None
    """Model of the features, if it is not in the run directory. Needed to draw best fits."""
    predictions: Sequence[str | Path] = ()
    """Further tables of predicted redshifts or properties, if they are not in the run directory."""


@dataclass(frozen=True, kw_only=True)
class InProcesses(Common):
    """Parallel processes."""

    workers: Annotated[int, NEUTRAL, Range(ge=1, le=256)] = 1
    """Number of processes on this machine that share the work. Does not affect the results."""


@dataclass(frozen=True, kw_only=True)
class OnCluster(InProcesses):
    """Dask cluster."""

    scheduler: Annotated[str | None, NEUTRAL] = None
    """Address of a Dask scheduler (``tcp://HOST:8786``, or a scheduler file) whose workers do the work. They
    must see the same file paths."""


@dataclass(frozen=True, kw_only=True)
class OnWorkers(OnCluster, Partial):
    """Threads and device."""

    workers: Annotated[int, NEUTRAL, Range(ge=0, le=256)] = 1  # 0 also means this process
    threads: Annotated[int | None, NEUTRAL, Range(ge=1)] = None
    """CPU threads, shared by all workers; by default PyTorch decides. Does not affect the results."""
    device: Annotated[str, NEUTRAL] = "cpu"
    """``"cpu"``, ``"cuda"`` or ``"auto"`` (a GPU if there is one). Workers on this machine are spread over
    its GPUs; a scheduler's workers use the GPU assigned to them."""

    def pool(self) -> Workers:
        """Return the workers that share the shards."""
        return Workers(
            number=self.workers, scheduler=self.scheduler, threads=self.threads, device=self.device
        )


@dataclass(frozen=True, kw_only=True)
class Choosing(Common):
    """Object selection."""

    where: Sequence[str] | str | None = None
    """Use only objects whose catalogue columns satisfy all these conditions, such as ``"flags == 0"``,
    ``"mag_auto_i < 22"`` or ``"field == A"``. Objects with a missing value are excluded."""

    def __post_init__(self) -> None:
        getattr(super(), "__post_init__", lambda: None)()  # of the other base classes
        if self.where is not None:
            object.__setattr__(self, "where", as_conditions(self.where) or None)


@dataclass(frozen=True, kw_only=True)
class Reading(ReadingOptions, Common):
    """Bands."""

    bands: Sequence[str] | None = None
    """Bands to use, in this order, such as ``u,g,r``; all by default."""


@dataclass(frozen=True, kw_only=True)
class ReadingFields(Reading, FieldReadingOptions):
    """Images of fields, each observed in several bands."""

    def find(self, images: Images, **others: Any) -> ImageSet:
        """Group images into fields; `others` are passed to `deepfits.survey.fields.image_set`."""
        from deepfits.survey.fields import image_set

        reading = {f.name: getattr(self, f.name) for f in fields(FieldReadingOptions)}
        return image_set(as_list(images), bands=self.bands, **reading, **others)


@dataclass(frozen=True, kw_only=True)
class ReadingOnGrid(ReadingFields):
    """Common pixel grid."""

    reference_band: str | None = None
    """Band onto whose pixel grid the others are aligned. By default i, or the first of r, z and g that is
    there, or else the middle one."""
    allow_missing: bool = False
    """Accept fields that lack a band, or have no data in it; it has weight 0 there."""

    def find(self, images: Images, **others: Any) -> ImageSet:
        """Group images into fields, with the options of the common grid."""
        return super().find(images, reference=self.reference_band, allow_missing=self.allow_missing, **others)


@dataclass(frozen=True, kw_only=True)
class Detecting(ReadingOnGrid, SourceOptions):
    """Source selection."""

    smoothing_arcsec: Annotated[float, Range(gt=0)] | None = None
    """FWHM of the Gaussian kernel with which the detection image is smoothed; 2.5 pixels by default."""
    min_snr: Annotated[float, Range(ge=0)] = 0.0
    """Keep only sources whose total flux, in all bands together, has at least this signal-to-noise ratio. By
    default all sources are kept."""


def require_catalogue(config: Detecting, path: str | Path) -> None:
    """Refuse a catalogue that does not exist, and options of detection together with one."""
    names = {f.name for f in fields(Detecting)} - {f.name for f in fields(ReadingOnGrid)}
    refuse_given(config, names, "with a catalogue; leave it out, or select the objects with where")
    if not exists(path):
        raise InputError(f"{path}: no such catalogue; check the path, or leave it out to detect")


@dataclass(frozen=True, kw_only=True)
class Cutting(Detecting):
    """Cutouts."""

    shard_size: Annotated[int, Range(ge=1)] = 2048
    """Number of objects in each file of the store."""
    survey: str = ""
    """Name of the survey, shown in reports and model cards."""
    psf: Annotated[PerBand | Mapping[str, str] | None, NAMES_FILES] = None
    """PSF of one or several bands: ``g=0.8`` (FWHM in arcsec), ``g=0.8:2.5`` (FWHM and Moffat β),
    ``g=PSF.fits`` (an image) or ``g=MODEL.psf`` (a PSFEx model). Without a band, it holds for all bands. By
    default the PSF is measured from stars in the field if there are enough, otherwise taken from ``FWHM`` in
    the header, otherwise recorded as unknown."""
    keep_duplicates: bool = False
    """Cut out every detection of an object in overlapping fields. By default only the primary detection is
    cut out, and ``summary.json`` counts the others. This needs a catalogue made by `detect`."""


@dataclass(frozen=True)
class Solving(Choosing, SolverSettings, OnWorkers):
    """Objects to fit."""

    store: Annotated[str | Path, INPUT]
    """Cutout store, from `cutouts`."""
    model: Annotated[str | Path, INPUT]
    """Trained model, from `train`, or ``builtin:NAME``."""
    out: str | Path
    """Output directory."""
    _: KW_ONLY
    held_out_only: bool = False
    """Fit only the held-out objects, which training never uses."""
    object_ids: Sequence[int | str] | None = None
    """Fit only the objects with these identifiers (`object_id`)."""
