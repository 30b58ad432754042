"""What every objective has in common: the interface, its errors, and its state."""

import copy

import pytest
import tiny
import torch

import sae_lens_ext as sle
from objectives import cases
from sae_lens_ext.objectives import (
    OBJECTIVES,
    AuxK,
    HierarchicalTopK,
    Objective,
    Stateless,
    objective_named,
)
from sae_lens_ext.objectives.base import check_state

EVERY = {name: objective_named(name) for name in OBJECTIVES}
EVERY["relative"] = HierarchicalTopK(weights="relative")
EVERY["sampled"] = HierarchicalTopK(sampled=2)
EVERY["auxk"] = AuxK(EVERY["sampled"])
every = pytest.mark.parametrize("name", EVERY)


def objective_and_sae(name, dtype=torch.float32, **config):
    objective = copy.deepcopy(EVERY[name])
    k = 8 if objective.kind == "topk" else None
    config = sle.SAEConfig(d_model=32, d_sae=48, kind=objective.kind, k=k, **config)
    sae = sle.SAE(config, generator=torch.Generator().manual_seed(0))
    return objective, sae.to(dtype)


@every
def test_every_weight_learns(name):
    objective, sae = objective_and_sae(name, d_out=20, skip_connection=True)
    assert isinstance(objective, Objective)
    u = torch.randn(60, 32)
    loss, code = objective(sae, u, 8, target=torch.randn(60, 20))
    loss.backward()
    # BatchTopK has a threshold that the optimizer does not train.
    learns = {
        name for name, weight in sae.named_parameters() if weight.grad is not None
    }
    fixed = {"threshold"} if objective.kind == "batchtopk" else set()
    assert learns == dict(sae.named_parameters()).keys() - fixed
    assert all(sae.get_parameter(name).grad.any() for name in learns - {"threshold"})
    assert not code.values.requires_grad
    assert (code.values.diff(dim=1) <= 0).all()


@every
def test_levels_end_in_k_where_there_is_one(name):
    levels = EVERY[name].levels_at(6)
    assert levels == () if EVERY[name].kind != "topk" else levels[-1] == 6


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", sorted(EVERY.keys() - {"jumprelu"}))
def test_the_loss_of_half_precision_is_in_float32(name, dtype):
    objective, sae = objective_and_sae(name, dtype)
    u = (torch.randn(20, 32) * 2000).to(dtype)
    loss = objective(sae, u, 8)
    assert loss.value.dtype == torch.float32
    assert loss.value > torch.finfo(torch.float16).max

    loss.value.backward()
    assert sae.b_dec.grad.dtype == dtype
    assert sae.b_dec.grad.isfinite().all()


@every
def test_autocast_computes_products_alone_in_half_precision(name):
    objective, sae = objective_and_sae(name, d_out=20, skip_connection=True)
    u = torch.randn(60, 32)
    target = torch.randn(60, 20)
    exact = copy.deepcopy(objective)(sae, u, 8, target=target).value
    with torch.autocast("cpu", torch.bfloat16):
        value = objective(sae, u, 8, target=target).value
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, exact, rtol=3e-2, atol=0)


@every
def test_a_loaded_state_goes_on_as_the_saved_one(name):
    objective, sae = objective_and_sae(name)
    batches = [torch.randn(20, 32) for _ in range(4)]
    for u in batches[:2]:
        objective.after_step(sae, objective(sae, u, 8).code)

    twin, other_sae = objective_and_sae(name)
    other_sae.load_state_dict(sae.state_dict())
    twin.load_state_dict(objective.state_dict())
    for u in batches[2:]:
        losses = []
        for one, its_sae in ((objective, sae), (twin, other_sae)):
            loss = one(its_sae, u, 8)
            one.after_step(its_sae, loss.code)
            losses.append(loss.value)
        assert torch.equal(*losses)
    assert all(map(torch.equal, sae.parameters(), other_sae.parameters()))


@every
def test_the_state_of_a_copy_is_its_own(name):
    objective, sae = objective_and_sae(name)
    before = str(objective.state_dict())
    twin = copy.deepcopy(objective)
    twin.after_step(sae, twin(sae, torch.randn(20, 32), 8).code)
    assert str(objective.state_dict()) == before
    assert twin == objective


@every
def test_rejects_the_state_of_another_objective(name):
    with pytest.raises(sle.InvalidArgument, match="of another objective.*got secret"):
        EVERY[name].load_state_dict({"secret": 1})


@every
@pytest.mark.usefixtures("without_shape_checks")
def test_rejects_batches_that_do_not_fit(name):
    objective, sae = objective_and_sae(name)
    other_kind = "relu" if objective.kind != "relu" else "topk"
    u = torch.randn(5, 32)
    with pytest.raises(sle.InvalidArgument, match=f"of kind {objective.kind}; got one"):
        objective(tiny.sae_of_kind(other_kind), u.double(), 8)
    with pytest.raises(sle.ShapeMismatch, match=r"must be \[batch, d_model=32\]; got"):
        objective(sae, torch.randn(5, 31), 8)
    with pytest.raises(sle.ShapeMismatch, match="the loss needs at least one token"):
        objective(sae, u[:0], 8)
    with pytest.raises(sle.ShapeMismatch, match=r"must be .* = \[5, 32\].*got \[4, 32"):
        objective(sae, u, 8, target=u[:4])
    _, transcoder = objective_and_sae(name, d_out=20)
    with pytest.raises(sle.InvalidArgument, match="pass them as target="):
        objective(transcoder, u, 8)


@pytest.mark.parametrize("name", ["topk", "hierarchical", "batchtopk", "matryoshka"])
def test_rejects_a_k_above_d_sae(name):
    objective, sae = objective_and_sae(name)
    with pytest.raises(sle.InvalidK, match="k must be an integer from 1 to d_sae=48"):
        objective(sae, torch.randn(5, 32), 49)


@pytest.mark.parametrize("name", ["topk", "hierarchical", "multitopk", "auxk"])
def test_the_code_is_the_encoders(name):
    objective, sae = objective_and_sae(name)
    u = torch.randn(20, 32)
    code = objective(sae, u, 8).code
    assert torch.equal(code.values, sae.encode(u).values)
    assert torch.equal(code.indices, sae.encode(u).indices)


def test_an_objective_without_a_state_saves_nothing():
    assert Stateless().state_dict() == {}
    Stateless().load_state_dict({})
    with pytest.raises(sle.InvalidArgument, match="must have a, b; got a"):
        check_state({"a": 1}, ("a", "b"))


def test_a_skip_connection_takes_its_part_of_the_target():
    objective, sae = objective_and_sae("topk", d_out=20, skip_connection=True)
    torch.nn.init.normal_(sae.W_skip)
    u, _ = cases.batch("sae")
    u = u.float()
    added = u @ sae.W_skip
    without = sle.SAE.from_tensors(
        sle.SAEConfig(d_model=32, d_sae=48, k=8, d_out=20),
        **{name: w for name, w in sae.weights().items() if name != "W_skip"},
    )
    target = torch.randn(13, 20)
    found = objective(sae, u, 8, target=target).value
    expected = objective(without, u, 8, target=target - added).value
    torch.testing.assert_close(found, expected)
