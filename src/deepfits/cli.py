"""Command line: parse the arguments, call the stage of the same name, print the path of its result.

Commands are built from the signatures and docstrings of the stages (`deepfits.options`). Only the stage that
is called is imported.
"""

import ast
import inspect
import logging
import os
import re
import signal
import sys
from collections.abc import Callable, Iterable, Sequence
from importlib.util import find_spec
from io import TextIOWrapper
from pathlib import Path
from typing import Any

from cyclopts import App, CycloptsError, MissingArgumentError

from deepfits import __version__
from deepfits.errors import InputError, NonFiniteLossError, explain, nearest
from deepfits.option_names import option_names
from deepfits.options import about, from_text, in_shell, name_value, options_of
from deepfits.processes import THREAD_VARIABLES, available_cores, stated_threads
from deepfits.stages import MODULES, load

INPUT_ERROR_STATUS = 2
INTERRUPTED_STATUS = 130
INTERRUPTED = "interrupted; run the same command again to resume"
BROKEN_PIPE_STATUS = 141  # 128 + SIGPIPE
LEAST_COLUMNS = 20  # COLUMNS=0, as terminals without a size state it, would wrap text forever
HELP = """Deep features of galaxies through best fits: from survey images to redshifts.

Learn features of galaxies from unlabelled multi-band images, fit them to every object, fill in missing
bands, predict redshifts from few labels (Murray, Fabbro & Yi 2019).

Start here: `deepfits demo` runs everything on a simulated sky and writes a report as a web page.

On your own images, with one command per stage:

    deepfits check    IMAGES
    deepfits cutouts  IMAGES --out run/cutouts
    deepfits train    run/cutouts --out run/model
    deepfits fit      run/cutouts run/model --out run/features-both
    deepfits inpaint  run/cutouts run/model --out run/inpaint-u --band u
    deepfits redshift run/features-both spectra.csv --out run/redshift --store run/cutouts
    deepfits report   run

Images in u g r i z need no training: `deepfits calibrate builtin:ugriz run/cutouts --out run/model`
takes the place of `train`.

Interrupted? Run the same command again: it resumes where it stopped.

Options before the command: `--threads N` (for numerical work; by default, all cores available to the process)
and `-v` (verbose). Give a list by repeating an option or with commas: `--band u,g,r`.
"""
REDSHIFT_HELP = """Predict redshifts, or any other property, from features and a few labels (M19 §3.3).

Example: `deepfits redshift run/features-both spectra.csv --out run/redshift --store run/cutouts`

compares all methods on held-out objects (the default command, `compare`). `train`, `predict` and `evaluate`
run the steps one by one, for objects without labels.

`--target` selects another column of the labels: a size, an axis ratio, a stellar mass, or a class (star,
galaxy, quasar). `deepfits property` is an alias for such targets:

    deepfits property run/features-both truth.csv --target bulge_fraction --out run/bulges
    deepfits property train run/features-both truth.csv --target kind --out run/kind
    deepfits property predict run/kind other/features-both --out other/kind.parquet
"""
GROUP = ("redshift", "property")
NAMING = {"--target", "--label-column", "-h", "--help"}


def words_of(name: str) -> list[str]:
    """Return the words that call a stage on the command line: ``redshift_train`` is ``redshift train``."""
    return ["redshift", "compare"] if name == "redshift" else name.split("_", 1)


def make_app(wanted: Iterable[str]) -> App:
    """Build the command line: the `wanted` stages can be called, the others are only listed in the help."""
    options: dict[str, Any] = {
        "help_format": "markdown",
        "help_flags": ["--help", "-h"],
        "result_action": "return_value",
        "suppress_keyboard_interrupt": False,  # `main` handles it
    }
    app = App(name="deepfits", help=HELP, version=__version__, version_flags=["--version"], **options)
    redshift = App(name=GROUP, help=REDSHIFT_HELP, version_flags=[], **options)
    app.command(redshift)
    wanted = set(wanted)
    for name in MODULES:
        target = redshift if name.startswith("redshift") else app
        call = _command(name) if name in wanted else _listed(name)
        target.command(call, name=words_of(name)[-1], help=inspect.getdoc(call))
    return app


