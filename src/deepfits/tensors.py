"""Tensors from what users pass: arrays of any kind, and names of devices."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import numpy as np
import torch
from torch import Tensor

from deepfits.errors import InputError


def as_tensor(values: Any, name: str, **like: Any) -> Tensor:
    """Return a tensor of `values` with the dtype and device in `like`; errors call it `name`.

    Arrays may have any byte order and strides, as FITS files give them, and need not be writable. Raise
    `InputError` for values that are not numbers, or that have a mask or a unit, which would be lost.

    Examples
    --------
    >>> as_tensor(np.arange(3, dtype=">f4")[::-1], "images")
    tensor([2., 1., 0.])
    """
    if isinstance(values, Tensor):
        return values.to(**like)
    if np.ma.is_masked(values):
        raise InputError(f"{name}: the mask would be lost; give masked pixels weight 0, and filled arrays")
    if (unit := getattr(values, "unit", None)) is not None:
        raise InputError(f"{name} in {unit}: give the plain numbers (`.value`), in the unit of the model")
    try:
        array = np.asarray(values)
        if array.dtype == object and array.ndim == 1 and len(array):  # an array in each row, as from pandas
            array = np.stack(list(array))
    except (TypeError, ValueError):  # lists of different lengths
        array = np.empty(0, dtype=object)
    if array.dtype.kind not in "fiub":
        raise InputError(f"{name} must be an array of numbers, not {type(values).__name__}")
    tensor = torch.from_numpy(np.require(array, array.dtype.newbyteorder("="), ["C", "W"]))
    if isinstance(values, list | tuple) and tensor.is_floating_point():  # Python's numbers have no precision
        tensor = tensor.to(torch.get_default_dtype())
    return tensor.to(**like)


def require_device(name: torch.device | str) -> torch.device:
    """Return a PyTorch device that this machine has; ``"auto"`` is a GPU if there is one.

    Raise `InputError` if the name is unknown to PyTorch, or PyTorch finds no such device here.

    Examples
    --------
    >>> require_device("cpu")
    device(type='cpu')
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        number = torch.get_device_module(device).device_count()
    except RuntimeError:
        raise InputError(f"device {str(name)!r} is unknown; use 'cpu', 'cuda', 'cuda:1' or 'auto'") from None
    if device.type != "cpu" and (device.index or 0) >= number:
        found = f"only {number}" if number else "no GPU"
        raise InputError(f"device {str(name)!r}: PyTorch finds {found} on this machine; use device='cpu'")
    return device


@contextmanager
def plain_defaults() -> Iterator[None]:
    """Compute with gradients, in float32 and on the CPU if nothing else is given, whatever the caller set."""
    dtype = torch.get_default_dtype()
    on_cpu = nullcontext() if torch.get_default_device().type == "cpu" else torch.device("cpu")
    torch.set_default_dtype(torch.float32)
    try:
        with torch.inference_mode(False), torch.enable_grad(), on_cpu:
            yield
    finally:
        torch.set_default_dtype(dtype)
