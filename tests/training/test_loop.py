import pytest
import tiny
import torch

import sae_lens_ext as sle
from sae_lens_ext.objectives import HierarchicalTopK, TopK
from sae_lens_ext.sae import FVU
from sae_lens_ext.training import (
    Activations,
    TrainConfig,
    collect_activations,
    train,
    train_step,
)


def _sparse_activations(n=6000, d_model=24, n_features=40, active=4, seed=0):
    """Sums of a few of 40 hidden directions, with a large mean on top, as in a residual stream."""
    g = torch.Generator().manual_seed(seed)
    directions = torch.nn.functional.normalize(
        torch.randn(n_features, d_model, generator=torch.Generator().manual_seed(99)),
        dim=1,
    )
    strengths = torch.rand(n, active, generator=g) * torch.tensor([8.0, 4.0, 2.0, 1.0])
    chosen = torch.stack(
        [torch.randperm(n_features, generator=g)[:active] for _ in range(n)]
    )
    mean = torch.zeros(d_model).index_fill(0, torch.tensor([3]), 500.0)
    return Activations(
        (strengths[..., None] * directions[chosen]).sum(1) + mean,
        "blocks.0.hook_resid_post",
    )


CONFIG = TrainConfig(d_sae=64, k=8, epochs=8, batch_size=256, lr=3e-3)


@pytest.fixture(scope="module")
def trained():
    return train(_sparse_activations(), CONFIG, progress=False)


def _fvu(sae, x, k):
    fvu = FVU()
    with torch.no_grad():
        fvu.update(x, sae(x, k))
    return fvu.value()


def test_it_learns_and_more_features_explain_more(trained):
    held_out = _sparse_activations(n=1000, seed=1).values
    errors = [_fvu(trained.sae, held_out, k) for k in (1, 2, 4, 8)]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 0.1
    assert trained.losses[-1] < 0.5 * trained.losses[0]


def test_the_loss_is_in_units_of_the_activations_variance():
    activations = _sparse_activations()
    first = train(
        activations,
        TrainConfig(d_sae=64, k=8, epochs=1, batch_size=256, lr=1e-9),
        progress=False,
    ).losses[0]
    sae = sle.SAE(
        sle.SAEConfig(d_model=24, d_sae=64, k=8),
        generator=torch.Generator().manual_seed(0),
    )
    mean, scale = activations.mean_and_scale()
    u = (activations.values - mean) * scale
    assert u.square().mean().item() == pytest.approx(1, rel=1e-4)
    assert first == pytest.approx(HierarchicalTopK()(sae, u, 8).value.item(), rel=0.1)


def test_decoder_rows_stay_at_unit_norm(trained):
    torch.testing.assert_close(trained.sae.W_dec.norm(dim=1), torch.ones(64))


def test_the_gradient_of_a_decoder_row_has_no_part_along_it():
    from sae_lens_ext.training.step import _remove_parallel_gradient, _unit_norm_decoder

    sae = tiny.sae()
    _unit_norm_decoder(sae)
    sae.W_dec.grad = torch.randn(48, 32)
    across = (
        sae.W_dec.grad - (sae.W_dec.grad * sae.W_dec).sum(1, keepdim=True) * sae.W_dec
    )
    _remove_parallel_gradient(sae)
    torch.testing.assert_close(sae.W_dec.grad, across.detach())
    assert (sae.W_dec.grad * sae.W_dec).sum(1).abs().max() < 1e-5


def test_the_same_seed_gives_the_same_bits_and_another_seed_does_not():
    activations, config = (
        _sparse_activations(n=1000),
        TrainConfig(d_sae=32, k=4, epochs=2, batch_size=128),
    )
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
    other = train(
        activations,
        TrainConfig(d_sae=32, k=4, epochs=2, batch_size=128, seed=1),
        progress=False,
    )
    assert other.losses != first.losses


def test_training_neither_reads_nor_moves_the_global_random_state():
    activations, config = (
        _sparse_activations(n=500),
        TrainConfig(d_sae=32, k=4, epochs=1),
    )
    state = torch.random.get_rng_state()
    first = train(activations, config, progress=False)
    assert torch.equal(torch.random.get_rng_state(), state)
    torch.manual_seed(123)
    assert train(activations, config, progress=False).losses == first.losses


def test_dead_features_are_counted():
    # With one direction in the data, one feature suffices at k=1, and most of 64 never fire.
    line = Activations(
        torch.randn(2000, 1, generator=torch.Generator().manual_seed(0)).abs()
        * torch.ones(1, 8)
        + torch.arange(8.0),
        "x",
    )
    trained = train(
        line,
        TrainConfig(d_sae=64, k=1, objective=TopK(), epochs=2, batch_size=100),
        progress=False,
    )
    code = trained.sae.encode(line.values)
    alive = len(set(code.indices[code.values > 0].tolist()))
    assert trained.dead == pytest.approx(1 - alive / 64, abs=0.05)
    assert trained.dead > 0.5


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


