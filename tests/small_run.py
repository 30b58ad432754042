"""A pretraining run that takes a second: its settings, its text, its interruption."""

import numpy as np

from sae_lens_ext.experiments.pretraining import training
from sae_lens_ext.experiments.pretraining.config import PretrainConfig
from sae_lens_ext.experiments.pretraining.models import model_config, new_model
from sae_lens_ext.experiments.pretraining.tokens import TokenRows

SETTINGS = {
    "hidden_size": 16,
    "layers": 2,
    "heads": 2,
    "feature_dim": 4,
    "seq_len": 16,
    "batch_size": 3,
    "steps": 8,
    "lr": 1e-2,
}
CONFIG = PretrainConfig(**SETTINGS)


def write_texts(folder, n=60):
    """Write short documents; returns the folder."""
    folder.mkdir()
    for number in range(n):
        text = f"Document {number} is about {number * number} things, and ends with é."
        (folder / f"{number:03}.txt").write_text(text)
    return folder


def rows():
    """Rows of a text that needs no files."""
    return TokenRows(np.arange(200) % 23, 16)


def model(config=CONFIG, vocab_size=24):
    """A new model that knows the tokens of ``rows``."""
    return new_model(model_config("rebased", config, vocab_size), seed=0)


def interrupt_at(monkeypatch, step):
    """Make training stop as by Ctrl-C when it gets to a step."""
    rows_of_step = training.rows_of_step

    def interrupted(current, *arguments):
        if current == step:
            raise KeyboardInterrupt
        return rows_of_step(current, *arguments)

    monkeypatch.setattr(training, "rows_of_step", interrupted)


def command(*arguments):
    """Run ``python -m sae_lens_ext.based.pretrain`` in this process; its exit code."""
    # Imported late: tests of the library do without the command line.
    from sae_lens_ext.cli.pretrain import main

    options = []
    for name, value in SETTINGS.items():
        options += [f"--{name.replace('_', '-')}", value]
    return main([str(word) for word in (*options, "--no-progress", *arguments)])


def failure(capsys, *arguments):
    """The one line that a failing command writes."""
    assert command(*arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("sae-lens-ext: ")
    return line
