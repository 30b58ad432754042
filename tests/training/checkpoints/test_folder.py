"""The folder of a run belongs to one run and one process at a time."""

import multiprocessing
import shutil
import sys

import pytest
import torch

import sae_lens_ext as sle
from sae_lens_ext.formats.atomic import replacing
from sae_lens_ext.training.checkpoints.folder import RunFolder
from sae_lens_ext.training.checkpoints.store import Checkpoint

FACTS = {"config": {"lr": 1.0, "k": 2}}
SAE = sle.SAE(
    sle.SAEConfig(d_model=3, d_sae=8, k=2), generator=torch.Generator().manual_seed(0)
)


def enter(path, facts=FACTS):
    with RunFolder(path, facts):
        pass


def test_a_new_folder_begins_with_the_settings(tmp_path):
    path = tmp_path / "a" / "run"
    with RunFolder(path, FACTS) as folder:
        assert folder.newest() is None
        assert not folder.is_finished()
    assert [file.name for file in path.iterdir()] == ["run.json"]
    enter(path)


def test_rejects_another_config_with_the_differences(tmp_path):
    enter(tmp_path)
    with pytest.raises(
        sle.InvalidArgument,
        match=r"holds another run: lr is 1.0 there and 3.0 here; k is 2 there and None "
        "here. Give another folder, or the settings of that run",
    ):
        enter(tmp_path, {"config": {"lr": 3.0}})


def test_rejects_a_folder_of_something_else(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(sle.InvalidArgument, match="is not empty and holds no run"):
        enter(tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["notes.txt"]


def test_rejects_damaged_settings(tmp_path):
    enter(tmp_path)
    (tmp_path / "run.json").write_text("{")
    with pytest.raises(sle.FormatError, match="run.json is damaged"):
        enter(tmp_path)


def test_rejects_a_folder_that_cannot_be_written_to(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(sle.InvalidArgument, match="file is a file; give a folder for"):
        enter(tmp_path / "file")
    with pytest.raises(sle.InvalidArgument, match="cannot be written to"):
        enter(tmp_path / "file" / "run")


def half_written(path, name):
    """Leave what a process leaves that is killed while it replaces a file."""
    elsewhere = path.with_name(f"{path.name}-elsewhere")
    with replacing(elsewhere / name) as temporary:
        temporary.write_text("{")
        shutil.copytree(temporary.parent, path / temporary.parent.name)


def test_deletes_what_a_killed_process_was_writing(tmp_path):
    half_written(tmp_path, "run.json")
    (tmp_path / "checkpoints" / ".writing-abc").mkdir(parents=True)
    with pytest.raises(sle.InvalidArgument, match="holds no run"):
        enter(tmp_path)
    (tmp_path / "checkpoints" / ".writing-abc").rmdir()
    (tmp_path / "checkpoints").rmdir()
    enter(tmp_path)

    for name in ("run.json", "metric.safetensors", "result.json"):
        half_written(tmp_path, name)
    (tmp_path / "checkpoints" / ".writing-abc").mkdir(parents=True)
    enter(tmp_path)
    assert sorted(file.name for file in tmp_path.rglob("*")) == [
        "checkpoints",
        "run.json",
    ]


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no fcntl")
def test_one_process_at_a_time_trains_in_a_folder(tmp_path):
    context = multiprocessing.get_context("fork")
    held = context.Event()
    process = context.Process(target=hold, args=(tmp_path, held))
    process.start()
    assert held.wait(10)
    with pytest.raises(sle.InvalidArgument, match="another process is training in"):
        enter(tmp_path)

    process.kill()
    process.join()
    enter(tmp_path)


def hold(path, held):
    with RunFolder(path, FACTS):
        held.set()
        multiprocessing.Event().wait(60)


def test_goes_on_from_the_checkpoint_before_a_damaged_one(tmp_path):
    with RunFolder(tmp_path, FACTS) as folder:
        for step in (1, 2):
            folder.checkpoints.write(step, Checkpoint({}, {"step": step}))
        (folder.checkpoints.path(2) / "checkpoint.json").write_text("{")
        with pytest.warns(UserWarning, match="goes on from the one before"):
            assert folder.newest().facts == {"step": 1}

        (folder.checkpoints.path(1) / "checkpoint.json").unlink()
        with (
            pytest.warns(UserWarning, match="the one before"),
            pytest.raises(sle.FormatError, match="step-00000001 is damaged"),
        ):
            folder.newest()


def test_a_finished_run_has_an_sae_and_a_result(tmp_path):
    with RunFolder(tmp_path, FACTS) as folder:
        result = {"dead": 0.5, "tokens_per_second": 3.0, "held_out_fvu": {}}
        folder.finish(SAE, result)
        assert folder.is_finished()
        assert folder.result() == result
    assert torch.equal(sle.SAE.from_pretrained(tmp_path / "sae").W_dec, SAE.W_dec)


def test_errors_of_the_disk_say_what_is_kept(tmp_path):
    def failing(folder):
        with folder.writing():
            raise OSError("No space left on device")

    with RunFolder(tmp_path, FACTS) as folder:
        with pytest.raises(OSError, match="No space left on device.*; nothing is kept"):
            failing(folder)
        folder.checkpoints.write(4, Checkpoint({}, {}))
        with pytest.raises(
            OSError,
            match="the checkpoint of step 4 is kept there: make room, and call train "
            "again to go on",
        ):
            failing(folder)
