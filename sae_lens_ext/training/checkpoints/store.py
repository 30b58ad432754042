"""Checkpoints on disk: folders of safetensors and one JSON file.

::

    step-00001000/weights.safetensors     one file per group of tensors
                  optimizer.safetensors
                  ...
                  checkpoint.json         facts, and which tensors are transposed

Of a dictionary that processes share, weights and optimizer are in a folder ``sharded``
instead, a file for every process.

A checkpoint is written under another name, synced, and renamed. So whatever has the
name of a checkpoint is whole, however the process or the machine ended. One that is not
needed is renamed before it is deleted, for the same reason.
"""

import json
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from sae_lens_ext.errors import FormatError
from sae_lens_ext.formats.atomic import make_ordinary, saving, sync
from sae_lens_ext.training.parallel import ALONE, Ranks, is_distributed

_PREFIX = "step-"
_WRITING = ".writing-"
_DELETING = ".deleting-"
_FACTS = "checkpoint.json"
_PARTS = "sharded"
# The groups that grow with the dictionary.
_SHARDED = ("weights", "optimizer")


class Checkpoint(NamedTuple):
    """What is needed to go on."""

    tensors: Mapping[str, Mapping[str, Tensor]]
    """By group, which is a file, and name."""
    facts: Mapping[str, Any]
    """JSON values."""
    sharded: Path | None = None
    """Where the tensors of empty groups are, of which every process reads its part."""


class CheckpointStore:
    """The checkpoints of a run; only one process at a time may write."""

    def __init__(self, folder: Path) -> None:
        """Use a folder; it is made when the first checkpoint is written."""
        self.folder = folder

    def steps(self) -> list[int]:
        """The steps of all checkpoints, rising."""
        if not self.folder.is_dir():
            return []
        names = [path.name for path in self.folder.iterdir()]
        numbers = [name.removeprefix(_PREFIX) for name in names if _PREFIX in name]
        return sorted(int(number) for number in numbers if number.isdecimal())

    def path(self, step: int) -> Path:
        """The folder of a checkpoint."""
        return self.folder / f"{_PREFIX}{step:08}"

    def write(self, step: int, checkpoint: Checkpoint, ranks: Ranks = ALONE) -> None:
        """Write a checkpoint; one of the same step is left as it is.

        The first process writes; the others add their parts, where tensors are
        DTensors, and return when all of it is there.

        Raises:
            OSError: it cannot be written, for example because the disk is full. Nothing
                is left of it then.
        """
        if self.path(step).exists():
            return
        if not ranks.is_first:
            _write_parts(self.folder / ranks.from_first(None), checkpoint, ranks)
            ranks.from_first(None)
            return

        self.folder.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=_WRITING, dir=self.folder))
        try:
            # mkdtemp makes private folders; those of a run are like any other.
            temporary.chmod(self.folder.stat().st_mode & 0o777)
            ranks.from_first(temporary.name)
            _write_parts(temporary, checkpoint, ranks)
            _write_files(temporary, checkpoint)
            for path in (*temporary.rglob("*"), temporary):
                sync(path)
            temporary.rename(self.path(step))
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        sync(self.folder)
        ranks.from_first(None)

    def read(self, step: int, *, in_parts: bool = False) -> Checkpoint:
        """Read a checkpoint.

        Args:
            step: its step.
            in_parts: whether to leave out the tensors that are in parts, for the
                processes to read their own.

        Raises:
            FormatError: a file is missing, or damaged.
        """
        folder = self.path(step)
        try:
            facts = json.loads((folder / _FACTS).read_text(encoding="utf-8"))
            groups = facts.pop("groups")
            n_parts = facts.pop("parts", 0)
            tensors = {
                group: _read_group(folder / f"{group}.safetensors", transposed)
                for group, transposed in groups.items()
                if group not in _SHARDED or not n_parts
            }
            if n_parts:
                parts = _read_parts(folder / _PARTS, groups, n_parts, in_parts)
                tensors |= parts
        except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
            raise FormatError(
                f"the checkpoint {folder} is damaged ({error})"
            ) from error
        sharded = folder / _PARTS if n_parts and in_parts else None
        return Checkpoint(tensors, facts, sharded)

    def keep(self, n: int) -> None:
        """Delete all but the last ``n`` checkpoints."""
        for step in self.steps()[:-n]:
            doomed = self.folder / f"{_DELETING}{step}"
            self.path(step).rename(doomed)
            shutil.rmtree(doomed, ignore_errors=True)

    def clean(self) -> None:
        """Delete what a process that was killed has left half written or deleted."""
        for prefix in (_WRITING, _DELETING):
            for path in self.folder.glob(f"{prefix}*"):
                shutil.rmtree(path, ignore_errors=True)


