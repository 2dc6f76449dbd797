"""Exact checkpoints: safetensors for the tensors and JSON for the rest, written aside and renamed."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors

from offbench.errors import StorageError
from offbench.storage import read_json, storage_errors, write_atomic, write_json

_STATE = "state.json"


def write_tensors(file: Path, tensors: Mapping[str, torch.Tensor]) -> str:
    """Write a safetensors file aside and rename it; return the SHA-256 of its content.

    Raises:
        StorageError: the disk is full or not writable.
    """
    data = save_tensors({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()})
    write_atomic(file, data)
    return hashlib.sha256(data).hexdigest()


def read_tensors(file: Path, digest: str, kind: str) -> dict[str, torch.Tensor]:
    """Read a file of `write_tensors`.

    Args:
        digest: what `write_tensors` returned.
        kind: what the file is, for the message ("checkpoint", "policy").

    Raises:
        StorageError: the file is missing, or its content is not what was written.
    """
    with storage_errors("read", file):
        data = file.read_bytes()
    if hashlib.sha256(data).hexdigest() != digest:
        raise StorageError(f"{kind} {file} is damaged", "its content does not match its SHA-256")
    return load_tensors(data)


def save_checkpoint(folder: Path, step: int, tensors: Mapping[str, torch.Tensor], extra: Mapping[str, Any]) -> None:
    """Replace the folder's checkpoint.

    `state.json` names the tensor file and its SHA-256; it is replaced last, so that a crash at any moment
    leaves the old checkpoint or the new one. Older tensor files are deleted after that.

    Args:
        folder: created if need be; holds one checkpoint.
        step: updates done.
        tensors: any shapes and devices; bfloat16 and integers are kept as they are.
        extra: JSON values.

    Raises:
        StorageError: the disk is full or not writable; the previous checkpoint is intact.
    """
    name = f"step-{step}.safetensors"
    digest = write_tensors(folder / name, tensors)
    write_json(folder / _STATE, {"step": step, "file": name, "sha256": digest, "extra": dict(extra)})
    for other in folder.glob("*.safetensors"):
        if other.name != name:
            with contextlib.suppress(OSError):
                other.unlink()


def has_checkpoint(folder: Path) -> bool:
    """Whether the folder has a checkpoint, good or damaged."""
    return (folder / _STATE).exists()


def load_checkpoint(
    folder: Path, device: torch.device | str = "cpu"
) -> tuple[int, dict[str, torch.Tensor], dict[str, Any]] | None:
    """Read (step, tensors, extra); None when the folder has no checkpoint.

    Raises:
        StorageError: a file is missing, torn or damaged; the message names it.
    """
    if not has_checkpoint(folder):
        return None
    state = read_json(folder / _STATE)
    try:
        step, file, digest, extra = state["step"], folder / state["file"], state["sha256"], state["extra"]
    except (KeyError, TypeError) as error:
        raise StorageError(f"{folder / _STATE} is damaged", f"missing entry: {error}") from error
    tensors = {name: tensor.to(device) for name, tensor in read_tensors(file, digest, "checkpoint").items()}
    return int(step), tensors, dict(extra)
