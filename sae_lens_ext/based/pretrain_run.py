"""Several models on one text, each trained, tested and kept in one folder that a later call goes on from."""

import json
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, get_args

import pandas as pd

from sae_lens_ext._devices import check_device
from sae_lens_ext.based.perplexity import Recall, recall_mask, split, token_losses
from sae_lens_ext.based.pretrain_config import PretrainConfig, TextConfig
from sae_lens_ext.based.pretrain_loop import autocast, pretrain
from sae_lens_ext.based.pretrain_model import model_config, n_parameters, new_model
from sae_lens_ext.based.pretrain_text import TokenRows, load_tokenizer, prepare_tokens
from sae_lens_ext.errors import FormatError, InvalidArgument
from sae_lens_ext.formats.atomic import replacing


def compare(
    kernels: Sequence[str],
    out: Path,
    config: PretrainConfig,
    text: TextConfig,
    *,
    device: str = "cpu",
    checkpoint_every: int = 200,
    progress: bool = True,
) -> pd.DataFrame:
    """Train what is not trained yet, test it, and keep everything in ``out``.

    Args:
        kernels: of ``KERNELS``, or "attention".
        out: a folder of its own; ``sae_lens_ext.based.pretrain`` says what it will hold.
        config: the models and their training.
        text: to train on and to test on.
        device: where.
        checkpoint_every: after how many steps what is done so far is written.
        progress: whether to show bars.

    Returns:
        Two lines per kernel, one for each definition of recall. ``size`` is the number of parameters as a share of ReBased's;
        perplexities and ``recall_share`` are those of ``Perplexity``.

    Raises:
        InvalidArgument: no such kernel or device, too little text, or a folder that cannot be used.
        FormatError: no text or tokenizer, or a broken file in ``out``.
        NonFinite: a loss that became NaN or infinite.
    """
    if checkpoint_every < 1:
        raise InvalidArgument(f"checkpoint_every must be at least 1; got {checkpoint_every}")
    check_device(device)
    tokenizer = load_tokenizer(text.tokenizer)
    # A multiple of 8, as published; the rows above the tokenizer's are never read.
    vocab_size = -(-len(tokenizer) // 8) * 8
    shapes = {kernel: model_config(kernel, config, vocab_size, tokenizer.eos_token_id) for kernel in dict.fromkeys(kernels)}
    of_rebased = n_parameters(model_config("rebased", config, vocab_size))
    run = _Run(out, {**asdict(config), **asdict(text)})
    rows, held_out = prepare_tokens(out / "tokens", config, text, tokenizer, progress=progress)
    for kernel, shape in shapes.items():
        if run.has(kernel):
            continue
        checkpoint = out / f"{kernel}.checkpoint.safetensors"
        model = new_model(shape, config.seed)
        done = pretrain(
            model,
            rows,
            config,
            checkpoint=checkpoint,
            checkpoint_every=checkpoint_every,
            device=device,
            name=kernel,
            progress=progress,
        )
        run.keep_model(kernel, model, tokenizer, done.losses)
        size = n_parameters(shape)
        facts = {
            "kernel": kernel,
            "layers": shape.num_hidden_layers,
            "intermediate_size": shape.intermediate_size,
            "parameters": size,
            "size": size / of_rebased,
        }
        speed = {"train_tokens": config.tokens, "seconds": done.seconds, "tokens_per_second": config.tokens / done.seconds}
        with autocast(config, device):
            tested = _tested(model, held_out, config.batch_size)
        run.add([{**facts, **perplexities, **speed} for perplexities in tested])
        checkpoint.unlink(missing_ok=True)
    return pd.DataFrame([line for kernel in shapes for line in run.lines if line["kernel"] == kernel])


def _tested(model: Any, held_out: TokenRows, batch_size: int) -> list[dict[str, Any]]:
    rows = held_out.at(range(len(held_out)))
    losses = token_losses(model, rows, batch_size=batch_size)
    found = []
    for recall in get_args(Recall):
        these = split(losses, recall_mask(rows, recall))
        perplexities = {"perplexity": these.all, "perplexity_recall": these.recall, "perplexity_other": these.other}
        found.append({"recall": recall, **perplexities, "recall_share": these.recall_share, "test_tokens": these.tokens})
    return found


class _Run:
    """What a folder holds of a run, ``results.json`` first of all: every other file in the folder is younger."""

    def __init__(self, out: Path, settings: dict[str, Any]) -> None:
        self.out, self.settings, self.path = out, settings, out / "results.json"
        self.lines: list[dict[str, Any]] = []
        try:
            if self.path.exists():
                self._resume()
            elif out.exists() and (not out.is_dir() or any(out.iterdir())):
                raise InvalidArgument(f"{out} is not empty and holds no run of this command; give another folder with --out")
            else:
                self._write()
        except OSError as error:
            raise InvalidArgument(f"{out} cannot be written to ({error}); give another folder with --out") from error

    def _resume(self) -> None:
        try:
            held = json.loads(self.path.read_text(encoding="utf-8"))
            there, self.lines = dict(held["settings"]), list(held["results"])
        except (ValueError, KeyError, TypeError) as error:
            raise FormatError(f"{self.path} is no list of results ({error}); give another folder with --out, or delete this one") from error
        changed = [
            f"{name} is {there.get(name)!r} there and {self.settings.get(name)!r} here"
            for name in sorted({*there, *self.settings})
            if there.get(name) != self.settings.get(name)
        ]
        if changed and not self._has_begun():
            # It never got its text, so there is nothing that other settings could contradict.
            self._write()
        elif changed:
            raise InvalidArgument(
                f"{self.out} holds a run with other settings: {'; '.join(changed)}. Give another folder with --out, or delete this one"
            )

    def _has_begun(self) -> bool:
        made = ("tokens/tokens.json", "*/config.json", "*.checkpoint.safetensors")
        return bool(self.lines) or any(found for pattern in made for found in self.out.glob(pattern))

    def has(self, kernel: str) -> bool:
        return any(line["kernel"] == kernel for line in self.lines)

    def add(self, lines: list[dict[str, Any]]) -> None:
        self.lines += lines
        self._write()

    def _write(self) -> None:
        if self.lines:
            with replacing(self.out / "results.csv") as temporary:
                pd.DataFrame(self.lines).to_csv(temporary, index=False)
        with replacing(self.path) as temporary:
            temporary.write_text(json.dumps({"settings": self.settings, "results": self.lines}, indent=2), encoding="utf-8")

    def keep_model(self, kernel: str, model: Any, tokenizer: Any, losses: list[float]) -> None:
        """Written beside its place and then moved there, so that a folder of a model is whole."""
        with tempfile.TemporaryDirectory(prefix=f".{kernel}.", dir=self.out) as temporary:
            whole = Path(temporary, kernel)
            model.save_pretrained(whole)
            tokenizer.save_pretrained(whole)
            pd.DataFrame({"step": range(1, len(losses) + 1), "loss": losses}).to_csv(whole / "losses.csv", index=False)
            # Of a run that was interrupted before it was tested.
            shutil.rmtree(self.out / kernel, ignore_errors=True)
            whole.replace(self.out / kernel)
