"""Masks find a circuit that was planted."""

import pytest
import tiny
import torch
from torch import nn

import sae_lens_ext as sle

PLANTED = {3, 5}
DECOYS = {1, 2}
D_MODEL = 8


class Planted(nn.Module):
    """Two coordinates say all; two others, each with an effect of its own, cancel."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(40, D_MODEL)
        self.out = nn.Linear(D_MODEL, 2, bias=False)
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            values = 1 + 0.2 * torch.rand(40, D_MODEL, generator=generator)
            values[:, list(DECOYS)] = 1
            self.embed.weight.copy_(values)
            weights = torch.tensor([0.05, 1.0, -1.0, 2.0, 0.05, 1.5, -0.05, -0.05])
            self.out.weight.copy_(torch.stack([weights, torch.zeros(D_MODEL)]))

    def forward(self, ids):
        return self.out(self.embed(ids))


ARGUMENTS = (
    Planted(),
    tiny.identity_sae(D_MODEL, hook_name="embed"),
    torch.arange(20).reshape(5, 4),
)
METRIC = sle.circuits.logit_difference(0, 1)


@pytest.mark.parametrize("align", ["all", "end"])
def test_a_mask_finds_the_planted_nodes(align):
    options = {"metric": METRIC, "align": align, "budget": 2}
    circuit = sle.circuits.learn_mask(*ARGUMENTS, **options)
    assert set(circuit.nodes.feature) == PLANTED
    assert set(circuit.nodes.position) == {"all" if align == "all" else -1}
    assert circuit.method == "masks"
    assert circuit.nodes.score.is_monotonic_decreasing
    assert circuit.nodes.score.between(0, 1).all()

    table = circuit.faithfulness(
        ARGUMENTS[0], ARGUMENTS[2], metric=METRIC, controls=(), budgets=[2]
    ).table()
    assert table.faithfulness.item() == pytest.approx(1, abs=0.1)


def test_the_same_seed_gives_the_same_mask():
    options = {"metric": METRIC, "budget": 3, "steps": 5}
    first, second, other = [
        sle.circuits.learn_mask(*ARGUMENTS, **options, seed=seed).nodes
        for seed in (1, 1, 2)
    ]
    assert first.equals(second)
    assert not first.equals(other)


@pytest.mark.parametrize("errors", ["ranked", "all", "none"])
@pytest.mark.parametrize("ablation", ["zero", "mean", "resample"])
def test_masks_take_every_ablation_and_several_sites(errors, ablation):
    model = tiny.hf_model("gpt2")
    saes = [tiny.sae(), tiny.sae(hook_name="blocks.2.hook_resid_post", seed=1)]
    circuit = sle.circuits.learn_mask(
        model,
        saes,
        tiny.tokens(2, 4),
        tiny.tokens(2, 4, seed=1),
        metric=METRIC,
        k=3,
        budget=6,
        ablation=ablation,
        errors=errors,
        steps=3,
    )
    assert len(circuit) == 6
    n_errors = (circuit.nodes.feature == -1).sum()
    if errors == "all":
        assert n_errors == 2
        assert circuit.nodes.position[:2].tolist() == ["all", "all"]
    if errors == "none":
        assert n_errors == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"budget": 0}, "budget must be a positive integer"),
        ({"steps": 0}, "steps must be a positive integer"),
        ({"lr": 0.0}, "lr must be a positive number"),
        ({"penalty": -1.0}, "penalty must be a non-negative number"),
        ({"errors": "some"}, "errors must be one of"),
        ({"ablation": "resample"}, "takes values from the corrupted run"),
        ({"metric": lambda z: 0 * z[:, 0, 0]}, "no mask can be learned"),
        ({"metric": lambda z: z[:, -1, 0].detach()}, "no gradient by the logits"),
    ],
)
@pytest.mark.usefixtures("without_shape_checks")
def test_rejects_invalid_options(options, message):
    options = {"metric": METRIC, "budget": 2, **options}
    with pytest.raises(sle.InvalidArgument, match=message):
        sle.circuits.learn_mask(*ARGUMENTS, **options)
