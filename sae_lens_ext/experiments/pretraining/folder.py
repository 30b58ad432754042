"""The folder of a pretraining run: its settings, its results, its models.

``results.json`` comes first, every other file is younger, so a folder without it is not ours. Nothing of it is kept in memory: several
commands can train different kernels of one run at a time, and each reads what the others have added before it writes.
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
from sae_lens_ext.formats.atomic import replacing

_FIGURES = {
    *(
        "layers",
        "intermediate_size",
        "parameters",
        "size",
        "perplexity",
        "recall_share",
    ),
    *("test_tokens", "train_tokens", "seconds", "tokens_per_second"),
}
# A text can be without a token that has occurred before, or without any other.
_MAYBE_NONE = {"perplexity_recall", "perplexity_other"}


class RunFolder:
    """A new folder, or that of a run with the same settings and the same files of text.

    What is None in ``files`` was not in files here, then or now (a text can be deleted once it is tokenized), and is not compared.

    Raises:
        InvalidArgument: a folder of something else, or of a run with other settings or another text.
        FormatError: a broken ``results.json``.
    """

    def __init__(
        self, out: Path, settings: dict[str, Any], files: dict[str, str | None]
    ) -> None:
        """Read what is there; nothing is written yet."""
        self.out, self.path = out, out / "results.json"
        self.settings, self.files, self.is_begun = settings, files, False
        try:
            if self.path.exists():
                self._resume()
            elif out.exists() and (not out.is_dir() or any(out.iterdir())):
                raise InvalidArgument(
                    f"{out} is not empty and holds no run of this command; give another folder with --out"
                )
        except OSError as error:
            raise InvalidArgument(
                f"{out} cannot be read ({error}); give another folder with --out"
            ) from error

    def begin(self) -> None:
        """Make the folder and write the settings, where that was not done before.

        Raises:
            InvalidArgument: that cannot be done.
        """
        if self.is_begun:
            return
        try:
            self._write(self.lines())
        except OSError as error:
            raise InvalidArgument(
                f"{self.out} cannot be written to ({error}); give another folder with --out"
            ) from error

    def lines(self) -> list[dict[str, Any]]:
        """The results so far, those of other commands included."""
        return self._read()[1] if self.path.exists() else []

    def has(self, kernel: str) -> bool:
        """Whether there are results of a kernel."""
        return any(line["kernel"] == kernel for line in self.lines())

    def add(self, lines: list[dict[str, Any]]) -> None:
        """Write results, in place of those of the same kernels."""
        kernels = {line["kernel"] for line in lines}
        self._write(
            [*(line for line in self.lines() if line["kernel"] not in kernels), *lines]
        )

    def keep_model(
        self, kernel: str, model: Any, tokenizer: Any, losses: list[float]
    ) -> None:
        """Written beside its place and then moved there, so that a folder of a model is whole."""
        with tempfile.TemporaryDirectory(
            prefix=f".{kernel}.", dir=self.out
        ) as temporary:
            whole = Path(temporary, kernel)
            model.save_pretrained(whole)
            tokenizer.save_pretrained(whole)
            pd.DataFrame({"step": range(1, len(losses) + 1), "loss": losses}).to_csv(
                whole / "losses.csv", index=False
            )
            # Of a run that was interrupted before it was tested.
            shutil.rmtree(self.out / kernel, ignore_errors=True)
            whole.replace(self.out / kernel)

    def _read(self) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        try:
            held = json.loads(self.path.read_text(encoding="utf-8"))
            settings, lines = {**held["settings"]}, list(held["results"])
            for line in lines:
                _check_line(line)
            found = sorted((line["kernel"], line["recall"]) for line in lines)
            if found != sorted(
                itertools.product({kernel for kernel, _ in found}, get_args(Recall))
            ):
                raise ValueError(
                    "not every kernel has one result for each definition of recall"
                )
            return settings, lines
        except (ValueError, KeyError, TypeError) as error:
            raise FormatError(
                f"{self.path} is no list of results ({error!r}); give another folder with --out, or delete this one"
            ) from error

    def _resume(self) -> None:
        there, lines = self._read()
        unknown = [
            name
            for name, found in self.files.items()
            if None in (found, there.get(name))
        ]
        here = {**self.settings, **self.files}
        changed = [
            f"{name} is {there.get(name)!r} there and {here.get(name)!r} here"
            for name in sorted({*there, *here}.difference(unknown))
            if there.get(name) != here.get(name)
        ]
        if not changed:
            self.is_begun = True
            self.files = {
                name: found or there.get(name) for name, found in self.files.items()
            }
        # Where it never got its text, there is nothing that other settings could contradict.
        elif lines or self._has_begun():
            raise InvalidArgument(
                f"{self.out} holds a run with other settings: {'; '.join(changed)}. Give another folder with --out, or delete this one"
            )

    def _has_begun(self) -> bool:
        made = ("tokens/tokens.json", "*/config.json", "*.checkpoint.safetensors")
        return any(found for pattern in made for found in self.out.glob(pattern))

    def _write(self, lines: list[dict[str, Any]]) -> None:
        if lines:
            with replacing(self.out / "results.csv") as temporary:
                pd.DataFrame(lines).to_csv(temporary, index=False)
        with replacing(self.path) as temporary:
            temporary.write_text(
                json.dumps(
                    {"settings": {**self.settings, **self.files}, "results": lines},
                    indent=2,
                ),
                encoding="utf-8",
            )


def _check_line(line: Any) -> None:
    if not isinstance(line, dict) or line.keys() != {
        "kernel",
        "recall",
        *_FIGURES,
        *_MAYBE_NONE,
    }:
        raise ValueError(f"{str(line)[:80]} is no result")
    for name in _FIGURES | _MAYBE_NONE:
        if not (
            math.isfinite(as_real(line[name]))
            or (line[name] is None and name in _MAYBE_NONE)
        ):
            raise ValueError(f"{name} is {line[name]!r}")
