"""Training learns, repeats bit for bit, and stops on what cannot be trained."""

import pytest
import torch

import sae_lens_ext as sle
from sae_lens_ext.objectives import HierarchicalTopK, TopK
from sae_lens_ext.sae import FVU
from sae_lens_ext.training import Activations, RunConfig, TrainConfig, train

CONFIG = TrainConfig(d_sae=64, k=8, epochs=8, batch_size=256)


def sparse_activations(n=6000, d_model=24, n_features=40, n_active=4, seed=0):
    """Sums of a few of 40 directions plus a large mean, as in a residual stream."""
    generator = torch.Generator().manual_seed(seed)
    directions = torch.nn.functional.normalize(
        torch.randn(n_features, d_model, generator=torch.Generator().manual_seed(99)),
        dim=1,
    )
    scales = torch.tensor([8.0, 4.0, 2.0, 1.0])
    strengths = torch.rand(n, n_active, generator=generator) * scales
    features = torch.stack(
        [torch.randperm(n_features, generator=generator)[:n_active] for _ in range(n)]
    )
    mean = torch.zeros(d_model).index_fill(0, torch.tensor([3]), 500.0)
    values = (strengths[..., None] * directions[features]).sum(1) + mean
    return Activations(values, "blocks.0.hook_resid_post")


def fvu_of(sae, x, k):
    fvu = FVU()
    with torch.no_grad():
        fvu.update(x, sae(x, k))
    return fvu.value()


@pytest.fixture(scope="module")
def trained():
    return train(sparse_activations(), CONFIG, progress=False)


def test_learns_and_more_features_explain_more(trained):
    held_out = sparse_activations(n=1000, seed=1).values
    errors = [fvu_of(trained.sae, held_out, k) for k in (1, 2, 4, 8)]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 0.1
    assert trained.losses[-1] < 0.5 * trained.losses[0]


def test_loss_is_in_units_of_the_activations_variance():
    activations = sparse_activations()
    config = TrainConfig(
        d_sae=64, k=8, objective=HierarchicalTopK(), epochs=1, batch_size=256, lr=1e-9
    )
    first_loss = train(activations, config, progress=False).losses[0]

    sae = sle.SAE(
        sle.SAEConfig(d_model=24, d_sae=64, k=8),
        generator=torch.Generator().manual_seed(0),
    )
    mean, scale = activations.mean_and_scale()
    u = (activations.values - mean) * scale

    assert u.square().mean().item() == pytest.approx(1, rel=1e-4)
    expected_loss = HierarchicalTopK()(sae, u, 8).value.item()
    assert first_loss == pytest.approx(expected_loss, rel=0.1)


def test_decoder_rows_stay_at_unit_norm(trained):
    torch.testing.assert_close(trained.sae.W_dec.norm(dim=1), torch.ones(64))


def test_equal_seeds_give_equal_bits_and_another_seed_does_not():
    activations = sparse_activations(n=1000)
    config = TrainConfig(d_sae=32, k=4, epochs=2, batch_size=128)
    first, second = (train(activations, config, progress=False) for _ in range(2))
    assert first.losses == second.losses
    assert all(
        torch.equal(a, b)
        for a, b in zip(
            first.sae.state_dict().values(),
            second.sae.state_dict().values(),
            strict=True,
        )
    )

    other_seed = TrainConfig(d_sae=32, k=4, epochs=2, batch_size=128, seed=1)
    assert train(activations, other_seed, progress=False).losses != first.losses


def test_neither_reads_nor_moves_the_global_random_state():
    activations = sparse_activations(n=500)
    config = TrainConfig(d_sae=32, k=4, epochs=1)
    state = torch.random.get_rng_state()
    first = train(activations, config, progress=False)
    assert torch.equal(torch.random.get_rng_state(), state)
    torch.manual_seed(123)
    assert train(activations, config, progress=False).losses == first.losses


def test_counts_dead_features():
    # With one direction in the data one feature suffices at k=1; most of 64 never fire.
    strengths = torch.randn(2000, 1, generator=torch.Generator().manual_seed(0)).abs()
    line = Activations(strengths * torch.ones(1, 8) + torch.arange(8.0), "x")
    config = TrainConfig(d_sae=64, k=1, objective=TopK(), epochs=2, batch_size=100)

    trained = train(line, config, progress=False)
    code = trained.sae.encode(line.values)

    n_alive = len(set(code.indices[code.values > 0].tolist()))
    assert trained.dead == pytest.approx(1 - n_alive / 64, abs=0.05)
    assert trained.dead > 0.5


def test_a_feature_that_never_fires_is_dead_at_any_dead_after():
    line = Activations(torch.randn(400, 1) @ torch.randn(1, 16), "x")
    config = {"d_sae": 64, "k": 1, "objective": TopK(), "epochs": 2, "batch_size": 100}
    by_default = train(line, TrainConfig(**config), progress=False).dead
    assert by_default > 0.5

    longer_than_training = TrainConfig(**config, dead_after=10**9)
    assert 0.5 < train(line, longer_than_training, progress=False).dead <= by_default


def test_the_sae_knows_where_it_comes_from(trained):
    config = trained.sae.config
    assert config.levels == tuple(range(1, 9))
    assert (config.hook_name, config.d_model, config.d_sae, config.k) == (
        "blocks.0.hook_resid_post",
        24,
        64,
        8,
    )
    assert trained.sae.activation_mean[3] > 400
    assert not config.exclude_special_tokens


