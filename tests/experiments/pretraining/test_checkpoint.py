"""A checkpoint that does not fit, or is broken, is rejected and left alone."""

import dataclasses

import pytest
import small_run
import torch
from safetensors.torch import load_file, save_file

import sae_lens_ext as sle
from sae_lens_ext.experiments.pretraining.training import pretrain


def train(checkpoint, model=None, config=small_run.CONFIG):
    model = small_run.model() if model is None else model
    return pretrain(
        model, small_run.rows(), config, checkpoint=checkpoint, progress=False
    )


def test_a_finished_run_is_read_back_without_a_step(tmp_path, monkeypatch):
    model = small_run.model()
    losses = train(tmp_path / "checkpoint", model).losses
    small_run.interrupt_at(monkeypatch, 0)
    again = small_run.model()
    assert train(tmp_path / "checkpoint", again).losses == losses
    expected = dict(model.named_parameters())
    for name, parameter in again.named_parameters():
        assert torch.equal(parameter, expected[name]), name


def test_rejects_a_checkpoint_of_another_model_or_a_cut_file(tmp_path):
    path = tmp_path / "checkpoint"
    train(path)
    with pytest.raises(
        sle.FormatError,
        match="is not a checkpoint of this model, or was cut short .*delete it to "
        "start again",
    ):
        train(path, small_run.model(vocab_size=32))

    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(
        sle.FormatError, match="is not a checkpoint of this model, or was cut short"
    ):
        train(path)


def without_optimizer(tensors):
    for name in list(tensors):
        if name.startswith("optimizer."):
            del tensors[name]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without_optimizer, r"optimizer\.exp_avg\.\S+ is missing"),
        (
            lambda tensors: tensors.pop(
                "optimizer.exp_avg_sq.model.embed_tokens.weight"
            ),
            r"optimizer\.exp_avg_sq\.\S+weight is missing",
        ),
        (
            lambda tensors: tensors.update({"optimizer.lost": torch.ones(1)}),
            r"optimizer\.lost does not belong to it",
        ),
        (
            lambda tensors: tensors.update(
                {"optimizer.exp_avg.model.embed_tokens.weight": torch.ones(1, 16)}
            ),
            r"optimizer\.exp_avg\.model\.embed_tokens\.weight is \[1, 16\] there and "
            r"\[24, 16\] here",
        ),
        (
            lambda tensors: tensors.update(losses=torch.ones(20)),
            "it holds 20 losses after 8 steps of 8",
        ),
        (
            lambda tensors: tensors.update(losses=torch.tensor(1.0)),
            "is not a checkpoint of this model",
        ),
        (
            lambda tensors: tensors.update(losses=torch.full((8,), torch.nan)),
            "it holds losses that are NaN or infinite",
        ),
    ],
)
def test_rejects_a_checkpoint_with_other_contents(tmp_path, change, message):
    path = tmp_path / "checkpoint"
    train(path)
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path, metadata={"seconds": "1.0"})
    with pytest.raises(sle.FormatError, match=f"{message}.*delete it to start again"):
        train(path)


def test_rejects_a_checkpoint_of_more_steps(tmp_path):
    path = tmp_path / "checkpoint"
    train(path)
    with pytest.raises(
        sle.FormatError,
        match="it holds 8 losses after 8 steps of 5.*delete it to start again",
    ):
        train(path, config=dataclasses.replace(small_run.CONFIG, steps=5))
