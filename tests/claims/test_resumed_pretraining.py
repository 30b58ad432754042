"""An interrupted pretraining run ends with the bits of an uninterrupted one."""

import json

import pandas
import pytest
import small_run

from sae_lens_ext.experiments.pretraining import compare
from sae_lens_ext.experiments.pretraining.config import TextConfig


@pytest.mark.parametrize("kernel", ["rebased", "attention"])
def test_a_resumed_run_equals_the_uninterrupted_one_bit_for_bit(
    tmp_path, monkeypatch, capsys, kernel
):
    source = small_run.write_texts(tmp_path / "texts")
    options = ("--kernel", kernel, "--text", source, "--checkpoint-every", 3)
    whole = tmp_path / "whole"
    cut = tmp_path / "cut"
    assert small_run.command(*options, "--out", whole) == 0

    with monkeypatch.context() as patch:
        small_run.interrupt_at(patch, 5)
        assert small_run.command(*options, "--out", cut) == 130
    assert (
        "interrupted; the same command goes on from the last checkpoint"
        in capsys.readouterr().err
    )
    assert json.loads((cut / "results.json").read_text())["results"] == []

    with monkeypatch.context() as patch:
        # Unless it goes on from step 3, it meets this.
        small_run.interrupt_at(patch, 2)
        assert small_run.command(*options, "--out", cut) == 0

    for name in (
        f"{kernel}/model.safetensors",
        f"{kernel}/losses.csv",
        "tokens/train.bin",
    ):
        assert (cut / name).read_bytes() == (whole / name).read_bytes(), name
    results = [
        pandas.read_csv(out / "results.csv").drop(
            columns=["seconds", "tokens_per_second"]
        )
        for out in (whole, cut)
    ]
    pandas.testing.assert_frame_equal(*results)
    assert not list(cut.glob("*.safetensors"))


def test_a_run_that_was_cut_before_its_results_were_written_tests_the_same_model(
    tmp_path, monkeypatch
):
    text = TextConfig(text=str(small_run.write_texts(tmp_path / "texts")))
    arguments = (["based"], tmp_path / "run", small_run.CONFIG, text)

    def interrupted(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(compare, "_test", interrupted)
        with pytest.raises(KeyboardInterrupt):
            compare.compare_kernels(*arguments, progress=False)
    weights = tmp_path / "run" / "based" / "model.safetensors"
    before = weights.read_bytes()

    small_run.interrupt_at(monkeypatch, 0)
    assert len(compare.compare_kernels(*arguments, progress=False)) == 2
    assert weights.read_bytes() == before
