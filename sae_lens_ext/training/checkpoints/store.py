"""Checkpoints on disk: folders of safetensors and one JSON file.

::

    step-00001000/weights.safetensors     one file per group of tensors
                  optimizer.safetensors
                  ...
                  checkpoint.json         facts, and which tensors are transposed

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

_PREFIX = "step-"
_WRITING = ".writing-"
_DELETING = ".deleting-"
_FACTS = "checkpoint.json"


class Checkpoint(NamedTuple):
    """What is needed to go on."""

    tensors: Mapping[str, Mapping[str, Tensor]]
    """By group, which is a file, and name."""
    facts: Mapping[str, Any]
    """JSON values."""


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

    def write(self, step: int, checkpoint: Checkpoint) -> None:
        """Write a checkpoint; one of the same step is left as it is.

        Raises:
            OSError: it cannot be written, for example because the disk is full. Nothing
                is left of it then.
        """
        if self.path(step).exists():
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=_WRITING, dir=self.folder))
        try:
            _write_files(temporary, checkpoint)
            # mkdtemp makes private folders; those of a run are like any other.
            temporary.chmod(self.folder.stat().st_mode & 0o777)
            for path in (*temporary.iterdir(), temporary):
                sync(path)
            temporary.rename(self.path(step))
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        sync(self.folder)

    def read(self, step: int) -> Checkpoint:
        """Read a checkpoint.

        Raises:
            FormatError: a file is missing, or damaged.
        """
        folder = self.path(step)
        try:
            facts = json.loads((folder / _FACTS).read_text(encoding="utf-8"))
            groups = facts.pop("groups")
            tensors = {
                group: _read_group(folder / f"{group}.safetensors", transposed)
                for group, transposed in groups.items()
            }
        except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
            raise FormatError(
                f"{folder} is damaged ({error}); delete it to go on from the "
                "checkpoint before it"
            ) from error
        return Checkpoint(tensors, facts)

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


def _write_files(folder: Path, checkpoint: Checkpoint) -> None:
    groups: dict[str, list[str]] = {}
    for group, tensors in checkpoint.tensors.items():
        stored = {}
        groups[group] = []
        for name, tensor in tensors.items():
            tensor = tensor.detach()
            # The encoder is stored feature by feature. A copy in the other order would
            # take memory, and a product with it would round differently.
            if not tensor.is_contiguous() and tensor.T.is_contiguous():
                groups[group].append(name)
                tensor = tensor.T
            stored[name] = tensor.contiguous()
        path = folder / f"{group}.safetensors"
        with saving(path):
            save_file(stored, path)
        make_ordinary(path)

    facts = {**checkpoint.facts, "groups": groups}
    (folder / _FACTS).write_text(json.dumps(facts, indent=2), encoding="utf-8")


def _read_group(path: Path, transposed: list[str]) -> dict[str, Tensor]:
    tensors = load_file(path)
    return {
        name: tensor.T if name in transposed else tensor
        for name, tensor in tensors.items()
    }
