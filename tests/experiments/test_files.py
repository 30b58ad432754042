"""Commands share folders, and full disks leave the files of the experiments whole."""

import multiprocessing
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import quick_recall
import small_run
from full_disk import full_disk

from sae_lens_ext.experiments.pretraining.folder import RunFolder
from sae_lens_ext.experiments.pretraining.training import pretrain
from sae_lens_ext.experiments.recall import Outcome, model_for
from sae_lens_ext.experiments.recall.saved_models import save_model
from sae_lens_ext.experiments.recall.table import add_line, read_table

OUTCOME = Outcome(0.5, 0.25, -1, 1.0)
N_LINES = 8
N_PROCESSES = 3


def add_lines(folder: Path, process: int):
    """What a command does with its table and its results."""
    for number in range(N_LINES):
        recipe = replace(quick_recall.RECIPE, seed=100 * process + number)
        add_line(folder / "mqar.csv", recipe, quick_recall.TASK, OUTCOME)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no fcntl")
def test_commands_that_share_a_folder_lose_no_lines(tmp_path):
    context = multiprocessing.get_context("fork")
    processes = [
        context.Process(target=add_lines, args=(tmp_path, number))
        for number in range(N_PROCESSES)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        assert process.exitcode == 0
    assert len(read_table(tmp_path / "mqar.csv")) == N_LINES * N_PROCESSES
    assert [path.name for path in tmp_path.iterdir()] == ["mqar.csv"]


def test_a_full_disk_leaves_the_old_checkpoint_whole(tmp_path):
    checkpoint = tmp_path / "checkpoint"
    config = small_run.CONFIG
    rows = small_run.rows()
    options = {"checkpoint": checkpoint, "checkpoint_every": 2, "progress": False}
    with pytest.MonkeyPatch.context() as patch:
        small_run.interrupt_at(patch, 5)
        with pytest.raises(KeyboardInterrupt):
            pretrain(small_run.model(), rows, config, **options)
    before = checkpoint.read_bytes()

    with full_disk(len(before) // 2), pytest.raises(OSError, match="cannot be written"):
        pretrain(small_run.model(), rows, config, **options)
    assert checkpoint.read_bytes() == before
    assert list(tmp_path.iterdir()) == [checkpoint]


def test_a_full_disk_leaves_the_old_table_whole(tmp_path):
    table = tmp_path / "mqar.csv"
    add_line(table, quick_recall.RECIPE, quick_recall.TASK, OUTCOME)
    before = table.read_bytes()
    other = replace(quick_recall.RECIPE, seed=1)
    with full_disk(len(before) // 2), pytest.raises(OSError, match="too large|space"):
        add_line(table, other, quick_recall.TASK, OUTCOME)
    assert table.read_bytes() == before
    assert list(tmp_path.iterdir()) == [table]


def test_a_full_disk_leaves_no_half_of_a_model(tmp_path):
    model = model_for(quick_recall.RECIPE, quick_recall.TASK)
    folder = tmp_path / "models" / "a"
    run = RunFolder(tmp_path / "run", {}, {})
    run.begin()
    with full_disk(500):
        with pytest.raises(OSError, match="cannot be written|too large"):
            save_model(folder, model, quick_recall.RECIPE, quick_recall.TASK, OUTCOME)
        with pytest.raises(OSError, match="cannot be written|too large"):
            run.save_model("based", model, None, [])
    assert list(folder.parent.iterdir()) == []
    assert [path.name for path in run.out.iterdir()] == ["results.json"]
