"""Checkpoints: safetensors and JSON, written atomically and never pickled."""

import shutil
from pathlib import Path
from typing import Any

from torch import Tensor

from deepfits.errors import InputError, naming
from deepfits.files import fingerprint, json_lines, read_json, remove_leftovers, write_json, writing

KEPT = 2


def save_checkpoint(directory: Path, step: int, state: dict[str, Tensor], content: dict[str, Any]) -> Path:
    """Write a checkpoint after `step` steps, and delete all but the newest `KEPT`."""
    from safetensors.torch import save as serialised

    final = directory / f"step-{step:08d}"
    with writing(final) as temporary:
        temporary.mkdir()
        tensors = {k: t.detach().cpu().contiguous().clone() for k, t in state.items()}
        (temporary / "state.safetensors").write_bytes(serialised(tensors))
        sha256 = fingerprint(temporary / "state.safetensors")
        write_json(temporary / "state.json", content | {"step": step, "sha256": sha256})
    for old in list_checkpoints(directory)[:-KEPT]:
        shutil.rmtree(old)
    return final


def list_checkpoints(directory: Path) -> list[Path]:
    """Return the checkpoints, oldest first."""
    return sorted(directory.glob("step-*"))


def load_checkpoint(
    directory: Path, *, clean: bool = True
) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """Load the newest checkpoint; None if there is none.

    With `clean`, temporary files left behind by a killed process are removed first. Raise `InputError` if it
    is damaged; the message says which directory to remove to resume from the previous one.
    """
    from safetensors.torch import load_file

    if not directory.is_dir():
        return None
    if clean:
        remove_leftovers(directory)
    checkpoints = list_checkpoints(directory)
    if not checkpoints:
        return None
    newest = checkpoints[-1]
    content = read_json(newest / "state.json", what="checkpoint")
    path = newest / "state.safetensors"
    with naming(path, "unreadable", f"remove {newest} and start again"):
        if fingerprint(path) != content.get("sha256"):
            raise InputError(f"{path}: damaged checkpoint; remove {newest} to resume from the previous one")
        state = {key: tensor.to(copy=True, device="cpu") for key, tensor in load_file(path).items()}
    return state, content


def kept_rows(path: Path, step: int) -> dict[str, dict[str, Any]]:
    """Return the rows up to `step` of a JSON-lines file, keyed by line; stop at the first damaged line."""
    kept: dict[str, dict[str, Any]] = {}
    for line, row in json_lines(path):
        if not isinstance(row, dict) or not isinstance(row.get("step"), int):
            break  # the run was killed while writing this line, or the file is damaged
        if row["step"] <= step:
            kept[line] = row
    return kept


def cut_metrics(path: Path, step: int) -> None:
    """Drop the rows of ``metrics.jsonl`` after `step`: the resumed run will write them again."""
    if not path.exists():
        return
    lines = list(kept_rows(path, step))
    with writing(path) as temporary:
        temporary.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def is_same_training(state: dict[str, Tensor], trainer_state: dict[str, Tensor]) -> bool:
    """Return whether a checkpoint has the tensor names, shapes and dtypes of the current training."""
    return all(
        name in state and state[name].shape == tensor.shape and state[name].dtype == tensor.dtype
        for name, tensor in trainer_state.items()
    )
