"""Several processes train what one does, end together, and go on in any number."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[2]
SCRIPT = Path(__file__).with_name("shared_runs.py")

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """What the script says, which is run once."""
    paths = [str(TESTS), str(TESTS.parent)]
    done = subprocess.run(
        [sys.executable, "-W", "error", str(SCRIPT), str(tmp_path_factory.mktemp("x"))],
        capture_output=True,
        text=True,
        env={
            **os.environ,
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": os.pathsep.join(paths),
        },
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)


def test_losses_and_weights_are_those_of_one_process(report):
    differences = report["exactness"]
    # Of 2 and 3 processes: 16 trainings on shares, 10 on slices.
    assert len(differences) == 2 * (16 + 10)
    assert {name: d for name, d in differences.items() if not d <= 1e-5} == {}


def test_the_comparison_can_fail(report):
    assert report["other objective"] > 1e-3


def test_the_others_end_with_a_sentence_when_one_is_killed(report):
    ended = report["runs"]["killed"]
    assert ended["codes"] == [1, -signal.SIGKILL]
    assert ended["seconds"] < 30
    ((line,), nothing) = ended["lines"]
    assert line.startswith("sae_lens_ext.errors.RankLost: rank 1 of 2 is gone. Call ")
    assert "go on from the checkpoint of step 6 in " in line
    assert nothing == []

    first = report["runs"]["killed first"]
    assert first["codes"] == [-signal.SIGKILL, 1, 1]
    assert first["seconds"] < 30
    for (line,) in first["lines"][1:]:
        assert "rank 0 of 3 is gone. Call train again" in line


def test_the_others_say_by_which_error_one_has_ended(report):
    ended = report["runs"]["failed"]
    assert ended["codes"] == [1, 1, 1]
    assert ended["seconds"] < 30
    assert ended["lines"][0] == ["OSError: the disk is on fire"]
    for (line,) in ended["lines"][1:]:
        assert "rank 0 of 3 ended by OSError: the disk is on fire. Call train" in line


def test_a_run_goes_on_with_any_number_of_processes(report):
    runs = report["runs"]
    assert runs["killed"]["steps"] == ["step-00000003", "step-00000006"]
    assert runs["failed"]["steps"] == ["step-00000009", "step-00000012"]
    assert runs["changing"] <= 1e-5
    assert runs["finished"]["codes"] == [0, 0]
    assert runs["growing"] <= 1e-5
    assert runs["metrics"] == [list(range(2, 21, 2))] * 3


def test_a_damaged_part_of_a_checkpoint_is_met_by_the_one_before(report):
    (warning,) = report["runs"]["warnings"]
    assert "step-00000012 is damaged" in warning
    assert warning.endswith("the run goes on from the one before")


def test_the_same_number_of_processes_gives_the_same_bits(report):
    assert report["runs"]["same bits"] == 0


def test_a_signal_to_one_process_ends_all_of_them_with_a_checkpoint(report):
    ended = report["runs"]["ended"]
    assert ended["codes"] == [-signal.SIGTERM] * 2
    assert ended["steps"][-1] == "step-00000008"


def test_no_file_is_a_pickle(report):
    assert report["runs"]["suffixes"] == [".json", ".jsonl", ".safetensors"]


def test_the_passes_of_a_model_are_shared(report):
    shared = report["other_cases"]
    assert shared["difference"] <= 1e-5
    alone, first, ahead, last = shared["passes"]
    # 11 chunks of the first pass over the text and 7 of the second: 4 and 3 rounds, of
    # which the fourth has no chunk for the last process.
    assert alone == 18
    assert first == 7
    assert last == 6
    # Its thread may have begun other rounds.
    assert 7 <= ahead <= 9


def test_a_stream_goes_on_alone_after_a_shared_training(report):
    alone, *others = report["other_cases"]["next"]
    assert others == [alone] * 3


def test_processes_with_different_batches_or_settings_are_refused(report):
    for error in report["other_cases"]["batches"]:
        assert error.startswith("InvalidArgument: the processes have different batches")
    others = report["other_cases"]
    for error in (*others["configs"], *others["metrics"]):
        assert "2 of 3 processes were called with another config" in error
