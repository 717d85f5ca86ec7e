"""Run the command line in a forked process, which does not have to import everything again."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import deepfits.fitting.fitter
import deepfits.survey.build  # noqa: F401  # import once what most commands need
from deepfits.cli import main

Prepare = Callable[[], object]


class Command:
    """A running command: ``Command("fit", store, model, "--out", out)``.

    Parameters
    ----------
    cwd
        Working directory.
    prepare
        Called first in the new process, for example to set resource limits.
    """

    def __init__(
        self,
        *arguments: object,
        cwd: str | Path | None = None,
        prepare: Prepare | None = None,
    ) -> None:
        self.arguments = list(map(str, arguments))
        self._output = tempfile.TemporaryDirectory()
        self._files = tuple(Path(self._output.name) / name for name in ("out", "err"))
        given = (self.arguments, self._files, cwd or Path.cwd(), prepare)
        with warnings.catch_warnings():
            # Newer versions of Python warn when a process with threads is forked.
            warnings.simplefilter("ignore")
            self.process = multiprocessing.get_context("fork").Process(target=_child, args=given)
            self.process.start()

    def poll(self) -> int | None:
        """Return the exit status, or None while the command runs."""
        return self.process.exitcode

    def send_signal(self, number: int) -> None:
        """Send a signal to the command."""
        assert self.process.pid is not None
        os.kill(self.process.pid, number)

    def wait(self, timeout: float = 240) -> subprocess.CompletedProcess[str]:
        """Wait until the command ends; return its exit status and output."""
        self.process.join(timeout)
        if (status := self.process.exitcode) is None:
            self.process.kill()
            raise subprocess.TimeoutExpired(self.arguments, timeout)
        out, err = (path.read_text(errors="replace") if path.exists() else "" for path in self._files)
        self._output.cleanup()
        return subprocess.CompletedProcess(self.arguments, status, out, err)


def run_cli(
    *arguments: object, cwd: str | Path | None = None, prepare: Prepare | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a command and wait until it ends."""
    return Command(*arguments, cwd=cwd, prepare=prepare).wait()


def _child(
    arguments: list[str],
    files: tuple[Path, Path],
    cwd: str | Path,
    prepare: Prepare | None,
) -> NoReturn:
    for number, path in enumerate(files, 1):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), number)
    # Replace pytest's streams.
    sys.stdout, sys.stderr = (os.fdopen(os.dup(number), "w", buffering=1) for number in (1, 2))
    os.chdir(cwd)
    os.environ["COLUMNS"] = "100"
    warnings.resetwarnings()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if prepare is not None:
        prepare()
    status = 1
    try:
        main(arguments)
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else 1
    except BaseException:
        traceback.print_exc()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(status)
