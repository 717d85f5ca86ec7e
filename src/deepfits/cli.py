"""The command ``deepfits``: parse, call the stage of the same name, print where its result lies.

Nothing is computed here. Heavy modules are imported by the stages when they run, so that ``--help`` is quick.
"""

from __future__ import annotations

import inspect
import logging
import os
import signal
import sys
import tomllib
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from deepfits.errors import InputError, NonFiniteLossError, explain, nearest

app = typer.Typer(
    name="deepfits",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
)

_THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")
INPUT_ERROR_STATUS = 2
INTERRUPTED_STATUS = 130


class Mode(StrEnum):
    """Where a fit starts and whether it goes on from there."""

    embedder = "embedder"
    optimise = "optimise"
    both = "both"


Images = Annotated[
    list[Path],
    typer.Argument(help="Image files, or directories of them.", metavar="IMAGES...", show_default=False),
]
Store = Annotated[Path, typer.Argument(help="A cutout store (from `deepfits cutouts`).")]
ModelPath = Annotated[Path, typer.Argument(help="A trained model (from `deepfits train`).", metavar="MODEL")]
Seed = Annotated[int, typer.Option(help="Seed of every random draw.")]


@app.callback()
def _common(
    threads: Annotated[
        int | None,
        typer.Option(
            help="Threads for numerical work. The default is the number of cores this process may use, "
            "or OMP_NUM_THREADS where that is set.",
            min=1,
        ),
    ] = None,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Say more of what is done.")] = False,
) -> None:
    """Deep features of galaxies through best fits: from survey images to redshifts.

    Learn features of galaxies from unlabelled multi-band images, fit them to every object, fill in missing
    bands, predict redshifts from few labels (Murray, Fabbro & Yi 2019).

    Start here: `deepfits demo` runs everything on a simulated sky and ends with a page to look at.

    On your own images, one command a stage:

        deepfits check   IMAGES

        deepfits cutouts IMAGES --out run/cutouts

        deepfits train   run/cutouts --out run/model

        deepfits fit     run/cutouts run/model --out run/features-both

        deepfits inpaint run/cutouts run/model --out run/inpaint-u --band u

        deepfits report  run

    Interrupted? Run the same command again: it goes on from there.
    """
    _set_up_threads(threads)
    _set_up_logging(verbose)


def _set_up_threads(threads: int | None) -> None:
    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    for name in _THREAD_VARIABLES:
        if threads is not None:
            os.environ[name] = str(threads)
        else:
            os.environ.setdefault(name, str(available))
    # Threads that wait in a loop slow each other down many times where cores are shared
    # (docs/decisions/04-threads-wait-asleep.md).
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def _set_up_logging(verbose: bool) -> None:
    from rich.logging import RichHandler

    from deepfits.console import console

    handler = RichHandler(console=console, show_path=False, show_level=False, markup=False, highlighter=None)
    handler.setFormatter(logging.Formatter("%(message)s", datefmt="%H:%M:%S"))
    logger = logging.getLogger("deepfits")
    logger.handlers[:] = [handler]
    logger.setLevel(logging.DEBUG if verbose else logging.INFO)
    logger.propagate = False


def _call(name: str, *inputs: Any, more: list[str] | None = None, **options: Any) -> Any:
    """Call the stage `name` of the package with a progress display; `more` is what ``--set`` said."""
    import deepfits
    from deepfits.console import show_progress

    stage = getattr(deepfits, name)
    for key, value in _settings(more or []).items():
        if key not in (valid := set(inspect.signature(stage).parameters) - {"progress"}):
            raise InputError(f"--set {key}: deepfits.{name} has no such argument; {nearest(key, valid)}")
        options[key] = value
    try:
        return stage(*inputs, **options, progress=show_progress)
    except KeyboardInterrupt:
        typer.echo("deepfits: interrupted; run the same command again to go on from here", err=True)
        raise typer.Exit(INTERRUPTED_STATUS) from None


def _names(paths: list[Path]) -> list[str]:
    """Return images as text: ``band=path`` is allowed beside plain paths."""
    return [str(path) for path in paths]


def _settings(given: list[str]) -> dict[str, Any]:
    """Read ``name=value`` pairs; the values as TOML has them, else as text."""
    settings: dict[str, Any] = {}
    for one in given:
        name, equals, value = one.partition("=")
        if not equals or not name:
            raise InputError(f"--set {one}: write it as name=value, for example --set width=256")
        try:
            settings[name] = tomllib.loads(f"value = {value}")["value"]
        except tomllib.TOMLDecodeError:
            settings[name] = value
    return settings


def _done(what: str, path: Any) -> None:
    typer.echo(f"{what}: {path}")


