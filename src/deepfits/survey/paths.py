"""What a path leads to, before it is opened: a FIFO would wait forever, a device never ends."""

from __future__ import annotations

import os
from pathlib import Path

from deepfits.errors import InputError


def require_regular(path: Path) -> None:
    """Refuse what is no file: absent, a broken link, a directory, a FIFO or a device, or not to be read."""
    if path.is_symlink() and not path.exists():
        raise InputError(f"{path}: a link to {os.readlink(path)}, which does not exist; restore or remove it")
    if not path.exists():
        raise InputError(f"{path}: no such file or directory; check the path")
    if path.is_dir():
        raise InputError(f"{path}: a directory, where a file is needed")
    if not path.is_file():
        raise InputError(f"{path}: a FIFO, socket or device, not a file; copy the data into a file")
    if not os.access(path, os.R_OK):
        raise InputError(f"{path}: may not be read; change its permissions (chmod) or leave it out")
