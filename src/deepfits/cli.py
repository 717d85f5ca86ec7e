"""The command ``deepfits``: parse, call the stage of the same name, print where its result lies.

Nothing is computed here. Heavy modules are imported by the stages when they run, so that ``--help`` is quick.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from deepfits.errors import InputError, NonFiniteLossError

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
ModelPath = Annotated[
    Path, typer.Argument(help="A trained model (from `deepfits train`).", metavar="MODEL")
]
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


def _set_up_logging(verbose: bool) -> None:
    from rich.logging import RichHandler

    from deepfits.console import console

    handler = RichHandler(console=console, show_path=False, show_level=False, markup=False, highlighter=None)
    handler.setFormatter(logging.Formatter("%(message)s", datefmt="%H:%M:%S"))
    logger = logging.getLogger("deepfits")
    logger.handlers[:] = [handler]
    logger.setLevel(logging.DEBUG if verbose else logging.INFO)
    logger.propagate = False


def _call(name: str, *inputs: Any, **options: Any) -> Any:
    """Call the stage `name` of the package with a progress display."""
    import deepfits
    from deepfits.console import show_progress

    return getattr(deepfits, name)(*inputs, **options, progress=show_progress)


def _done(what: str, path: Any) -> None:
    typer.echo(f"{what}: {path}")


def main() -> None:
    """Run the command line: what a user did wrong is one line and status 2, an interruption status 130."""
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        app(standalone_mode=False)
    except InputError as error:
        _fail(str(error), INPUT_ERROR_STATUS)
    except NonFiniteLossError as error:
        _fail(str(error), 1)
    except (KeyboardInterrupt, typer.Abort):
        _fail("interrupted; run the same command again to go on from here", INTERRUPTED_STATUS)
    except ModuleNotFoundError as error:
        _fail_missing_module(error)
    except OSError as error:
        if error.filename is None:
            raise
        _fail(f"{error.filename}: {error.strerror}; check the path, permissions and free space", 2)
    except Exception as error:
        if not hasattr(error, "exit_code") or not hasattr(error, "show"):
            raise
        error.show()  # a wrong option: the parser's own words
        sys.exit(error.exit_code)


def _fail(message: str, status: int) -> None:
    typer.echo(f"deepfits: {message}", err=True)
    sys.exit(status)


def _fail_missing_module(error: ModuleNotFoundError) -> None:
    extras = {
        "sep": "survey", "reproject": "survey", "scipy": "survey", "galsim": "sky", "speclite": "sky",
        "lightning": "training", "tensorboard": "training", "sklearn": "redshift", "xgboost": "redshift",
        "tpot": "redshift", "pandas": "redshift", "matplotlib": "report", "jinja2": "report",
    }  # fmt: skip
    extra = extras.get((error.name or "").split(".")[0])
    if extra is None:
        raise error
    _fail(f"this needs {error.name!r}; install it with `pip install 'deepfits[{extra}]'`", INPUT_ERROR_STATUS)


def _interrupt(signum: int, frame: Any) -> None:
    raise KeyboardInterrupt