Out = Annotated[Path, typer.Option("--out", "-o", help="Where the result goes.", show_default=False)]
Bands = Annotated[
    list[str] | None,
    typer.Option("--band", "-b", help="Bands, in the order wanted; repeat the option. Default: all."),
]
ReferenceBand = Annotated[
    str | None,
    typer.Option(
        help="Band whose pixel grid the others are brought to. Default: i, else r, z or g, else the middle."
    ),
]
ZeroPoint = Annotated[
    list[str] | None,
    typer.Option(help="AB zero point where headers have none: 27, or u=30; repeat the option."),
]
PixelScale = Annotated[float | None, typer.Option(help="Arcsec per pixel, for images without WCS.", min=0)]
Aligned = Annotated[
    bool, typer.Option("--assume-aligned", help="Images without WCS: the bands share one pixel grid.")
]
BadPlanes = Annotated[
    list[str] | None, typer.Option("--bad-plane", help="Mask planes that mean no data; repeat the option.")
]
MaskPolarity = Annotated[
    str | None, typer.Option(help="For a mask without named planes: bad (non-zero is bad) or good.")
]
AllowMissing = Annotated[
    bool, typer.Option("--allow-missing", help="Take fields that lack a band, with weight 0 in it.")
]
More = Annotated[
    list[str] | None,
    typer.Option(
        "--set", help="Any other argument of the Python function of this name, name=value; repeat the option."
    ),
]
Workers = Annotated[int, typer.Option(help="Processes, each with fields of its own.", min=1)]
Threshold = Annotated[float, typer.Option(help="Detection threshold in units of the noise.", min=0)]
MinPixels = Annotated[int, typer.Option(help="Least number of connected pixels of a source.", min=1)]
WeightScale = Annotated[
    str, typer.Option(help="What weight planes mean: auto, inverse-variance or relative.")
]


ShardWorkers = Annotated[
    int, typer.Option(help="Processes on this machine, each taking shards of its own.", min=0)
]
Scheduler = Annotated[
    str | None,
    typer.Option(help="A Dask scheduler whose workers do the work: tcp://HOST:8786, or its scheduler file."),
]


@app.command()
def simulate(
    out: Annotated[Path, typer.Argument(help="Directory for the images and the truth.", metavar="OUT")],
    survey: Annotated[
        str, typer.Option(help="Which survey to imitate: a name, or a TOML file of your own.")
    ] = "clauds-hsc",
    size: Annotated[int, typer.Option(help="Side of a patch in pixels.", min=64)] = 2000,
    num_patches: Annotated[int, typer.Option(help="How many patches.", min=1)] = 1,
    catalogue: Annotated[
        Path | None, typer.Option(help="Draw the objects of this table instead of a drawn population.")
    ] = None,
    columns: Annotated[
        list[str] | None,
        typer.Option("--column", help="What a column of the catalogue is: mag_u=u_auto; repeat the option."),
    ] = None,
    where: Annotated[
        list[str] | None, typer.Option(help="Condition on the catalogue; repeat the option.")
    ] = None,
    layout: Annotated[str, typer.Option(help="File layout: plain or hsc.")] = "plain",
    defects: Annotated[
        bool, typer.Option("--defects/--no-defects", help="Saturated stars, bad columns, gaps, trails.")
    ] = True,
    exposures: Annotated[
        int, typer.Option(help="Exposures per band beside the coadds, to try `deepfits stack` on.", min=0)
    ] = 0,
    seed: Seed = 1,
    more: More = None,
) -> None:
    """Make a simulated sky: coadds in u g r i z with weights and WCS, and the truth.

    The population, its spectra and its noise follow published laws, so that redshifts can be recovered only
    as far as nature allows.

    Example: `deepfits simulate sky --size 1000`

    Exposures to stack: `deepfits simulate raw --size 600 --exposures 4`
    """
    path = _call(
        "simulate",
        out,
        survey=survey,
        size=size,
        num_patches=num_patches,
        catalogue=catalogue,
        columns=columns,
        where=where,
        layout=layout,
        defects=defects,
        exposures=exposures,
        seed=seed,
        more=more,
    )
    _done("sky", path)