def _listed(name: str) -> Callable[[], None]:
    """Return a placeholder with the summary of a stage's docstring, read without importing the stage."""

    def call() -> None:
        raise AssertionError(name)

    origin = (find_spec("deepfits.stages") or sys).submodule_search_locations[0]  # type: ignore[index]
    tree = ast.parse((Path(origin) / f"{MODULES[name].replace('.', '/')}.py").read_text(encoding="utf-8"))
    function = next(node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == name)
    call.__doc__ = in_shell((ast.get_docstring(function) or "").partition("\n\n")[0])
    return call


def _command(name: str) -> Callable[..., int]:
    """Wrap a stage in a function whose signature and docstring cyclopts understands."""
    stage = load(name)
    shown = options_of(stage)

    def call(*args: Any, **given: Any) -> int:
        return _run(name, stage, {**dict(zip((p.name for p in shown), args, strict=False)), **given})

    call.__signature__ = inspect.Signature(shown)  # type: ignore[attr-defined]
    call.__annotations__ = {p.name: p.annotation for p in shown}
    call.__doc__ = about(stage)
    return call


def _run(name: str, stage: Callable[..., Any], given: dict[str, Any]) -> int:
    """Call a stage with a progress display, print the path of its result and return the exit status."""
    from deepfits.console import show_progress

    more = name_value(given.pop("set_", None) or [], "--set")
    parameters = set(inspect.signature(stage).parameters)
    valid = parameters - {"progress"}
    for key in more:
        if key not in valid:
            raise InputError(f"--set {key}: deepfits.{name} has no such argument; {nearest(key, valid)}")
        if key in given:
            raise InputError(
                f"{option_names(key)[0]} is given twice, also with --set; leave out one of the two"
            )
    given |= from_text(stage, given, more)
    for threads in {"threads", "num_threads"} & parameters:
        given.setdefault(threads, stated_threads())
    try:
        result = stage(**given, progress=show_progress)
    except KeyboardInterrupt:
        _fail(INTERRUPTED, INTERRUPTED_STATUS)
    if isinstance(result, Path) and (result / "table.md").is_file():
        print((result / "table.md").read_text(encoding="utf-8"))
    if result is not None:
        title = getattr(stage, "result", "")
        print(f"{title}: {result}" if title else _shown(_as_options(str(result), name)))
    return int(getattr(result, "is_fatal", False))


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line; user errors print one line and exit with status 2, interruptions with 130."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="replace")  # not every locale has σ
    if (columns := os.environ.get("COLUMNS", "")).isdigit() and int(columns) < LEAST_COLUMNS:
        del os.environ["COLUMNS"]
    name = None
    try:
        threads, verbose, tokens = _common(list(sys.argv[1:] if argv is None else argv))
        name, tokens = _which(tokens)
        _set_up(threads, verbose, name)
        status = make_app([name] if name else [])(
            tokens or ["--help"], exit_on_error=False, print_error=False
        )
        _end_output()
    except CycloptsError as error:
        command = " ".join(["deepfits", *(words_of(name) if name else [])])
        _fail(f"{_explain(error)} See `{command} --help`.", INPUT_ERROR_STATUS)
    except NonFiniteLossError as error:
        _fail(str(error), 1)
    except BrokenPipeError:  # the reader closed the pipe, as `head` does
        _end_output(reraise=False)
        sys.exit(BROKEN_PIPE_STATUS)
    except KeyboardInterrupt:  # before a stage started
        _fail("interrupted", INTERRUPTED_STATUS)
    except SystemExit as end:  # training raises this on SIGTERM, after saving a checkpoint
        if end.code != 128 + signal.SIGTERM:
            raise
        _fail(INTERRUPTED, 128 + signal.SIGTERM)
    except Exception as error:
        has_out = name is not None and "out" in inspect.signature(load(name)).parameters
        if (line := explain(error, "write elsewhere (--out)" if has_out else "write elsewhere")) is None:
            raise
        _fail(_as_options(line, name), INPUT_ERROR_STATUS)
    sys.exit(status if isinstance(status, int) else 0)


def _explain(error: CycloptsError) -> str:
    """Return the message of a command-line error; a missing argument is named as in the usage line."""
    if isinstance(error, MissingArgumentError) and error.keyword is None and error.argument is not None:
        is_option = error.argument.field_info.kind is inspect.Parameter.KEYWORD_ONLY
        name = error.argument.name
        return f"{name if is_option else name.strip('-').upper()} is missing."
    text = " ".join(str(error).split())
    text = re.sub(r" Available commands: [^.]*, \.\.\.$", "", text)  # some of them, out of order
    return text if text.endswith("?") else text.rstrip(".") + "."


