"""A training with a frozen decoder changes everything but the directions."""

import dataclasses

import pytest
import torch
from small_training import (
    CONFIG,
    SITE,
    SITE_OUT,
    MemoryStream,
    run,
    same_weights,
    stopped,
    transcoder_values,
    values,
)

import sae_lens_ext as sle
from sae_lens_ext.kernels import sparse_decode
from sae_lens_ext.objectives import TopK
from sae_lens_ext.training import TrainConfig, train_step
from sae_lens_ext.training.frozen import freeze_directions, log_norm
from sae_lens_ext.training.optimizer import optimizer_tensors
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


def assert_same_directions(sae, start):
    """Cosines of decoder rows in float64."""
    rows = [each.W_dec.detach().double() for each in (sae, start)]
    assert (1 - torch.cosine_similarity(*rows, dim=1)).abs().max() < 1e-12


def norm_ratios(sae, start):
    return sae.W_dec.norm(dim=1) / start.W_dec.norm(dim=1)


@pytest.mark.usefixtures("without_shape_checks")
def test_the_start_of_a_retrofit_is_an_sae():
    with pytest.raises(sle.InvalidArgument, match="start must be an SAE.*type str"):
        TrainConfig.retrofit("published/sae", k=8)


@pytest.mark.parametrize("kind", ["topk", "jumprelu", "batchtopk", "relu"])
def test_decoder_rows_keep_their_directions_and_the_rest_moves(kind):
    start = published(kind)
    trained = run(config=FROZEN, start=start)
    assert_same_directions(trained.sae, start)
    assert (norm_ratios(trained.sae, start) - 1).abs().max() > 1e-3
    assert trained.losses[-1] < trained.losses[0]

    fresh = run(config=dataclasses.replace(FROZEN, n_tokens=1), start=start).sae
    for name in ("W_enc", "b_enc", "b_dec"):
        change = getattr(trained.sae, name) - getattr(fresh, name)
        assert change.abs().max() > 1e-3


def test_a_transcoder_keeps_its_directions_too():
    config = dataclasses.replace(FROZEN, hook_name_out=SITE_OUT, skip_connection=True)
    start = published(d_out=10, hook_name_out=SITE_OUT)
    trained = run(
        stream=MemoryStream(transcoder_values(), n_tokens=640),
        config=config,
        start=start,
    )
    assert_same_directions(trained.sae, start)
    assert trained.sae.W_skip.any()
    assert trained.losses[-1] < trained.losses[0]


def test_norms_learn_by_the_gradient_of_their_logarithm():
    sae = published()
    u = values()[:64]
    _, code = TopK()(sae, u, 4)
    log_norms = torch.zeros(32, requires_grad=True)
    scaled = sae.W_dec.detach() * log_norms.exp().unsqueeze(1)
    recons = sparse_decode(code.values, code.indices, scaled, sae.b_dec)
    (expected,) = torch.autograd.grad((recons - u).square().mean(), log_norms)

    freeze_directions(sae)
    before = sae.W_dec.detach().clone()
    optimizer = torch.optim.SGD([log_norm(sae)], lr=0.1)
    train_step(sae, optimizer, TopK(), u, 4)
    moved = (sae.W_dec.norm(dim=1) / before.norm(dim=1)).log()
    torch.testing.assert_close(moved, -0.1 * expected, atol=1e-6, rtol=1e-5)
    assert not log_norm(sae).any()


@pytest.mark.parametrize("pre_bias", [True, False])
def test_activations_stay_where_the_encoder_does_not_learn(pre_bias):
    start = published(apply_b_dec_to_input=pre_bias)
    config = dataclasses.replace(FROZEN, encoder_lr=0.0)
    trained = run(config=config, start=start)
    assert (norm_ratios(trained.sae, start) - 1).abs().max() > 1e-3
    assert (trained.sae.b_dec - start.b_dec).abs().max() > 1e-3
    agreement = sle.feature_agreement(start, trained.sae, values())
    assert agreement.share_above(0.9999) == 1