@app.command()
def stack(
    images: Images,
    out: Out,
    bands: Bands = None,
    method: Annotated[str, typer.Option(help="clipped (mean without outliers), mean or median.")] = "clipped",
    clip: Annotated[
        float, typer.Option(help="Outliers lie further off the median than this, in σ.", min=0)
    ] = 4.0,
    register: Annotated[
        str, typer.Option(help="Residual shifts measured on matched sources: report, apply or none.")
    ] = "report",
    grid: Annotated[
        Path | None,
        typer.Option(help="A FITS image whose grid is used; default: the smallest that holds all."),
    ] = None,
    pixel_scale: Annotated[float | None, typer.Option(help="Of the default grid, in arcsec.", min=0)] = None,
    subtract_level: Annotated[
        bool, typer.Option("--subtract-level/--keep-level", help="Take the sky level off each exposure.")
    ] = True,
    zero_point: ZeroPoint = None,
    bad_planes: BadPlanes = None,
    mask_polarity: MaskPolarity = None,
    weight_scale: WeightScale = "auto",
    more: More = None,
) -> None:
    """Stack the exposures of each band onto one grid, with weights.

    Bands that are shifted or rotated against each other come out aligned to the pixel. Fluxes are in nJy.

    Example: `deepfits stack exposures/ --out coadds`
    """
    path = _call(
        "stack",
        _names(images),
        out,
        bands=bands,
        method=method,
        clip=clip,
        register=register,
        grid=grid,
        pixel_scale=pixel_scale,
        subtract_level=subtract_level,
        zero_point=zero_point,
        bad_planes=bad_planes,
        mask_polarity=mask_polarity,
        weight_scale=weight_scale,
        more=more,
    )
    _done("coadds", path)


@app.command()
def check(
    images: Images,
    bands: Bands = None,
    zero_point: ZeroPoint = None,
    pixel_scale: PixelScale = None,
    assume_aligned: Aligned = False,
    bad_planes: BadPlanes = None,
    mask_polarity: MaskPolarity = None,
    weight_scale: WeightScale = "auto",
) -> None:
    """Say what images are there: a table, and warnings that name the remedy. Writes nothing.

    Bands, sizes, units, zero points, pixel scale, seeing, depth, pixels without data, and what looks wrong.

    Example: `deepfits check coadds/`
    """
    findings = _call(
        "check",
        _names(images),
        bands=bands,
        zero_point=zero_point,
        pixel_scale=pixel_scale,
        assume_aligned=assume_aligned,
        bad_planes=bad_planes,
        mask_polarity=mask_polarity,
        weight_scale=weight_scale,
    )
    typer.echo(str(findings))


@app.command()
def detect(
    images: Images,
    out: Out,
    bands: Bands = None,
    reference_band: ReferenceBand = None,
    threshold: Threshold = 4.0,
    min_pixels: MinPixels = 5,
    aperture_arcsec: Annotated[float, typer.Option(help="Diameter of the fixed aperture.", min=0)] = 2.0,
    allow_missing: AllowMissing = False,
    zero_point: ZeroPoint = None,
    pixel_scale: PixelScale = None,
    assume_aligned: Aligned = False,
    bad_planes: BadPlanes = None,
    mask_polarity: MaskPolarity = None,
    weight_scale: WeightScale = "auto",
    workers: Workers = 1,
    more: More = None,
) -> None:
    """Find everything on the images and measure it in every band.

    All bands together make the detection image. Nothing is cut on nature, brightness or shape. The catalogue
    is Parquet, or a FITS table when the name ends in `.fits`.

    Example: `deepfits detect sky --out catalogue.parquet`
    """
    path = _call(
        "detect",
        _names(images),
        out,
        bands=bands,
        reference_band=reference_band,
        threshold=threshold,
        min_pixels=min_pixels,
        aperture_arcsec=aperture_arcsec,
        allow_missing=allow_missing,
        zero_point=zero_point,
        pixel_scale=pixel_scale,
        assume_aligned=assume_aligned,
        bad_planes=bad_planes,
        mask_polarity=mask_polarity,
        weight_scale=weight_scale,
        workers=workers,
        more=more,
    )
    _done("catalogue", path)


@app.command()
def cutouts(
    images: Images,
    out: Out,
    catalogue: Annotated[
        Path | None,
        typer.Option("--catalogue", "-c", help="Your own catalogue (ra, dec); default: detect first."),
    ] = None,
    bands: Bands = None,
    size: Annotated[int, typer.Option(help="Side of a cutout in pixels.", min=4)] = 32,
    reference_band: ReferenceBand = None,
    survey: Annotated[str, typer.Option(help="A name for people to read.")] = "",
    threshold: Threshold = 4.0,
    min_pixels: MinPixels = 5,
    allow_missing: AllowMissing = False,
    zero_point: ZeroPoint = None,
    pixel_scale: PixelScale = None,
    assume_aligned: Aligned = False,
    bad_planes: BadPlanes = None,
    mask_polarity: MaskPolarity = None,
    weight_scale: WeightScale = "auto",
    workers: Workers = 1,
    scheduler: Scheduler = None,
    more: More = None,
) -> None:
    """Cut every object out of every band, with weights, into a cutout store.

    Without a catalogue the objects are detected first. Bands that are shifted against each other are aligned
    by their WCS. No object is dropped: where there is no data the weight is 0, and such objects are counted.

    Examples: `deepfits cutouts sky --out run/cutouts`

    `deepfits cutouts frames/ --out run/cutouts --catalogue mine.fits --band g --band r --band i`
    """
    path = _call(
        "cutouts",
        _names(images),
        out,
        catalogue=catalogue,
        bands=bands,
        size=size,
        reference_band=reference_band,
        survey=survey,
        threshold=threshold,
        min_pixels=min_pixels,
        allow_missing=allow_missing,
        zero_point=zero_point,
        pixel_scale=pixel_scale,
        assume_aligned=assume_aligned,
        bad_planes=bad_planes,
        mask_polarity=mask_polarity,
        weight_scale=weight_scale,
        workers=workers,
        scheduler=scheduler,
        more=more,
    )
    _done("cutout store", path)


