"""Training learns, in the dtype that is asked for, or stops with an error."""

import numpy as np
import pytest
import small_run
import torch

import sae_lens_ext as sle
from sae_lens_ext.experiments.pretraining.config import PretrainConfig, TextConfig
from sae_lens_ext.experiments.pretraining.models import model_config, new_model
from sae_lens_ext.experiments.pretraining.perplexity import token_losses
from sae_lens_ext.experiments.pretraining.text import load_tokenizer
from sae_lens_ext.experiments.pretraining.tokens import prepare_tokens
from sae_lens_ext.experiments.pretraining.training import pretrain


def test_a_model_learns_far_more_than_how_frequent_bytes_are(tmp_path):
    config = PretrainConfig(
        hidden_size=64, layers=2, heads=4, seq_len=64, batch_size=16, steps=100, lr=3e-3
    )
    text = TextConfig(eval_tokens=4096)
    train, held_out = prepare_tokens(
        tmp_path, config, text, load_tokenizer("bytes"), progress=False
    )
    shares = np.bincount(train.tokens) / len(train.tokens)
    shares = shares[shares > 0]
    unigram = -(shares * np.log(shares)).sum()

    model = new_model(model_config("rebased", config, 264), seed=0)
    rows = held_out.at(range(len(held_out)))
    assert token_losses(model, rows).mean() > unigram + 1
    pretrain(model, train, config, progress=False)
    assert token_losses(model, rows).mean() < unigram - 0.6


def test_bfloat16_is_used_where_it_is_asked_for():
    losses = {}
    for dtype in ("float32", "bfloat16"):
        config = PretrainConfig(**small_run.SETTINGS, dtype=dtype)
        model = small_run.model()
        trained = pretrain(model, small_run.rows(), config, progress=False)
        losses[dtype] = trained.losses
        assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert losses["float32"] != losses["bfloat16"]
    assert losses["bfloat16"] == pytest.approx(losses["float32"], rel=0.05)


def test_a_loss_that_explodes_raises_and_leaves_no_checkpoint(tmp_path):
    config = PretrainConfig(**{**small_run.SETTINGS, "lr": 1e30, "clip": 0.0})
    with pytest.raises(
        sle.NonFinite,
        match=r"the loss became (nan|inf) at step \d of 8; try a smaller lr than "
        r"1e\+30",
    ):
        pretrain(
            small_run.model(),
            small_run.rows(),
            config,
            checkpoint=tmp_path / "checkpoint",
            progress=False,
        )
    assert not (tmp_path / "checkpoint").exists()
