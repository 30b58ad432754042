"""The folder of a run.

::

    run.json            the settings; written first
    metric.safetensors  what errors count by, if not by their squares
    metrics.jsonl       a line per record
    checkpoints/        what an interrupted run goes on from
    best/               the SAE with the least held-out error so far
    sae/                the SAE, once the run is finished
    result.json         written last
"""

import contextlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any
from warnings import warn

from sae_lens_ext.errors import FormatError, InvalidArgument, RankLost
from sae_lens_ext.formats.atomic import delete_temporary, replacing
from sae_lens_ext.formats.locks import locked_or_busy
from sae_lens_ext.sae import SAE
from sae_lens_ext.training.checkpoints.facts import differences
from sae_lens_ext.training.checkpoints.store import Checkpoint, CheckpointStore
from sae_lens_ext.training.metric import METRIC_FILE, ErrorMetric
from sae_lens_ext.training.parallel import ALONE, Ranks

_VERSION = 1
# What a finished run says of itself.
_RESULT = ("dead", "tokens_per_second", "held_out_fvu")


class RunFolder:
    """The folder of a run, new or begun before; a context that locks it.

    Attributes:
        path: the folder.
        metrics: its file of metrics.
        checkpoints: its checkpoints.
        facts: the settings of the run; JSON values.
    """

    def __init__(
        self, path: Path, facts: Mapping[str, Any], metric: ErrorMetric | None = None
    ) -> None:
        """Take a folder for a run with these facts; nothing is done yet."""
        self.path = path
        self.metrics = path / "metrics.jsonl"
        self._metric = metric
        self.checkpoints = CheckpointStore(path / "checkpoints")
        self.facts = {"version": _VERSION, **facts}
        self._open = contextlib.ExitStack()

    def __enter__(self) -> "RunFolder":
        """Lock the folder, and begin or resume the run.

        Raises:
            InvalidArgument: another process trains there, or the folder holds another
                run or something else, or cannot be written to.
            FormatError: a broken ``run.json``.
        """
        if self.path.exists() and not self.path.is_dir():
            raise InvalidArgument(f"{self.path} is a file; give a folder for the run")
        with contextlib.ExitStack() as stack:
            try:
                self.path.mkdir(parents=True, exist_ok=True)
                is_locked = stack.enter_context(locked_or_busy(self.path))
                if not is_locked:
                    raise InvalidArgument(
                        f"another process is training in {self.path}; wait until it "
                        "ends, or give another folder"
                    )
                self._begin()
            except OSError as error:
                raise InvalidArgument(
                    f"{self.path} cannot be written to ({error}); give another folder"
                ) from error
            self._open = stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Unlock the folder."""
        self._open.close()

    def join(self) -> None:
        """Take part in a run that another process has begun; it keeps the lock.

        Raises:
            InvalidArgument: the run is not there, or another one.
        """
        run = self.path / "run.json"
        if not run.exists():
            raise InvalidArgument(
                f"the first process began a run in {self.path}, and this one does not "
                "see it; give a folder that all machines share"
            )
        self._compare(run)

    def _begin(self) -> None:
        run = self.path / "run.json"
        if run.exists():
            self._compare(run)
        elif any(not path.name.startswith(".") for path in self.path.iterdir()):
            raise InvalidArgument(
                f"{self.path} is not empty and holds no run; give another folder"
            )
        # Files that a process was writing when it was killed.
        for name in ("run.json", "result.json", METRIC_FILE):
            for leftover in self.path.glob(f".{name}.*"):
                delete_temporary(leftover)
        self.checkpoints.clean()
        if not run.exists():
            _write_json(run, self.facts)
        metric = self.path / METRIC_FILE
        if self._metric is not None and not metric.exists():
            self._metric.save(metric)

    def _compare(self, run: Path) -> None:
        try:
            facts = json.loads(run.read_text(encoding="utf-8"))
            changes = differences(facts, self.facts)
        except (ValueError, AttributeError) as error:
            raise FormatError(
                f"{run} is damaged ({error}); give another folder, or delete this one"
            ) from error
        if not changes:
            return
        advice = ""
        metric = self.path / METRIC_FILE
        if metric.exists() and any(name.startswith("metric is ") for name in changes):
            advice = f" (its metric is ErrorMetric.load({str(metric)!r}))"
        raise InvalidArgument(
            f"{self.path} holds another run: {'; '.join(changes)}. Give another "
            f"folder, or the settings of that run to go on with it{advice}"
        )

    def newest(self, ranks: Ranks = ALONE) -> Checkpoint | None:
        """The last checkpoint that can be read; None if there are none.

        The same one on all processes that share the training.

        Warns of one that is damaged, and takes the one before.

        Raises:
            FormatError: all of them are damaged.
        """
        if not ranks.is_first:
            step = ranks.from_first(None)
            if step is None:
                return None
            return self.checkpoints.read(step, in_parts=ranks.has_parts)
        checkpoint = self._newest(in_parts=ranks.has_parts)
        ranks.from_first(None if checkpoint is None else checkpoint.facts["step"])
        return checkpoint

    def _newest(self, *, in_parts: bool) -> Checkpoint | None:
        steps = self.checkpoints.steps()
        for step in reversed(steps):
            try:
                return self.checkpoints.read(step, in_parts=in_parts)
            except FormatError as error:
                if step == steps[0]:
                    raise FormatError(
                        f"{error}, and there is none before it; delete {self.path} to "
                        "begin anew"
                    ) from error
                warn(f"{error}; the run goes on from the one before", stacklevel=5)
        return None

    def is_finished(self) -> bool:
        """Whether the run has a result."""
        return (self.path / "result.json").exists()

    def finish(self, sae: SAE, result: Mapping[str, Any]) -> None:
        """Save the trained SAE, then the result."""
        with self.writing():
            sae.save_pretrained(self.path / "sae")
            _write_json(self.path / "result.json", result)

    def result(self) -> dict[str, Any]:
        """What ``finish`` wrote.

        Raises:
            FormatError: it is damaged, or the trained SAE is gone.
        """
        path = self.path / "result.json"
        advice = "delete it to go on from the last checkpoint, if there is one"
        try:
            result = json.loads(path.read_text(encoding="utf-8"))
            missing = [name for name in _RESULT if name not in result]
        except (OSError, ValueError, TypeError) as error:
            raise FormatError(f"{path} is damaged ({error}); {advice}") from error
        if missing:
            raise FormatError(f"{path} has no {', '.join(missing)}; {advice}")
        if not self.checkpoints.steps() and not (self.path / "sae").is_dir():
            raise FormatError(
                f"the run in {self.path} is finished, and its SAE is not there any "
                "more; give another folder to train again"
            )
        return result

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """Raise errors of the disk with what is whole, and what to do."""
        try:
            yield
        # Saving an SAE raises InvalidArgument for a full disk too.
        except (OSError, InvalidArgument) as error:
            steps = self.checkpoints.steps()
            kept = f"the checkpoint of step {steps[-1]} is" if steps else "nothing is"
            raise OSError(
                f"the run in {self.path} cannot be written ({error}); {kept} kept "
                "there: make room, and call train again to go on"
            ) from error


@contextlib.contextmanager
def run_folder(
    path: Path,
    facts: Mapping[str, Any],
    ranks: Ranks = ALONE,
    metric: ErrorMetric | None = None,
) -> Iterator[RunFolder]:
    """The folder of a run, for all processes that share it; the first one locks it.

    Raises:
        InvalidArgument: see ``RunFolder``.
        FormatError: see ``RunFolder``.
        RankLost: with what is kept, and what to do.
    """
    folder = RunFolder(path, facts, metric)
    with contextlib.ExitStack() as stack:
        if ranks.is_first:
            stack.enter_context(folder)
        ranks.from_first(None)
        if not ranks.is_first:
            folder.join()
        try:
            yield folder
        except RankLost as error:
            steps = folder.checkpoints.steps()
            kept = f"from the checkpoint of step {steps[-1]}" if steps else "anew"
            raise RankLost(
                f"{error}. Call train again, with any number of processes, to go on "
                f"{kept} in {path}"
            ) from error


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2), encoding="utf-8")
