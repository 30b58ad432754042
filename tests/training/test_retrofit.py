"""A training with a frozen decoder changes everything but the directions."""

import dataclasses

import pytest
import torch
from small_training import (
    CONFIG,
    SITE_OUT,
    MemoryStream,
    run,
    same_weights,
    stopped,
    transcoder_values,
    values,
)

import sae_lens_ext as sle
from sae_lens_ext.training import TrainConfig
from sae_lens_ext.training.plan import plan_of
from sae_lens_ext.training.setup import new_trainer

FROZEN = dataclasses.replace(CONFIG, freeze_decoder=True)


def published(kind="topk", **options):
    """An SAE of raw activations with facts that its publisher keeps with it."""
    config = sle.SAEConfig(
        d_model=12,
        d_sae=32,
        kind=kind,
        k=4 if kind == "topk" else None,
        metadata={"neuronpedia_id": "tiny/0-res", "training_architecture": "batchtopk"},
        **options,
    )
    sae = sle.SAE(config, generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        sae.W_dec *= torch.linspace(0.5, 2, 32).unsqueeze(1)
        # About the means of the activations.
        if sae.config.is_transcoder:
            sae.b_dec += 7
        else:
            sae.b_dec[1] += 30
    return sae.eval()


@pytest.mark.parametrize("kind", ["topk", "jumprelu", "batchtopk", "relu"])
def test_decoder_rows_keep_their_bits_and_the_rest_moves(kind):
    start = published(kind)
    trained = run(config=FROZEN, start=start)
    assert torch.equal(trained.sae.W_dec, start.W_dec)
    assert trained.losses[-1] < trained.losses[0]

    fresh = run(config=dataclasses.replace(FROZEN, n_tokens=1), start=start).sae
    for name in ("W_enc", "b_enc", "b_dec"):
        change = getattr(trained.sae, name) - getattr(fresh, name)
        assert change.abs().max() > 1e-3


def test_a_transcoder_keeps_its_decoder_too():
    config = dataclasses.replace(FROZEN, hook_name_out=SITE_OUT, skip_connection=True)
    start = published(d_out=10, hook_name_out=SITE_OUT)
    trained = run(
        stream=MemoryStream(transcoder_values(), n_tokens=640),
        config=config,
        start=start,
    )
    assert torch.equal(trained.sae.W_dec, start.W_dec)
    assert trained.sae.W_skip.any()
    assert trained.losses[-1] < trained.losses[0]


def test_what_is_saved_is_an_sae_with_the_same_rows_and_labels(tmp_path):
    start = published()
    trained = run(tmp_path, config=FROZEN, start=start)
    saved = sle.SAE.from_pretrained(tmp_path / "sae")
    assert torch.equal(saved.W_dec, start.W_dec)
    assert saved.config.metadata == {"neuronpedia_id": "tiny/0-res"}
    x = values()
    torch.testing.assert_close(saved(x, 2), trained.sae(x, 2))
    assert all(weight.requires_grad for weight in trained.sae.parameters())


def test_labels_are_dropped_where_the_decoder_moves():
    trained = run(start=published())
    assert trained.sae.config.metadata == {}


def test_a_retrofit_is_resumed_to_the_same_bits(tmp_path):
    start = published()
    whole = run(config=FROZEN, start=start)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, config=FROZEN, start=start, stream=stopped(32 * 9))
    resumed = run(tmp_path, config=FROZEN, start=start)
    assert same_weights(resumed.sae, whole.sae)
    assert resumed.losses == whole.losses


def test_a_frozen_decoder_takes_no_memory_for_training():
    generator = torch.Generator().manual_seed(0)
    trainers = [
        new_trainer(
            MemoryStream(n_tokens=640),
            config,
            generator,
            torch.device("cpu"),
            start=published(),
        )
        for config in (CONFIG, FROZEN)
    ]
    plans = [
        plan_of(each.state.sae, each.config, ("a",), 640, 20) for each in trainers
    ]
    assert plans[0].parameters - plans[1].parameters == 12 * 32
    assert plans[0].gradients - plans[1].gradients == 4 * 12 * 32
    assert plans[0].optimizer - plans[1].optimizer == 8 * 12 * 32
    assert plans[0].weights == plans[1].weights
    weights = trainers[1].state.optimizer.param_groups[0]["params"]
    assert sum(weight.numel() for weight in weights) == plans[1].parameters


def test_a_decoder_cannot_be_frozen_without_a_start():
    with pytest.raises(sle.InvalidArgument, match="freeze_decoder=True keeps the deco"):
        run(config=FROZEN)


def test_revival_would_move_frozen_rows():
    message = "revive_every gives features other decoder rows"
    with pytest.raises(sle.InvalidArgument, match=message):
        TrainConfig(d_sae=8, k=2, freeze_decoder=True, revive_every=3)
