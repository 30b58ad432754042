"""docs/recall.md and docs/recall_circuit.md show what their commands and code give."""

import concurrent.futures
import re
import shlex
import shutil

import numpy as np
import pytest
import torch
from documents import python_blocks, run_blocks, text_of
from paths import REPOSITORY

from sae_lens_ext.cli.app import app
from sae_lens_ext.experiments.recall import MQAR, Outcome, Recipe, model_for
from sae_lens_ext.experiments.recall.saved_models import save_model


def commands_of_the_page():
    """The options of every ``sae-lens-ext mqar`` of docs/recall.md.

    The shell's line breaks and variables are taken out.
    """
    blocks = re.findall(r"```bash\n(.*?)```", text_of("recall.md"), flags=re.DOTALL)
    text = "\n".join(blocks).replace("\\\n", " ").replace("$width", "24")
    return [
        shlex.split(line)[1:]
        for line in text.splitlines()
        if line.strip().startswith("sae-lens-ext mqar")
    ]


COMMANDS = commands_of_the_page()


@pytest.mark.parametrize("command", COMMANDS[:-1], ids=["longer", "short"])
def test_the_page_shows_what_its_commands_print(tmp_path, monkeypatch, capsys, command):
    """Results are in benchmarks/results, so a command has nothing left to train.

    The models that it would save are not there.
    """
    from sae_lens_ext.experiments.recall import grid, workers

    trained = []
    monkeypatch.setattr(
        grid, "train_mqar", lambda recipe, *_, **__: trained.append(recipe)
    )
    monkeypatch.setattr(workers, "process_pool", concurrent.futures.ThreadPoolExecutor)
    command = [option for option in command if option != "--save"]
    shutil.copy(REPOSITORY / "benchmarks" / "results" / "mqar.csv", tmp_path)

    assert app([*command, "--out", str(tmp_path), "--no-progress"]) == 0
    assert not trained

    document = text_of("recall.md")
    lines = capsys.readouterr().out.splitlines()[:-1]
    assert len(lines) >= 5
    for line in lines:
        assert line in document


def test_the_published_protocol_is_a_command(monkeypatch):
    from sae_lens_ext.cli import mqar

    received = []
    monkeypatch.setattr(
        mqar, "compare_recall", lambda *values, **_: received.extend(values)
    )
    assert app(COMMANDS[-1]) == 0
    task, recipe = received[:2]
    assert task == MQAR()
    assert recipe == Recipe(d_model=24, steps=64 * (100_000 // 512))


def test_the_code_of_the_page_asks_the_saved_models(tmp_path, capfd):
    recipe = Recipe(d_model=4, heads=1, feature_dim=2, learned_positions=False)
    task = MQAR(seq_len=64, pairs=16, vocab_size=256)
    folder = tmp_path / "kept"
    outcome = Outcome(0.5, 0.5, -1, 1.0)
    save_model(folder, model_for(recipe, task), recipe, task, outcome)

    blocks = python_blocks(text_of("recall.md"))
    names = run_blocks(tmp_path, blocks, folder=folder)
    assert len(torch.cat(names["right"])) == 16 * 16, "every question of 16 sequences"
    lines = capfd.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[:3]] == ["64", "256", "1024"]


def test_the_code_of_the_circuit_page_runs(tmp_path):
    task = MQAR(seq_len=24, pairs=6, vocab_size=48)
    model = model_for(Recipe("rebased", d_model=32, heads=4, feature_dim=8), task)
    tokens, labels = task.sample(5, np.random.default_rng(0))

    blocks = python_blocks(text_of("recall_circuit.md"))
    names = run_blocks(tmp_path, blocks, model=model, tokens=tokens, labels=labels)
    assert names["overlap"].shape == (4,)
    assert names["broken"].shape == (5, 24, 48)