def test_learning_rate_rises_stays_and_falls():
    config = TrainConfig(d_sae=8, k=2, lr=1.0, warmup=0.1, decay=0.3)
    rates = [config.lr_at(step, 100) for step in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[9:71] == [1.0] * 62
    assert rates[-1] == pytest.approx(1 / 30)
    assert sorted(rates[70:], reverse=True) == rates[70:]

    flat = TrainConfig(d_sae=8, k=2, lr=1.0, warmup=0.0, decay=0.0)
    assert {flat.lr_at(step, 10) for step in range(10)} == {1.0}


@pytest.mark.usefixtures("without_shape_checks")
def test_config_reports_every_invalid_field_at_once():
    with pytest.raises(
        sle.InvalidArgument,
        match="epochs must be a positive integer; got 1.5; "
        "lr must be a positive number; got -1.0; "
        "decay must be a number from 0 to 1; got 2.0",
    ):
        TrainConfig(d_sae=8, k=2, epochs=1.5, decay=2.0, lr=-1.0)
    with pytest.raises(sle.InvalidArgument, match="k must be at most d_sae=8; got 9"):
        TrainConfig(d_sae=8, k=9)
    with pytest.raises(
        sle.InvalidArgument, match="lr must be a positive number; got nan"
    ):
        TrainConfig(d_sae=8, k=2, lr=float("nan"))
    with pytest.raises(
        sle.InvalidArgument,
        match="dead_after .* got -1; seed .* got None; objective must .* got 'topk'; "
        "lr must be a positive number; got 'a'",
    ):
        TrainConfig(d_sae=8, k=2, dead_after=-1, seed=None, objective="topk", lr="a")


@pytest.mark.usefixtures("without_shape_checks")
def test_config_rejects_the_class_of_an_objective():
    with pytest.raises(
        sle.InvalidArgument,
        match="objective must be an objective such as HierarchicalTopK",
    ):
        TrainConfig(d_sae=8, k=2, objective=TopK)


@pytest.mark.usefixtures("without_shape_checks")
def test_rejects_what_cannot_be_trained_on():
    with pytest.raises(
        sle.InvalidArgument, match="train needs Activations with one row per token"
    ):
        train(torch.randn(5, 4), CONFIG, progress=False)
    nan = Activations(torch.full((5, 4), float("nan")), "x")
    with pytest.raises(sle.NonFinite, match="20 of 20 numbers at x are NaN"):
        train(nan, CONFIG, progress=False)
    with pytest.raises(sle.InvalidArgument, match="no activations to train on"):
        train(Activations(torch.zeros(0, 4), "x"), CONFIG, progress=False)
    with pytest.raises(sle.InvalidArgument, match="the 5 activations are all alike"):
        train(Activations(torch.ones(5, 4), "x"), CONFIG, progress=False)
    levels_below_k = TrainConfig(d_sae=64, k=8, objective=HierarchicalTopK((1, 2)))
    with pytest.raises(sle.InvalidK, match="levels must rise from at least 1 to k=8"):
        train(sparse_activations(n=50), levels_below_k, progress=False)


@pytest.mark.usefixtures("without_shape_checks")
def test_rejects_another_kind_of_config():
    with pytest.raises(
        sle.InvalidArgument,
        match="config must be a TrainConfig; got an object of type NoneType",
    ):
        train(sparse_activations(n=10), None, progress=False)


@pytest.mark.usefixtures("without_shape_checks")
def test_rejects_a_measure_that_cannot_be_called():
    with pytest.raises(sle.InvalidArgument, match="measure must be a function of the"):
        train(sparse_activations(n=10), CONFIG, measure=3, progress=False)


def test_rejects_what_would_be_ignored():
    activations = sparse_activations(n=50)
    with pytest.raises(sle.InvalidArgument, match="held_out is what is trained on"):
        train(activations, CONFIG, held_out=activations, progress=False)
    values = activations.values.clone()
    for same in (values, {activations.hook_name: values}):
        with pytest.raises(sle.InvalidArgument, match="held_out is what is trained on"):
            train(activations, CONFIG, held_out=same, progress=False)
    with pytest.raises(sle.InvalidArgument, match=r"log_to=\['wandb'\] is for runs wi"):
        train(activations, CONFIG, run=RunConfig(log_to=["wandb"]), progress=False)


def test_stops_when_the_loss_explodes():
    config = TrainConfig(d_sae=64, k=8, lr=1e37, warmup=0.0, batch_size=50)
    with pytest.raises(
        sle.NonFinite, match="the loss became .* at step .* try a smaller lr than 1e"
    ):
        train(sparse_activations(n=500), config, progress=False)


def test_activations_in_memory_are_gone_through_as_often_as_is_asked():
    activations = sparse_activations(n=100)
    for settings, n_tokens in (
        ({}, 300),
        ({"epochs": 2}, 200),
        ({"n_tokens": 350}, 350),
        ({"epochs": 5, "n_tokens": 120}, 120),
    ):
        config = TrainConfig(d_sae=32, k=4, batch_size=32, **settings)
        losses = train(activations, config, progress=False).losses
        assert len(losses) == -(-n_tokens // 32)


def test_trains_where_gradients_are_switched_off():
    activations = sparse_activations(n=300)
    config = TrainConfig(d_sae=32, k=4, epochs=1)
    with torch.no_grad():
        losses = train(activations, config, progress=False).losses
    assert losses == train(activations, config, progress=False).losses
