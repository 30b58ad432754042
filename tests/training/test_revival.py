"""Dead features come back pointing to badly reconstructed tokens."""

import torch

import sae_lens_ext as sle
from sae_lens_ext.objectives import TopK
from sae_lens_ext.training import TrainConfig, train_step
from sae_lens_ext.training.optimizer import new_optimizer
from sae_lens_ext.training.revival import revive

DEAD = torch.arange(16) >= 13


def prepared():
    """An SAE with three features that are never active, and its optimizer."""
    sae = sle.SAE(
        sle.SAEConfig(d_model=6, d_sae=16, k=2),
        generator=torch.Generator().manual_seed(0),
    )
    with torch.no_grad():
        sae.b_enc[DEAD] = -100.0
        sae.b_dec += 0.5
    optimizer = new_optimizer(sae, TrainConfig(d_sae=16, k=2, lr=1e-3))
    u = torch.randn(40, 6, generator=torch.Generator().manual_seed(1))
    u[7] *= 100
    for _ in range(2):
        train_step(sae, optimizer, TopK(), u, 2)
    return sae, optimizer, u


def revived(sae, optimizer, u, is_dead=DEAD, seed=3):
    generator = torch.Generator().manual_seed(seed)
    return revive(sae, optimizer, is_dead, u, u, 2, generator)


def test_dead_features_point_to_tokens_and_forget_their_averages():
    sae, optimizer, u = prepared()
    before = sae.W_dec.detach().clone()
    is_revived = revived(sae, optimizer, u)

    assert torch.equal(is_revived, DEAD)
    assert torch.equal(sae.W_dec[~DEAD], before[~DEAD])
    directions = torch.nn.functional.normalize(u - sae.b_dec.detach(), dim=1)
    similarity = (sae.W_dec[DEAD].detach() @ directions.T).amax(1)
    torch.testing.assert_close(similarity, torch.ones(3))

    norms = sae.W_enc.norm(dim=0)
    torch.testing.assert_close(norms[DEAD], 0.2 * norms[~DEAD].mean().expand(3))
    assert sae.b_enc[DEAD].tolist() == [0, 0, 0]
    assert optimizer.state[sae.W_dec]["exp_avg"][DEAD].abs().sum() == 0
    assert optimizer.state[sae.W_enc]["exp_avg_sq"][:, DEAD].abs().sum() == 0
    assert optimizer.state[sae.W_enc]["exp_avg"][:, ~DEAD].abs().sum() > 0


def test_the_worst_token_is_drawn_first():
    sae, optimizer, u = prepared()
    one = torch.arange(16) == 14
    for seed in range(5):
        revived(sae, optimizer, u, one, seed)
        worst = torch.nn.functional.normalize(u[7] - sae.b_dec.detach(), dim=0)
        torch.testing.assert_close(sae.W_dec[14].detach(), worst)


def test_no_more_are_revived_than_there_are_tokens():
    sae, optimizer, u = prepared()
    all_dead = torch.ones(16, dtype=torch.bool)
    assert revived(sae, optimizer, u[:5], all_dead).sum() == 5


def test_nothing_happens_without_dead_features():
    sae, optimizer, u = prepared()
    before = sae.W_dec.detach().clone()
    assert not revived(sae, optimizer, u, torch.zeros(16, dtype=torch.bool)).any()
    assert torch.equal(sae.W_dec, before)