def test_the_encoder_may_learn_at_a_rate_of_its_own():
    changes = []
    for encoder_lr in (None, 1e-5):
        config = dataclasses.replace(CONFIG, encoder_lr=encoder_lr)
        fresh = run(config=dataclasses.replace(config, n_tokens=1)).sae
        trained = run(config=config).sae
        changes.append(
            [(trained.W_enc - fresh.W_enc).norm(), (trained.W_dec - fresh.W_dec).norm()]
        )
    assert changes[1][0] < 0.02 * changes[0][0]
    assert changes[1][1] > 0.3 * changes[0][1]


def test_what_is_saved_is_an_sae_with_the_same_directions_and_labels(tmp_path):
    start = published()
    trained = run(tmp_path, config=FROZEN, start=start)
    saved = sle.SAE.from_pretrained(tmp_path / "sae")
    assert_same_directions(saved, start)
    assert saved.config.metadata == {"neuronpedia_id": "tiny/0-res"}
    assert saved.state_dict().keys() == start.state_dict().keys()
    x = values()
    torch.testing.assert_close(saved(x, 2), trained.sae(x, 2))


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


def test_frozen_directions_take_no_memory_of_the_optimizer():
    plans = []
    for config in (CONFIG, FROZEN):
        trainer = new_trainer(
            MemoryStream(n_tokens=640),
            config,
            torch.Generator(),
            torch.device("cpu"),
            start=published(),
        )
        trainer.step(trainer.next_batch())
        state = trainer.state
        averages = optimizer_tensors(state.optimizer, state.sae)
        assert ("exp_avg.W_dec" in averages) == (not config.freeze_decoder)
        plans.append(plan_of(state.sae, config, ("a",), 640, 20))
    # One number for each row in place of twelve.
    assert plans[0].parameters - plans[1].parameters == (12 - 1) * 32
    assert plans[0].optimizer - plans[1].optimizer == 8 * (12 - 1) * 32


def test_a_decoder_cannot_be_frozen_without_a_start():
    with pytest.raises(sle.InvalidArgument, match="freeze_decoder=True keeps the deco"):
        run(config=FROZEN)


def test_revival_would_move_frozen_rows():
    message = "revive_every gives features other directions"
    with pytest.raises(sle.InvalidArgument, match=message):
        TrainConfig(d_sae=8, k=2, freeze_decoder=True, revive_every=3)


def test_settings_of_a_retrofit_are_those_of_its_start():
    start = published(
        "jumprelu",
        d_out=10,
        hook_name="a",
        hook_name_out="b",
        skip_connection=True,
    )
    config = TrainConfig.retrofit(start, 4, lr=1e-3)
    assert (config.d_sae, config.k, config.lr) == (32, 4, 1e-3)
    assert (config.hook_name, config.hook_name_out) == ("a", "b")
    assert config.skip_connection
    assert config.freeze_decoder
    assert config.encoder_lr < config.lr / 10


def sparse_values(n_tokens, seed):
    """Sums of few directions of very different sizes, and a mean."""
    directions = torch.randn(24, 12, generator=torch.Generator().manual_seed(2))
    generator = torch.Generator().manual_seed(seed)
    sizes = torch.rand(n_tokens, 24, generator=generator) * 4
    is_on = torch.rand(n_tokens, 24, generator=generator) < 0.3
    return (sizes * is_on * torch.linspace(0.2, 2, 24)) @ directions + 5


def test_a_retrofit_is_better_over_all_k_and_keeps_its_features():
    stream = MemoryStream({SITE: sparse_values(3200, 0)}, n_tokens=3200)
    topk = dataclasses.replace(CONFIG, objective=TopK(), k=8, lr=1e-2)
    start = run(stream=stream, config=topk).sae
    stream = MemoryStream({SITE: sparse_values(3200, 0)}, n_tokens=3200)
    config = TrainConfig.retrofit(start, 8, batch_size=32)
    trained = run(stream=stream, config=config, start=start).sae

    x = sparse_values(1000, seed=1)
    errors = [
        sae.prefix_errors(x, sae.encode(x, 8))[:, 1:].mean() for sae in (start, trained)
    ]
    assert errors[1] < 0.98 * errors[0]
    assert sle.feature_agreement(start, trained, x).share_above(0.95) > 0.9
