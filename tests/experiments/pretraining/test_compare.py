"""Kernels are added to a run, by one command or by several at a time."""

import json

import pandas
import pytest
import small_run

import sae_lens_ext as sle
from sae_lens_ext.experiments.pretraining.compare import compare_kernels
from sae_lens_ext.experiments.pretraining.config import TextConfig
from sae_lens_ext.experiments.pretraining.folder import RunFolder


@pytest.fixture
def compare(tmp_path):
    """``compare_kernels`` in one folder, on one text."""
    text = TextConfig(text=str(small_run.write_texts(tmp_path / "texts")))

    def run(*kernels):
        return compare_kernels(
            kernels, tmp_path / "run", small_run.CONFIG, text, progress=False
        )

    return run


def kernels_in(path):
    return pandas.read_csv(path)["kernel"].tolist()


def test_rejects_an_unknown_kernel_before_anything_is_written(tmp_path, compare):
    with pytest.raises(
        sle.InvalidArgument,
        match="kernel must be one of based, .*, attention; got 'softmax'",
    ):
        compare("softmax")
    assert not (tmp_path / "run").exists()


def test_a_kernel_is_added_to_a_run_and_others_are_left_alone(tmp_path, compare):
    first = compare("based")
    both = compare("attention", "based")
    assert both["kernel"].tolist() == ["attention", "attention", "based", "based"]
    of_based = both[both["kernel"] == "based"].reset_index(drop=True)
    pandas.testing.assert_frame_equal(of_based, first)
    assert kernels_in(tmp_path / "run" / "results.csv") == [
        "based",
        "based",
        "attention",
        "attention",
    ]


def test_two_commands_in_one_folder_keep_the_results_of_both(
    tmp_path, monkeypatch, compare
):
    """The second starts and ends while the first trains its first kernel.

    The first then has nothing left to do for the kernel of the second.
    """
    save_model = RunFolder.save_model
    trained = []

    def meanwhile(folder, kernel, *arguments):
        save_model(folder, kernel, *arguments)
        trained.append(kernel)
        if kernel == "rebased":
            compare("based")

    monkeypatch.setattr(RunFolder, "save_model", meanwhile)
    both = compare("rebased", "based")
    assert trained == ["rebased", "based"]
    assert both["kernel"].tolist() == ["rebased", "rebased", "based", "based"]

    in_order = ["based", "based", "rebased", "rebased"]
    results = json.loads((tmp_path / "run" / "results.json").read_text())["results"]
    assert [result["kernel"] for result in results] == in_order
    assert kernels_in(tmp_path / "run" / "results.csv") == in_order


def test_a_kernel_that_two_commands_train_is_kept_once(tmp_path, monkeypatch, compare):
    save_model = RunFolder.save_model

    def meanwhile(*arguments):
        save_model(*arguments)
        monkeypatch.setattr(RunFolder, "save_model", save_model)
        compare("based")

    monkeypatch.setattr(RunFolder, "save_model", meanwhile)
    assert len(compare("based")) == 2
    content = json.loads((tmp_path / "run" / "results.json").read_text())
    assert len(content["results"]) == 2
