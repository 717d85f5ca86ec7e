"""Errors that a person can act on.

Everything a user can get wrong (a file, a column, a key, two artefacts that do not fit together) raises
`InputError` with one line that names the file, the object and the remedy. The command line prints that line
and exits with status 2; anything else is a defect of ours and keeps its traceback.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class InputError(ValueError):
    """The input is wrong in a way that the user can mend; the message says how."""


class ShardsFailedError(InputError):
    """Some shards failed and all others are done; the message names them and says how to go on."""


class NonFiniteLossError(RuntimeError):
    """A loss became NaN or infinite; raised before the optimiser could spread it."""


def nearest(key: str, valid: Iterable[str]) -> str:
    """Say which valid name a misspelt one most likely meant.

    Parameters
    ----------
    key
        The name that was given.
    valid
        The names that would have been accepted.

    Returns
    -------
    str
        ``"did you mean 'seed'?"``, or the list of valid names when none is close.

    Examples
    --------
    >>> nearest("sead", ["seed", "steps"])
    "did you mean 'seed'?"
    """
    names = sorted(valid)
    close = difflib.get_close_matches(key, names, n=1, cutoff=0.6)
    return f"did you mean {close[0]!r}?" if close else f"valid names are: {', '.join(names)}"