@app.command()
def train(
    store: Store,
    out: Out,
    recipe: Annotated[
        str,
        typer.Option(help="paper (64 latents, 1024 channels), small (an hour on a CPU) or tiny (minutes)."),
    ] = "small",
    steps: Annotated[
        int | None, typer.Option(help="Number of steps, in place of the recipe's.", min=1)
    ] = None,
    max_time: Annotated[float | None, typer.Option(help="Stop after this many minutes.", min=0)] = None,
    option: Annotated[
        list[str] | None,
        typer.Option("--set", help="Change one setting of the recipe: --set width=256; repeat the option."),
    ] = None,
    embedder_only: Annotated[
        Path | None, typer.Option(help="A finished model: train a new embedder for its generator alone.")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    num_devices: Annotated[int, typer.Option(help="GPUs (or processes) to train on.", min=1)] = 1,
    num_nodes: Annotated[int, typer.Option(help="Machines to train on.", min=1)] = 1,
    precision: Annotated[
        str, typer.Option(help="float32, tf32 or bf16, where the device has it.")
    ] = "float32",
    compile: Annotated[bool, typer.Option("--compile", help="Compile the networks (PyTorch).")] = False,
    channels_last: Annotated[bool, typer.Option("--channels-last", help="Memory format for GPUs.")] = False,
    tensorboard: Annotated[
        bool, typer.Option("--tensorboard/--no-tensorboard", help="Curves for TensorBoard, where installed.")
    ] = True,
    tracker: Annotated[
        str | None, typer.Option(help="mlflow or wandb: give the curves to that too, where installed.")
    ] = None,
    seed: Seed = 0,
) -> None:
    """Train generator, discriminator and embedder on a store (M19 §2.1, §2.2).

    Held-out objects are never trained on. Run it again to go on from the last checkpoint.

    Example: `deepfits train run/cutouts --out run/model --recipe tiny`
    """
    path = _call(
        "train",
        store,
        out,
        recipe=recipe,
        steps=steps,
        max_time=max_time,
        options=_settings(option or []),
        embedder_only=embedder_only,
        device=device,
        num_devices=num_devices,
        num_nodes=num_nodes,
        precision=precision,
        compile=compile,
        channels_last=channels_last,
        tensorboard=tensorboard,
        tracker=tracker,
        seed=seed,
        threads=int(os.environ["OMP_NUM_THREADS"]),
    )
    _done("model", path)


@app.command()
def fit(
    store: Store,
    model: ModelPath,
    out: Out,
    from_coadds: Annotated[
        bool,
        typer.Option(
            "--from-coadds", help="STORE names images: cut, fit and forget, part by part; store no cutouts."
        ),
    ] = False,
    catalogue: Annotated[
        Path | None,
        typer.Option("--catalogue", "-c", help="With --from-coadds: what to cut; default: detect first."),
    ] = None,
    mode: Annotated[
        Mode,
        typer.Option(help="embedder: its guess; optimise: fit from random starts; both: fit from the guess."),
    ] = Mode.both,
    objective: Annotated[
        str, typer.Option(help="What is minimised: flux (χ² in nJy), stretched, or paper (M19 eq. 2).")
    ] = "flux",
    solver: Annotated[str, typer.Option(help="lbfgs, lbfgs-plain, or adam (the paper's).")] = "lbfgs",
    num_steps: Annotated[int | None, typer.Option(help="The most steps per object.", min=1)] = None,
    num_starts: Annotated[int, typer.Option(help="Starts per object; the best is kept.", min=1)] = 1,
    prior_strength: Annotated[
        float, typer.Option(help="Of the unit-normal prior on the latent.", min=0)
    ] = 0.0,
    amplitudes: Annotated[
        bool | None,
        typer.Option(
            "--amplitudes/--no-amplitudes",
            help="Let the brightness of each band be free. Default: yes, where the objective allows it.",
        ),
    ] = None,
    centre_fwhm_arcsec: Annotated[
        float | None, typer.Option(help="Weights fall off from the middle with this width.", min=0)
    ] = None,
    held_out_only: Annotated[
        bool, typer.Option("--held-out-only", help="Fit only objects that training never saw.")
    ] = False,
    batch_size: Annotated[int, typer.Option(help="Objects side by side.", min=1)] = 64,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    workers: ShardWorkers = 1,
    scheduler: Scheduler = None,
    seed: Seed = 0,
    more: More = None,
) -> None:
    """Fit the latent of every cutout: the features (M19 §2.3).

    One Parquet file per shard of the store, each written when it is done. A shard that cannot be read stops
    no other: it is named at the end, and in `_manifest.jsonl`; running the command again does what is left.

    Examples: `deepfits fit run/cutouts run/model --out run/features-both --workers 4`

    From images: `deepfits fit --from-coadds coadds/ run/model --out features --set cutting={zero_point=27}`

    As M19: `deepfits fit run/cutouts run/model --out run/features-adam --solver adam --objective paper`
    """
    path = _call(
        "fit",
        store,
        model,
        out,
        from_coadds=from_coadds,
        catalogue=catalogue,
        mode=mode.value,
        objective=objective,
        solver=solver,
        num_steps=num_steps,
        num_starts=num_starts,
        prior_strength=prior_strength,
        amplitudes=amplitudes,
        centre_fwhm_arcsec=centre_fwhm_arcsec,
        held_out_only=held_out_only,
        batch_size=batch_size,
        device=device,
        workers=workers,
        scheduler=scheduler,
        seed=seed,
        threads=int(os.environ["OMP_NUM_THREADS"]),
        more=more,
    )
    _done("features", path)


@app.command()
def inpaint(
    store: Store,
    model: ModelPath,
    out: Out,
    bands: Annotated[
        list[str] | None, typer.Option("--band", "-b", help="Band to predict; repeat the option. Default: u.")
    ] = None,
    validate: Annotated[
        bool,
        typer.Option(
            "--validate", help="Also hide each band that is there and see how well it is predicted."
        ),
    ] = False,
    objective: Annotated[str, typer.Option(help="What is minimised: see `deepfits fit --help`.")] = "flux",
    solver: Annotated[str, typer.Option(help="lbfgs, lbfgs-plain, or adam (the paper's).")] = "lbfgs",
    prior_strength: Annotated[
        float, typer.Option(help="Of the unit-normal prior on the latent.", min=0)
    ] = 1.0,
    amplitudes: Annotated[
        bool,
        typer.Option(
            "--amplitudes/--no-amplitudes",
            help="Let the brightness of each band be free; predicts bands worse.",
        ),
    ] = False,
    centre_fwhm_arcsec: Annotated[
        float | None, typer.Option(help="Weights fall off from the middle with this width.", min=0)
    ] = None,
    held_out_only: Annotated[
        bool, typer.Option("--held-out-only", help="Predict only for objects that training never saw.")
    ] = False,
    images: Annotated[
        bool, typer.Option("--images/--no-images", help="Write predicted images, not fluxes alone.")
    ] = True,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    workers: ShardWorkers = 1,
    scheduler: Scheduler = None,
    seed: Seed = 0,
    more: More = None,
) -> None:
    """Predict bands that are missing, or that you hide: images, fluxes and magnitudes with errors.

    The latent is fitted to the other bands; nothing is trained for it.

    Example: `deepfits inpaint run/cutouts run/model --out run/inpaint-u --band u --validate`
    """
    path = _call(
        "inpaint",
        store,
        model,
        out,
        bands=bands or ["u"],
        validate=validate,
        objective=objective,
        solver=solver,
        prior_strength=prior_strength,
        amplitudes=amplitudes,
        centre_fwhm_arcsec=centre_fwhm_arcsec,
        held_out_only=held_out_only,
        images=images,
        device=device,
        workers=workers,
        scheduler=scheduler,
        seed=seed,
        threads=int(os.environ["OMP_NUM_THREADS"]),
        more=more,
    )
    _done("predictions", path)


class _WithDefault(TyperGroup):
    """A group whose command ``compare`` is meant where none is named."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args and args[0] not in {*self.commands, "-h", "--help"}:
            args = ["compare", *args]
        return super().parse_args(ctx, args)


redshift_app = typer.Typer(cls=_WithDefault, no_args_is_help=True, rich_markup_mode="markdown")
app.add_typer(redshift_app, name="redshift")

Features = Annotated[Path, typer.Argument(help="Features (from `deepfits fit`).", metavar="FEATURES")]
Labels = Annotated[
    Path, typer.Argument(help="Table with object_id or ra, dec, and the redshift.", metavar="LABELS")
]
OptionalStore = Annotated[
    Path | None, typer.Option("--store", help="The cutouts, for ordinary magnitudes and colours.")
]
EmbedderFeatures = Annotated[
    Path | None, typer.Option(help="Features of mode embedder, to compare the fit with its start.")
]
LabelColumn = Annotated[
    str, typer.Option("--label-column", "--target", help="The column to predict: a redshift, or any number.")
]
Select = Annotated[
    list[str] | None, typer.Option(help="Condition on the labels: 'z_spec_flag >= 3'; repeat the option.")
]
Radius = Annotated[float, typer.Option(help="For a match by position, in arcsec.", min=0)]
MaxLabels = Annotated[int | None, typer.Option(help="Learn from at most this many labels.", min=1)]
BlockArcmin = Annotated[
    float | None, typer.Option(help="Test on squares of the sky of this side, apart from the rest.", min=0)
]
TpotMinutes = Annotated[float, typer.Option(help="Time budget of TPOT.", min=0)]


@redshift_app.callback()
def _redshift() -> None:
    """Predict redshifts from features and a few labels (M19 §3.3).

    Example: `deepfits redshift run/features-both spectra.csv --out run/redshift --store run/cutouts`

    compares all methods on held-out objects (the command `compare`, which may be left out). `train`,
    `predict` and `evaluate` do the steps one by one, for objects that have no label.
    """


@redshift_app.command()
def compare(
    features: Features,
    labels: Labels,
    out: Out,
    store: OptionalStore = None,
    embedder_features: EmbedderFeatures = None,
    methods: Annotated[
        list[str] | None,
        typer.Option(
            "--method",
            "-m",
            help="boosting, network, tpot, neighbours, templates, lephare, wide_resnet, semi_supervised, "
            "scratch, hybrid, stack; repeat the option. Default: boosting and tpot.",
        ),
    ] = None,
    losses: Annotated[
        list[str] | None, typer.Option("--loss", help="squared (for R²) or absolute (for σ_MAD); repeat.")
    ] = None,
    label_column: LabelColumn = "z_spec",
    photoz: Annotated[
        str | None, typer.Option(help="Photometric redshifts of others, TABLE:COLUMN, as another row.")
    ] = None,
    select: Select = None,
    match_radius_arcsec: Radius = 1.0,
    max_labels: MaxLabels = None,
    block_arcmin: BlockArcmin = None,
    tpot_minutes: TpotMinutes = 1.0,
    seed: Seed = 0,
    more: More = None,
) -> None:
    """Predict redshifts of held-out objects by every method, and measure how good they are.

    Example: `deepfits redshift compare run/features-both spectra.csv --out run/redshift --store run/cutouts`
    """
    path = _call(
        "redshift",
        features,
        labels,
        out,
        store=store,
        embedder_features=embedder_features,
        **({"methods": methods} if methods else {}),
        **({"losses": losses} if losses else {}),
        label_column=label_column,
        photoz=photoz,
        select=select or [],
        match_radius_arcsec=match_radius_arcsec,
        max_labels=max_labels,
        block_arcmin=block_arcmin,
        tpot_minutes=tpot_minutes,
        seed=seed,
        num_threads=int(os.environ["OMP_NUM_THREADS"]),
        more=more,
    )
    typer.echo((path / "table.md").read_text())
    _done("redshifts", path)


@redshift_app.command("curves")
def redshift_curves(
    features: Features,
    labels: Labels,
    out: Out,
    store: OptionalStore = None,
    methods: Annotated[
        list[str] | None, typer.Option("--method", "-m", help="As in `compare`; repeat the option.")
    ] = None,
    numbers: Annotated[
        list[int] | None,
        typer.Option("--number", help="Of labels; repeat the option. Default: 100 to 10,000."),
    ] = None,
    select: Select = None,
    seed: Seed = 0,
) -> None:
    """Measure every method with ever more labels, on the same held-out objects.

    Example: `deepfits redshift curves run/features-both spectra.csv --out run/curves --store run/cutouts`
    """
    given: dict[str, Any] = {"methods": methods, "numbers": numbers}
    path = _call(
        "redshift_curves",
        features,
        labels,
        out,
        store=store,
        **{name: value for name, value in given.items() if value},
        select=select or [],
        seed=seed,
        num_threads=int(os.environ["OMP_NUM_THREADS"]),
    )
    _done("label curves", path)


@redshift_app.command("classes")
def redshift_classes(
    features: Features,
    labels: Labels,
    out: Out,
    label_column: Annotated[
        str, typer.Option("--label-column", "--target", help="The column that names the class.")
    ] = "kind",
    store: OptionalStore = None,
    embedder_features: EmbedderFeatures = None,
    select: Select = None,
    match_radius_arcsec: Radius = 1.0,
    max_labels: MaxLabels = None,
    block_arcmin: BlockArcmin = None,
    seed: Seed = 0,
    more: More = None,
) -> None:
    """Learn a class (star or galaxy, say) from few labels, and measure it on held-out objects.

    Example: `deepfits redshift classes run/features-both kinds.csv --target kind --out run/classes`
    """
    path = _call(
        "redshift_classes",
        features,
        labels,
        out,
        label_column=label_column,
        store=store,
        embedder_features=embedder_features,
        select=select or [],
        match_radius_arcsec=match_radius_arcsec,
        max_labels=max_labels,
        block_arcmin=block_arcmin,
        seed=seed,
        num_threads=int(os.environ["OMP_NUM_THREADS"]),
        more=more,
    )
    typer.echo((path / "table.md").read_text())
    _done("classes", path)


@redshift_app.command("train")
def redshift_train(
    features: Features,
    labels: Labels,
    out: Out,
    method: Annotated[
        str, typer.Option("--method", "-m", help="boosting, network, stack, ...: one; see `compare`.")
    ] = "boosting",
    feature_set: Annotated[
        str,
        typer.Option(
            help="latents, model, extended, magnitudes, combined, templates, sizes, all, embedder; "
            "of a stack: fits, deep or templates."
        ),
    ] = "extended",
    loss: Annotated[str, typer.Option(help="squared (for R²) or absolute (for σ_MAD).")] = "squared",
    store: OptionalStore = None,
    embedder_features: EmbedderFeatures = None,
    model: Annotated[
        Path | None, typer.Option(help="The model, for networks that learn from images.")
    ] = None,
    label_column: LabelColumn = "z_spec",
    select: Select = None,
    match_radius_arcsec: Radius = 1.0,
    max_labels: MaxLabels = None,
    block_arcmin: BlockArcmin = None,
    tpot_minutes: TpotMinutes = 1.0,
    seed: Seed = 0,
    more: More = None,
) -> None:
    """Train one method on the labelled objects, and keep it.

    Example: `deepfits redshift train run/features-both spectra.csv --out run/redshift-model`
    """
    path = _call(
        "redshift_train",
        features,
        labels,
        out,
        method=method,
        feature_set=feature_set,
        loss=loss,
        store=store,
        embedder_features=embedder_features,
        model=model,
        label_column=label_column,
        select=select or [],
        match_radius_arcsec=match_radius_arcsec,
        max_labels=max_labels,
        block_arcmin=block_arcmin,
        tpot_minutes=tpot_minutes,
        seed=seed,
        num_threads=int(os.environ["OMP_NUM_THREADS"]),
        more=more,
    )
    _done("redshift model", path)


@redshift_app.command("predict")
def redshift_predict(
    model: Annotated[Path, typer.Argument(help="From `deepfits redshift train`.", metavar="MODEL")],
    features: Features,
    out: Out,
    store: OptionalStore = None,
    embedder_features: EmbedderFeatures = None,
    workers: ShardWorkers = 1,
    scheduler: Scheduler = None,
    more: More = None,
) -> None:
    """Predict the redshift of every object.

    Example: `deepfits redshift predict run/redshift-model run/features-both --out run/redshifts.parquet`

    Many shards: `deepfits redshift predict MODEL FEATURES --out run/redshifts --workers 4` (a directory)
    """
    path = _call(
        "redshift_predict",
        model,
        features,
        out,
        store=store,
        embedder_features=embedder_features,
        workers=workers,
        scheduler=scheduler,
        more=more,
    )
    _done("predictions", path)


@redshift_app.command("evaluate")
def redshift_evaluate(
    predictions: Annotated[
        Path, typer.Argument(help="From `deepfits redshift predict`.", metavar="PREDICTIONS")
    ],
    labels: Labels,
    out: Out,
    label_column: LabelColumn = "z_spec",
    select: Select = None,
    match_radius_arcsec: Radius = 1.0,
    held_out_only: Annotated[
        bool, typer.Option("--held-out-only/--all", help="Leave out objects that training may have seen.")
    ] = True,
    more: More = None,
) -> None:
    """Measure predictions against known redshifts.

    Example: `deepfits redshift evaluate run/redshifts.parquet spectra.csv --out run/metrics`
    """
    path = _call(
        "redshift_evaluate",
        predictions,
        labels,
        out,
        label_column=label_column,
        select=select or [],
        match_radius_arcsec=match_radius_arcsec,
        held_out_only=held_out_only,
        more=more,
    )
    typer.echo((path / "table.md").read_text())
    _done("metrics", path)


@app.command()
def export(
    features: Annotated[
        Path, typer.Argument(help="From `fit`, `inpaint` or `redshift predict`.", metavar="FEATURES")
    ],
    out: Out,
    format: Annotated[
        str | None,
        typer.Option(
            help="As OUT ends (.parquet, .fits, .vot, .ecsv, .csv, .h5); hats for a name without an ending."
        ),
    ] = None,
    columns: Annotated[
        list[str] | None, typer.Option("--column", help="Which columns; repeat the option. Default: all.")
    ] = None,
    half: Annotated[
        bool, typer.Option("--half", help="Latents and their errors in 16 bits (parquet and hats).")
    ] = False,
    more: More = None,
) -> None:
    """Write features as one catalogue that others read: Parquet, FITS, VOTable or HATS, with units and UCDs.

    Examples: `deepfits export run/features-both --out galaxies.fits`

    For LSDB: `deepfits export run/features-both --out galaxies --format hats`
    """
    path = _call("export", features, out, format=format, columns=columns, half=half, more=more)
    _done("catalogue", path)


@app.command()
def plan(
    objects: Annotated[float, typer.Option("--objects", help="How many: 2e10.", show_default=False)],
    device: Annotated[
        str, typer.Option(help="measured (a core of this machine, timed now), cpu-core, a100, h100 or h200.")
    ] = "cpu-core",
    num_devices: Annotated[int, typer.Option(help="That work at the same time.", min=1)] = 1,
    model: Annotated[
        str, typer.Option(help="Whose size decides what an object costs.")
    ] = "builtin:clauds-hsc",
    objects_per_arcmin2: Annotated[
        float, typer.Option(help="Density of the objects, for what is read of coadds.", min=0)
    ] = 50.0,
    half: Annotated[bool, typer.Option("--half", help="Latents kept in 16 bits.")] = False,
) -> None:
    """Say how long a survey takes, and what it reads and writes; what is measured and what is estimated.

    Example: `deepfits plan --objects 2e10 --device h200 --num-devices 64`
    """
    typer.echo(
        str(
            _call(
                "plan",
                objects,
                device=device,
                num_devices=num_devices,
                model=model,
                objects_per_arcmin2=objects_per_arcmin2,
                half=half,
            )
        )
    )


@app.command()
def report(
    run: Annotated[Path, typer.Argument(help="The run directory, with cutouts/, model/, ...", metavar="RUN")],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Where the page goes. Default: RUN/report.")
    ] = None,
    store: Annotated[Path | None, typer.Option(help="The store, if it is not RUN/cutouts.")] = None,
    model: Annotated[Path | None, typer.Option(help="The model, if it is not RUN/model.")] = None,
    num_examples: Annotated[int, typer.Option(help="Galaxies in Figs. 1 and 2.", min=1)] = 6,
    title: Annotated[str | None, typer.Option(help="Heading of the page.")] = None,
    more: More = None,
) -> None:
    """Write a page that shows what a run did, measured on objects the networks never saw.

    It shows what it finds in the run directory: `features-embedder`, `features-optimise` and `features-both`
    for Fig. 1, `inpaint-u` for Fig. 2, `redshift` for the table; what is not there is said to be absent.

    Example: `deepfits report run`
    """
    path = _call(
        "report", run, out=out, store=store, model=model, num_examples=num_examples, title=title, more=more
    )
    _done("report", path)


@app.command()
def run(
    config: Annotated[Path, typer.Argument(help="The run file (TOML).", metavar="CONFIG.toml")],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Run directory, in place of the file's.")
    ] = None,
) -> None:
    """Run every stage that a TOML file names, from images to the report.

    Example: `deepfits run survey.toml`, with

        [images]
        path = "coadds"

        [train]
        recipe = "small"
    """
    _done("report", _call("run", config, out=out))


@app.command()
def demo(
    out: Annotated[Path, typer.Argument(help="Run directory.", metavar="[OUT]")] = Path("demo"),
) -> None:
    """Show the whole method on a simulated sky, in about ten minutes on two cores.

    Example: `deepfits demo`
    """
    _done("report", _call("demo", out))


def main() -> None:
    """Run the command line: what a user did wrong is one line and status 2, an interruption status 130."""
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        app()
    except NonFiniteLossError as error:
        _fail(str(error), 1)
    except ModuleNotFoundError as error:
        _fail_missing_module(error)
    except Exception as error:
        if (line := explain(error)) is None:
            raise
        _fail(line, INPUT_ERROR_STATUS)


def _fail(message: str, status: int) -> None:
    typer.echo(f"deepfits: {message}", err=True)
    sys.exit(status)


def _fail_missing_module(error: ModuleNotFoundError) -> None:
    extras = {
        "sep": "survey", "reproject": "survey", "scipy": "survey", "galsim": "sky", "speclite": "sky",
        "lightning": "training", "tensorboard": "training", "sklearn": "redshift", "xgboost": "redshift",
        "tpot": "redshift", "pandas": "redshift", "matplotlib": "report", "jinja2": "report",
        "dask": "scale", "distributed": "scale", "hats": "lsdb", "hats_import": "lsdb", "lsdb": "lsdb",
    }  # fmt: skip
    extra = extras.get((error.name or "").split(".")[0])
    if extra is None:
        raise error
    _fail(f"this needs {error.name!r}; install it with `pip install 'deepfits[{extra}]'`", INPUT_ERROR_STATUS)


def _interrupt(signum: int, frame: Any) -> None:
    raise KeyboardInterrupt