def test_the_learning_rate_rises_stays_and_falls():
    config = TrainConfig(d_sae=8, k=2, lr=1.0, warmup=0.1, decay=0.3)
    rates = [config.lr_at(step, 100) for step in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[9:71] == [1.0] * 62
    assert rates[-1] == pytest.approx(1 / 30)
    assert sorted(rates[70:], reverse=True) == rates[70:]
    flat = TrainConfig(d_sae=8, k=2, lr=1.0, warmup=0.0, decay=0.0)
    assert {flat.lr_at(step, 10) for step in range(10)} == {1.0}


@pytest.mark.usefixtures("without_shape_checks")
def test_everything_wrong_is_reported_at_once():
    wanted = "epochs must be a whole number of at least 1, got 1.5; decay must be from 0 to 1, got 2.0; lr must be above 0, got -1"
    with pytest.raises(sle.InvalidArgument, match=wanted):
        TrainConfig(d_sae=8, k=2, epochs=1.5, decay=2.0, lr=-1.0)
    with pytest.raises(sle.InvalidArgument, match="k=9 is more than d_sae=8"):
        TrainConfig(d_sae=8, k=9)
    with pytest.raises(sle.InvalidArgument, match="lr must be above 0, got nan"):
        TrainConfig(d_sae=8, k=2, lr=float("nan"))
    with pytest.raises(
        sle.InvalidArgument,
        match="dead_after .* got -1; seed .* got None; objective must .* got 'topk'; lr must be a number, got 'a'",
    ):
        TrainConfig(d_sae=8, k=2, dead_after=-1, seed=None, objective="topk", lr="a")


@pytest.mark.usefixtures("without_shape_checks")
def test_what_cannot_be_trained_on_is_refused():
    with pytest.raises(
        sle.InvalidArgument, match="train needs Activations with one row per token"
    ):
        train(torch.randn(5, 4), CONFIG, progress=False)
    with pytest.raises(sle.NonFinite, match="the activations hold NaN or infinity"):
        train(
            Activations(torch.full((5, 4), float("nan")), "x"), CONFIG, progress=False
        )
    with pytest.raises(sle.InvalidArgument, match="no activations to train on"):
        train(Activations(torch.zeros(0, 4), "x"), CONFIG, progress=False)
    with pytest.raises(sle.InvalidArgument, match="the 5 activations are all alike"):
        train(Activations(torch.ones(5, 4), "x"), CONFIG, progress=False)
    with pytest.raises(sle.InvalidK, match="levels must rise from at least 1 to k=8"):
        train(
            _sparse_activations(n=50),
            TrainConfig(d_sae=64, k=8, objective=HierarchicalTopK(levels=(1, 2))),
            progress=False,
        )


def test_a_loss_that_explodes_stops_the_run():
    with pytest.raises(
        sle.NonFinite, match="the loss became .* at step .* try a smaller lr than 1e"
    ):
        train(
            _sparse_activations(n=500),
            TrainConfig(d_sae=64, k=8, lr=1e37, warmup=0.0, batch_size=50),
            progress=False,
        )


def test_activations_come_from_every_token_that_is_not_special(gemma2):
    tokens = tiny.tokens(rows=5, length=8)
    tokens[3, 4] = 1
    site = "blocks.1.hook_resid_post"
    found = collect_activations(gemma2, tokens, site, batch_size=2, progress=False)
    _, cache = gemma2.run_with_cache(tokens, names_filter=site)
    special = torch.isin(tokens, torch.tensor([0, 1, 2, 3]))
    torch.testing.assert_close(found.values, cache[site][~special])
    assert found.n_special == 6
    assert not found.values.requires_grad
    with pytest.raises(sle.InvalidArgument, match="every token given is a special one"):
        collect_activations(gemma2, torch.full((1, 4), 2), site, progress=False)
    with pytest.raises(sle.UnknownSite, match="the closest"):
        collect_activations(gemma2, tokens, "blocks.1.resid", progress=False)


def test_outliers_are_shrunk_and_counted():
    values = torch.nn.functional.normalize(torch.randn(100, 6), dim=1)
    values[7] *= 50
    values[8] *= 5.9
    clipped = Activations(values, "x").outliers_clipped()
    assert clipped.n_outliers == 1
    torch.testing.assert_close(clipped.values[7], values[7] * 6 / 50)
    kept = [i for i in range(100) if i != 7]
    assert torch.equal(clipped.values[kept], values[kept])


def test_activations_survive_the_disk(tmp_path):
    path = tmp_path / "sub" / "a.safetensors"
    saved = Activations(
        torch.randn(5, 3).bfloat16(), "blocks.0.hook_mlp_out", n_special=4, n_outliers=2
    )
    saved.save(path)
    loaded = Activations.load(path)
    assert torch.equal(loaded.values, saved.values)
    assert (loaded.hook_name, loaded.n_special, loaded.n_outliers) == (
        "blocks.0.hook_mlp_out",
        4,
        2,
    )
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(
        sle.FormatError, match="is not a file of activations, or was cut short"
    ):
        Activations.load(path)
    with pytest.raises(sle.FormatError, match="is not a file of activations"):
        Activations.load(tmp_path / "nothing")


def test_a_feature_that_never_fires_is_dead_however_long_that_takes():
    line = Activations(torch.randn(400, 1) @ torch.randn(1, 16), "x")
    config = {"d_sae": 64, "k": 1, "objective": TopK(), "epochs": 2, "batch_size": 100}
    by_default = train(line, TrainConfig(**config), progress=False).dead
    assert by_default > 0.5
    assert (
        0.5
        < train(line, TrainConfig(**config, dead_after=10**9), progress=False).dead
        <= by_default
    )


def test_training_works_where_gradients_are_switched_off():
    activations, config = (
        _sparse_activations(n=300),
        TrainConfig(d_sae=32, k=4, epochs=1),
    )
    with torch.no_grad():
        losses = train(activations, config, progress=False).losses
    assert losses == train(activations, config, progress=False).losses


@pytest.mark.usefixtures("without_shape_checks")
def test_what_cannot_be_trained_is_said(gemma2):
    with pytest.raises(
        sle.InvalidArgument,
        match="objective must be an objective such as HierarchicalTopK",
    ):
        TrainConfig(d_sae=8, k=2, objective=TopK)
    with pytest.raises(
        sle.InvalidArgument, match="config must be a TrainConfig; got a NoneType"
    ):
        train(_sparse_activations(n=10), None, progress=False)
    with pytest.raises(
        sle.InvalidArgument,
        match="must be a tensor of float32, bfloat16 or float64; got torch.float16",
    ):
        Activations(torch.zeros(3, 4, dtype=torch.float16), "x")
    with pytest.raises(
        sle.InvalidArgument,
        match="batch_size must be a whole number of at least 1; got 0",
    ):
        collect_activations(
            gemma2,
            tiny.tokens(),
            "blocks.1.hook_resid_post",
            batch_size=0,
            progress=False,
        )


def test_clipping_twice_counts_once_and_rows_of_zeros_do_not_count():
    values = torch.nn.functional.normalize(torch.randn(100, 6), dim=1).bfloat16()
    values[:5] *= 50
    once = Activations(values, "x").outliers_clipped()
    assert (once.n_outliers, once.outliers_clipped().n_outliers) == (5, 5)
    mostly_zero = Activations(
        torch.cat([torch.zeros(60, 4), torch.ones(40, 4)]), "x"
    ).outliers_clipped()
    assert (mostly_zero.n_outliers, mostly_zero.values.sum().item()) == (0, 160)


def test_a_step_starts_from_no_gradient_and_leaves_none():
    u = torch.randn(64, 8, generator=torch.Generator().manual_seed(1))
    found = []
    for left_over in (False, True):
        sae = sle.SAE(
            sle.SAEConfig(d_model=8, d_sae=32, k=4),
            generator=torch.Generator().manual_seed(0),
        )
        if left_over:
            sae(u).sum().backward()
        train_step(
            sae, torch.optim.SGD(sae.parameters(), lr=1.0), HierarchicalTopK(), u, 4
        )
        assert all(parameter.grad is None for parameter in sae.parameters())
        found.append(sae.b_dec.detach().clone())
    assert torch.equal(*found)


def test_a_step_with_a_frozen_decoder_trains_the_rest():
    sae = sle.SAE(
        sle.SAEConfig(d_model=8, d_sae=32, k=4),
        generator=torch.Generator().manual_seed(0),
    )
    before = {
        name: parameter.detach().clone() for name, parameter in sae.named_parameters()
    }
    sae.W_dec.requires_grad_(False)
    train_step(
        sae,
        torch.optim.SGD([one for one in sae.parameters() if one.requires_grad], lr=1.0),
        TopK(),
        torch.randn(64, 8),
        4,
    )
    assert not torch.equal(sae.W_enc, before["W_enc"])
    torch.testing.assert_close(sae.W_dec, before["W_dec"])


@pytest.mark.parametrize(
    "objective", [TopK(), HierarchicalTopK()], ids=["topk", "hierarchical"]
)
def test_a_step_without_tokens_is_refused(objective):
    sae = sle.SAE(sle.SAEConfig(d_model=8, d_sae=32, k=4))
    with pytest.raises(sle.ShapeMismatch, match="the loss of no token is not defined"):
        train_step(
            sae,
            torch.optim.SGD(sae.parameters(), lr=1.0),
            objective,
            torch.ones(0, 8),
            4,
        )
