"""What every objective minimises, in dense algebra; autograd has the gradients.

An oracle takes an SAE, its input, what it reconstructs, and k.
"""

import torch

FACTORS = {"ramp": lambda level: level, "inverse": lambda level: 1 / level}


def pre_activations(sae, u):
    centred = u - sae.b_dec if sae.config.apply_b_dec_to_input else u
    return centred @ sae.W_enc + sae.b_enc


def reconstruction(sae, u, acts):
    recons = acts @ sae.W_dec + sae.b_dec
    return recons if sae.W_skip is None else recons + u @ sae.W_skip


def top_of_token(pre, k):
    """Activations of the k largest pre-activations of every token."""
    kept = torch.zeros_like(pre).scatter(1, pre.topk(k, dim=1).indices, 1)
    return pre.relu() * kept


def top_of_batch(pre, k):
    """Activations of the largest pre-activations, k times as many as tokens."""
    acts = pre.relu()
    places = acts.flatten().topk(k * len(pre)).indices
    kept = torch.zeros(pre.numel(), dtype=pre.dtype).scatter(0, places, 1)
    return acts * kept.view_as(acts)


def topk(sae, u, target, k):
    acts = top_of_token(pre_activations(sae, u), k)
    return (reconstruction(sae, u, acts) - target).square().mean()


def hierarchical(levels, factor):
    def loss(sae, u, target, k):
        weights = [factor(level) for level in levels]
        errors = [topk(sae, u, target, level) for level in levels]
        pairs = zip(weights, errors, strict=True)
        return sum(weight * error for weight, error in pairs) / sum(weights)

    return loss


def multi_topk(sae, u, target, k):
    return topk(sae, u, target, k) + topk(sae, u, target, 4 * k) / 8


def batch_topk(sae, u, target, k):
    acts = top_of_batch(pre_activations(sae, u), k)
    return (reconstruction(sae, u, acts) - target).square().mean()


def matryoshka(sizes):
    def loss(sae, u, target, k):
        acts = top_of_batch(pre_activations(sae, u), k)
        errors = []
        for size in sizes:
            in_prefix = torch.arange(acts.shape[1]) < size
            recons = reconstruction(sae, u, acts * in_prefix)
            errors.append((recons - target).square().mean())
        return sum(errors) / len(errors)

    return loss


def relu(sae, u, target, k):
    acts = pre_activations(sae, u).relu()
    error = (reconstruction(sae, u, acts) - target).square().mean()
    l1 = (acts * sae.W_dec.norm(dim=1)).sum(dim=1).mean()
    return error + 5 / target.shape[1] * l1


def with_auxk(oracle, acts_of, dead, k_aux):
    """Another oracle, whose activations are ``acts_of(pre, k)``, and AuxK."""

    def loss(sae, u, target, k):
        pre = pre_activations(sae, u)
        error = (target - reconstruction(sae, u, acts_of(pre, k))).detach()
        of_dead = top_of_token(pre[:, dead], k_aux)
        recons = of_dead @ sae.W_dec[dead]
        added = (recons - error).square().mean()
        return oracle(sae, u, target, k) + added / 32

    return loss