def _end_output(*, reraise: bool = True) -> None:
    """Flush stdout; if that fails, redirect it to the null device so that Python's exit flush succeeds."""
    if sys.stdout is None:  # closed by the shell, >&-
        return
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if reraise:
            raise


def _common(argv: list[str]) -> tuple[int | None, bool, list[str]]:
    """Parse the options before the command, which apply to all stages."""
    threads, verbose = None, False
    while argv and argv[0].split("=")[0] in ("--threads", "--verbose", "-v"):
        option, _, value = argv.pop(0).partition("=")
        if option == "--threads":
            value = value or (argv.pop(0) if argv else "")
            if not value.isdigit() or int(value) < 1:
                raise InputError(f"--threads {value}: give a number of threads, 1 or more")
            threads = int(value)
        else:
            verbose = True
    return threads, verbose, argv


def _which(tokens: list[str]) -> tuple[str | None, list[str]]:
    """Return the requested stage, and the tokens with ``compare``, the default of ``redshift``, inserted."""
    first, *rest = tokens or [""]
    if first not in GROUP or not rest or rest[0] in ("-h", "--help"):
        return (first if first in MODULES and first != "redshift" else None), tokens
    if f"redshift_{rest[0]}" not in MODULES and rest[0] != "compare":
        rest = ["compare", *rest]
    if first == "property" and rest[0] != "predict" and not NAMING & {t.split("=")[0] for t in tokens}:
        raise InputError(f"deepfits property {rest[0]}: select a column of the labels with --target COLUMN")
    return ("redshift" if rest[0] == "compare" else f"redshift_{rest[0]}"), [first, *rest]


def _set_up(threads: int | None, verbose: bool, name: str | None) -> None:
    """Set up threads and logging; log messages show arguments as command-line options."""
    from deepfits.console import log_handler

    for variable in THREAD_VARIABLES:
        if threads is not None:
            os.environ[variable] = str(threads)
        elif not os.environ.get(variable):
            os.environ[variable] = str(available_cores())
    # Busy-waiting threads slow each other down several times over on shared cores
    # (docs/decisions/04-threads-wait-asleep.md).
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

    def reword(record: logging.LogRecord) -> bool:
        record.msg, record.args = _shown(_as_options(record.getMessage(), name)), ()
        return True

    handler = log_handler()
    handler.addFilter(reword)
    logger = logging.getLogger("deepfits")
    logger.handlers[:] = [handler]
    logger.setLevel(logging.DEBUG if verbose else logging.INFO)
    logger.propagate = False


def _shown(text: str) -> str:
    """Replace control characters, which names in third-party files may contain."""
    return "".join(letter if letter.isprintable() or letter == "\n" else "\ufffd" for letter in text)


def _as_options(message: str, name: str | None) -> str:
    """Rewrite arguments in a message as options: ``zero_point=27.0`` becomes ``--zero-point 27.0``.

    Lines about a TOML file or about ``--set`` stay as they are: there they are names.
    """
    if "\n" in message:
        return "\n".join(_as_options(line, name) for line in message.split("\n"))
    if re.search(r"\bTOML\b|\.toml\b|^--set ", message):
        return message
    for argument in inspect.signature(load(name)).parameters if name else ():
        option, word = f"--{argument.replace('_', '-')}", rf"(?<![\w/.-]){argument}"
        message = re.sub(rf"{word}=True\b", option, message)
        message = re.sub(rf"{word}=False\b", option.replace("--", "--no-", 1), message)
        message = re.sub(rf"{word}\s?=\s?(\[)?'([^']*)'(?(1)\])", rf"{option} \2", message)
        message = re.sub(rf"{word}\s?=\s?(?=[\w.\"\[{{-])", f"{option} ", message)
        if "_" in argument:
            message = re.sub(rf"{word}(?![\w/.])", option, message)
    return message


def _fail(message: str, status: int) -> None:
    print(f"deepfits: {_shown(message)}", file=sys.stderr)
    sys.exit(status)