def in_parts(tensors: Mapping[str, Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """The tensors of groups that processes have parts of, as they are stored."""
    parts: dict[str, Tensor] = {}
    for group in _SHARDED:
        named = tensors.get(group, {})
        if any(is_distributed(tensor) for tensor in named.values()):
            stored, _ = _as_stored(named)
            parts |= {f"{group}.{name}": tensor for name, tensor in stored.items()}
    return parts


def _as_stored(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """Tensors in the order of their memory, and which of them are transposed."""
    stored = {}
    transposed = []
    for name, tensor in tensors.items():
        tensor = tensor.detach()
        # The encoder is stored feature by feature. A copy in the other order would take
        # memory, and a product with it would round differently.
        if not tensor.is_contiguous() and tensor.T.is_contiguous():
            transposed.append(name)
            tensor = tensor.T
        stored[name] = tensor.contiguous()
    return stored, transposed


def _write_parts(folder: Path, checkpoint: Checkpoint, ranks: Ranks) -> None:
    parts = in_parts(checkpoint.tensors)
    if parts:
        # torch.distributed.checkpoint takes seconds to import.
        from sae_lens_ext.training.checkpoints.sharded import write_sharded

        write_sharded(folder / _PARTS, parts, ranks)


def _write_files(folder: Path, checkpoint: Checkpoint) -> None:
    parts = in_parts(checkpoint.tensors)
    groups: dict[str, list[str]] = {}
    for group, tensors in checkpoint.tensors.items():
        stored, groups[group] = _as_stored(tensors)
        if any(f"{group}.{name}" in parts for name in stored):
            continue
        path = folder / f"{group}.safetensors"
        with saving(path):
            save_file(stored, path)
        make_ordinary(path)

    facts: dict[str, Any] = {**checkpoint.facts, "groups": groups}
    if parts:
        facts["parts"] = len(list((folder / _PARTS).iterdir()))
    (folder / _FACTS).write_text(json.dumps(facts, indent=2), encoding="utf-8")


def _read_parts(
    folder: Path, groups: Mapping[str, list[str]], n_parts: int, in_parts: bool
) -> dict[str, dict[str, Tensor]]:
    """The groups that are in parts; empty ones where they are only looked at."""
    from sae_lens_ext.training.checkpoints.sharded import read_whole, shapes_in

    n_files = len(list(folder.iterdir()))
    if n_files != n_parts:
        raise ValueError(f"{n_files} of {n_parts} files in {folder}")
    if in_parts:
        # It fails where a file is damaged or cut short.
        shapes_in(folder)
        return {group: {} for group in _SHARDED}

    whole = read_whole(folder)
    read: dict[str, dict[str, Tensor]] = {group: {} for group in _SHARDED}
    for full_name, tensor in whole.items():
        group, name = full_name.split(".", 1)
        read[group][name] = tensor.T if name in groups[group] else tensor
    return read


def _read_group(path: Path, transposed: list[str]) -> dict[str, Tensor]:
    tensors = load_file(path)
    return {
        name: tensor.T if name in transposed else tensor
        for name, tensor in tensors.items()
    }
