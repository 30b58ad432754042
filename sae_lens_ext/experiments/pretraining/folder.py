"""The folder of a run: its settings, its results, its models.

``results.json`` is written first, so a folder without it does not belong to a run.
Results are not kept in memory: several commands can train different kernels of one run
at a time, and each reads what the others have added before it writes.
"""

import itertools
import json
import math
import shutil
import tempfile
from pathlib import Path
from typing import Any, get_args

import pandas as pd

from sae_lens_ext._arguments import as_real
from sae_lens_ext.errors import FormatError, InvalidArgument
from sae_lens_ext.experiments.pretraining.perplexity import Recall
from sae_lens_ext.formats.atomic import replacing, saving
from sae_lens_ext.formats.locks import locked

_NUMBERS = {
    "layers",
    "intermediate_size",
    "parameters",
    "size",
    "perplexity",
    "recall_share",
    "test_tokens",
    "train_tokens",
    "seconds",
    "tokens_per_second",
}
# A text can be without a token that has occurred before, or without any other.
_NUMBERS_OR_NONE = {"perplexity_recall", "perplexity_other"}
_COLUMNS = {"kernel", "recall"} | _NUMBERS | _NUMBERS_OR_NONE

# Files that a run leaves behind after it has got its text.
_OUTPUTS = ("tokens/tokens.json", "*/config.json", "*.checkpoint.safetensors")


class RunFolder:
    """A new folder, or one of a run with the same settings and the same files of text.

    Attributes:
        out: the folder.
        path: its ``results.json``.
        settings: the settings of the run, by name.
        files: a description of the files of each text, by name. Where it is None, then
            or now, the text was not in files (it can be deleted once it is tokenized),
            and is not compared.
        is_begun: whether the settings are written.

    Raises:
        InvalidArgument: a folder of something else, or of a run with other settings or
            another text.
        FormatError: a broken ``results.json``.
    """

    def __init__(
        self, out: Path, settings: dict[str, Any], files: dict[str, str | None]
    ) -> None:
        """Read what is there; nothing is written yet."""
        self.out = out
        self.path = out / "results.json"
        self.settings = settings
        self.files = files
        self.is_begun = False

        try:
            if self.path.exists():
                self._resume()
            elif out.exists() and (not out.is_dir() or any(out.iterdir())):
                raise InvalidArgument(
                    f"{out} is not empty and holds no run of this command; give "
                    "another folder with --out"
                )
        except OSError as error:
            raise InvalidArgument(
                f"{out} cannot be read ({error}); give another folder with --out"
            ) from error

    def begin(self) -> None:
        """Make the folder and write the settings, unless that was done before.

        Raises:
            InvalidArgument: the folder cannot be written to.
        """
        if self.is_begun:
            return
        # Another command may have begun the run meanwhile, and have results.
        try:
            self.out.mkdir(parents=True, exist_ok=True)
            with locked(self.out):
                self._write(self.results())
        except OSError as error:
            raise InvalidArgument(
                f"{self.out} cannot be written to ({error}); give another folder with "
                "--out"
            ) from error

    def results(self) -> list[dict[str, Any]]:
        """The results so far, those of other commands included."""
        if not self.path.exists():
            return []
        return self._read()[1]

    def has_results(self, kernel: str) -> bool:
        """Whether there are results of a kernel."""
        return any(result["kernel"] == kernel for result in self.results())

    def add(self, results: list[dict[str, Any]]) -> None:
        """Write results, in the place of those of the same kernels."""
        # A kernel that two commands have trained is kept once.
        kernels = {result["kernel"] for result in results}
        # Nobody may add others between the reading and the writing.
        with locked(self.out):
            others = [
                result for result in self.results() if result["kernel"] not in kernels
            ]
            self._write([*others, *results])

    def save_model(
        self,
        kernel: str,
        model: Any,
        tokenizer: Any,
        losses: list[float],
    ) -> None:
        """Write a model, its tokenizer and its losses.

        They are written beside their place and then moved there, so that the folder of
        a model is always whole.
        """
        target = self.out / kernel
        with tempfile.TemporaryDirectory(
            prefix=f".{kernel}.", dir=self.out
        ) as temporary:
            folder = Path(temporary, kernel)
            with saving(target):
                model.save_pretrained(folder)
            tokenizer.save_pretrained(folder)
            steps = range(1, len(losses) + 1)
            table = pd.DataFrame({"step": steps, "loss": losses})
            table.to_csv(folder / "losses.csv", index=False)

            # A run that was interrupted before its model was tested has left one here.
            shutil.rmtree(target, ignore_errors=True)
            folder.replace(target)

    def _read(self) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        """The settings and the results in ``results.json``."""
        try:
            content = json.loads(self.path.read_text(encoding="utf-8"))
            settings = {**content["settings"]}
            results = list(content["results"])
            _check_results(results)
        except (ValueError, KeyError, TypeError) as error:
            raise FormatError(
                f"{self.path} is not a list of results ({error!r}); give another "
                "folder with --out, or delete this one"
            ) from error
        return settings, results

    def _resume(self) -> None:
        """Compare the settings with those of the run that the folder holds."""
        before, results = self._read()
        now = {**self.settings, **self.files}
        not_compared = {
            name
            for name, files in self.files.items()
            if files is None or before.get(name) is None
        }
        changes = [
            f"{name} is {before.get(name)!r} there and {now.get(name)!r} here"
            for name in sorted({*before, *now} - not_compared)
            if before.get(name) != now.get(name)
        ]

        if not changes:
            self.is_begun = True
            # A text that is gone by now is still remembered.
            self.files = {
                name: files or before.get(name) for name, files in self.files.items()
            }
        # In a run that never got its text, other settings do not contradict anything.
        elif results or self._has_outputs():
            raise InvalidArgument(
                f"{self.out} holds a run with other settings: {'; '.join(changes)}. "
                "Give another folder with --out, or delete this one"
            )

    def _has_outputs(self) -> bool:
        return any(any(self.out.glob(pattern)) for pattern in _OUTPUTS)

    def _write(self, results: list[dict[str, Any]]) -> None:
        if results:
            with replacing(self.out / "results.csv") as temporary:
                pd.DataFrame(results).to_csv(temporary, index=False)

        content = {"settings": {**self.settings, **self.files}, "results": results}
        with replacing(self.path) as temporary:
            temporary.write_text(json.dumps(content, indent=2), encoding="utf-8")


def _check_results(results: list[Any]) -> None:
    for result in results:
        _check_result(result)

    # They are written together, so part of them is a sign of damage.
    pairs = sorted((result["kernel"], result["recall"]) for result in results)
    kernels = {kernel for kernel, _ in pairs}
    if pairs != sorted(itertools.product(kernels, get_args(Recall))):
        raise ValueError("not every kernel has one result per definition of recall")


def _check_result(result: Any) -> None:
    if not isinstance(result, dict) or result.keys() != _COLUMNS:
        raise ValueError(f"{str(result)[:80]} is not a result")

    for name in _NUMBERS | _NUMBERS_OR_NONE:
        value = result[name]
        if value is None and name in _NUMBERS_OR_NONE:
            continue
        if not math.isfinite(as_real(value)):
            raise ValueError(f"{name} is {value!r}")
