"""Recipes are checked, compare as values, and describe the published models."""

from dataclasses import replace

import numpy as np
import pytest
import quick_recall
import torch

import sae_lens_ext as sle
from sae_lens_ext.based.config import ATTENTION
from sae_lens_ext.experiments.recall import MQAR, Recipe, model_for
from sae_lens_ext.experiments.recall.saved_models import model_folder


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"kernel": "softmax"},
            "kernel must be one of based, rebased, .*, attention; got 'softmax'",
        ),
        ({"steps": 0}, "steps must be a positive integer; got 0"),
        (
            {"heads": 9},
            "d_model=8 must be at least heads=9, .*; use fewer heads",
        ),
        ({"lr": 0.0}, "lr must be a positive number; got 0.0"),
        ({"init_std": float("inf")}, "init_std must be a positive number; got inf"),
        (
            {"weight_decay": -0.1},
            "weight_decay must be a non-negative number; got -0.1",
        ),
        ({"fewest_pairs": 0}, "fewest_pairs must be a positive integer; got 0"),
        ({"seed": -1}, "seed must be an integer from 0 to 9223372036854775807; got -1"),
        (
            {"seed": 1 << 63},
            "seed must be .* from 0 to 9223372036854775807; got 9223372036854775808",
        ),
        (
            {"learned_positions": "no"},
            "learned_positions must be True or False; got 'no'",
        ),
        ({"lr": "0.1"}, "lr must be a positive number; got '0.1'"),
        ({"lr": True}, "lr must be a positive number; got True"),
        (
            {"train_examples": 3},
            "train_examples=3 must be at least batch_size=4; use more, or None",
        ),
        (
            {"steps": 0, "lr": 0.0},
            "steps must be a positive integer; got 0; lr must be a positive number; ",
        ),
    ],
)
@pytest.mark.usefixtures("without_shape_checks")
def test_rejects_invalid_recipe(changes, message):
    with pytest.raises(sle.InvalidArgument, match=message):
        replace(quick_recall.RECIPE, **changes)


@pytest.mark.usefixtures("without_shape_checks")
def test_numbers_of_every_kind_make_the_same_recipe(tmp_path):
    recipe = Recipe(lr=1.0, seed=3, d_model=16, learned_positions=False)
    same_recipe = Recipe(
        lr=np.float32(1),
        seed=np.int64(3),
        d_model=torch.tensor(16),
        learned_positions=np.False_,
    )
    task = MQAR(power_a=1.0)
    same_task = MQAR(power_a=1)
    assert (recipe, task) == (same_recipe, same_task)
    assert model_folder(tmp_path, recipe, task) == model_folder(
        tmp_path, same_recipe, same_task
    )


def test_defaults_are_the_published_model_and_task():
    sizes = {}
    for kernel in ("based", "rebased"):
        parameters = model_for(Recipe(kernel), MQAR()).parameters()
        sizes[kernel] = sum(parameter.numel() for parameter in parameters)
    assert sizes == {"based": 577_984, "rebased": 577_984 + 768}


def test_attention_is_softmax_of_one_head_after_the_same_convolution():
    model = model_for(replace(quick_recall.RECIPE, kernel=ATTENTION), quick_recall.TASK)
    assert model.config.layer_types == ["conv", "full_attention"]
    assert model.model.layers[1].mixer.heads == 1


def test_initial_weights_have_the_standard_deviation_of_the_recipe():
    stds = []
    for init_std in (0.02, 0.3):
        model = model_for(Recipe(d_model=64, init_std=init_std), MQAR())
        stds.append(model.model.embed_tokens.weight.std().item())
    assert stds == pytest.approx([0.02, 0.3], rel=0.02)


def test_model_has_learned_positions_only_where_the_recipe_asks_for_them():
    recipe = quick_recall.RECIPE
    task = quick_recall.TASK
    without = model_for(replace(recipe, learned_positions=False), task)
    assert without.model.embed_positions is None
    assert model_for(recipe, task).model.embed_positions.num_embeddings == task.seq_len
