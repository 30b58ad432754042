"""The state of an optimizer survives as named tensors."""

import sys
import types

import pytest
import torch

import sae_lens_ext as sle
from sae_lens_ext.objectives import HierarchicalTopK
from sae_lens_ext.training import TrainConfig, train_step
from sae_lens_ext.training.optimizer import (
    new_optimizer,
    optimizer_tensors,
    restore_optimizer,
    set_learning_rate,
)

CONFIG = TrainConfig(d_sae=32, k=4, lr=1e-2, betas=(0.5, 0.75))


def new_sae():
    return sle.SAE(
        sle.SAEConfig(d_model=8, d_sae=32, k=4),
        generator=torch.Generator().manual_seed(0),
    )


def trained(steps=3, config=CONFIG):
    sae = new_sae()
    optimizer = new_optimizer(sae, config)
    generator = torch.Generator().manual_seed(1)
    for _ in range(steps):
        u = torch.randn(16, 8, generator=generator)
        train_step(sae, optimizer, HierarchicalTopK(), u, 4)
    return sae, optimizer


class Averages8Bit(torch.Tensor):
    """Looks like an average of torchao: a tensor made of two others."""

    @staticmethod
    def __new__(cls, codes, scale):
        return torch.Tensor._make_wrapper_subclass(cls, codes.shape)

    def __init__(self, codes, scale):
        self.codes = codes
        self.scale = scale

    @classmethod
    def __torch_dispatch__(cls, function, types, arguments=(), options=None):
        raise NotImplementedError(function)

    def __tensor_flatten__(self):
        return ["codes", "scale"], None


class FakeAdam8bit(torch.optim.Optimizer):
    """Creates its state at the first step, as torchao's does."""

    def __init__(self, parameters, lr, betas):
        super().__init__(parameters, {"lr": torch.tensor(lr), "betas": betas})

    def step(self):
        for parameter in self.param_groups[0]["params"]:
            if parameter.grad is None:
                continue
            state = self.state[parameter]
            if not state:
                codes = torch.zeros(parameter.shape, dtype=torch.uint8)
                state["exp_avg"] = Averages8Bit(codes, torch.zeros(1))
            state["exp_avg"].codes += 3
            state["exp_avg"].scale += 0.5


@pytest.fixture
def fake_torchao(monkeypatch):
    package = types.ModuleType("torchao")
    package.optim = types.ModuleType("torchao.optim")
    package.optim.Adam8bit = FakeAdam8bit
    monkeypatch.setitem(sys.modules, "torchao", package)
    monkeypatch.setitem(sys.modules, "torchao.optim", package.optim)


def test_the_settings_reach_adam():
    optimizer = new_optimizer(new_sae(), CONFIG)
    assert optimizer.defaults["betas"] == (0.5, 0.75)
    assert optimizer.defaults["fused"]
    set_learning_rate(optimizer, 0.25)
    assert optimizer.param_groups[0]["lr"] == 0.25


def test_transposed_weights_are_changed_as_torch_changes_them_but_not_copied():
    x = torch.randn(64, 8, generator=torch.Generator().manual_seed(1))
    saes = [new_sae(), new_sae()]
    plain = torch.optim.Adam(
        saes[0].parameters(), lr=CONFIG.lr, betas=CONFIG.betas, fused=True
    )
    ours = new_optimizer(saes[1], CONFIG)
    for _ in range(3):
        for sae, optimizer in zip(saes, (plain, ours), strict=True):
            train_step(sae, optimizer, HierarchicalTopK(), x, k=4)
    for name, weight in saes[0].named_parameters():
        assert torch.equal(weight, saes[1].get_parameter(name)), name

    assert not saes[1].W_enc.is_contiguous()
    saes[1].W_enc.grad = torch.zeros_like(saes[1].W_enc)
    with torch.profiler.profile(record_shapes=True) as profile:
        ours.step()
    copies = [event for event in profile.events() if event.name == "aten::copy_"]
    # Step counts and other single numbers.
    assert all(not shape for event in copies for shape in event.input_shapes)


def test_a_restored_optimizer_takes_the_same_steps():
    sae, optimizer = trained()
    twin = new_sae()
    twin_optimizer = new_optimizer(twin, CONFIG)
    tensors = {
        name: tensor.clone()
        for name, tensor in optimizer_tensors(optimizer, sae).items()
    }
    restore_optimizer(twin_optimizer, twin, tensors)
    twin.load_state_dict(sae.state_dict())

    u = torch.randn(16, 8)
    for each, its_optimizer in ((sae, optimizer), (twin, twin_optimizer)):
        train_step(each, its_optimizer, HierarchicalTopK(), u, 4)
    for name, tensor in sae.state_dict().items():
        assert torch.equal(tensor, twin.state_dict()[name])


def test_a_weight_without_gradients_has_no_state():
    sae, optimizer = trained()
    sae.b_dec.requires_grad_(False)
    tensors = {
        name: tensor
        for name, tensor in optimizer_tensors(optimizer, sae).items()
        if "b_dec" not in name
    }
    twin = new_sae()
    twin_optimizer = new_optimizer(twin, CONFIG)
    restore_optimizer(twin_optimizer, twin, tensors)
    assert optimizer_tensors(twin_optimizer, twin).keys() == tensors.keys()


def test_rejects_the_state_of_another_optimizer():
    sae, optimizer = trained()
    tensors = optimizer_tensors(optimizer, sae)
    twin = new_sae()
    with pytest.raises(sle.FormatError, match=r"other\.W_enc of the optimizer is only"):
        restore_optimizer(
            new_optimizer(twin, CONFIG), twin, tensors | {"other.W_enc": torch.ones(1)}
        )
    with pytest.raises(
        sle.FormatError, match=r"exp_avg.b_enc of the optimizer is \[3\] there and"
    ):
        restore_optimizer(
            new_optimizer(twin, CONFIG),
            twin,
            tensors | {"exp_avg.b_enc": torch.ones(3)},
        )


def test_eight_bits_need_torchao(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchao", None)
    config = TrainConfig(d_sae=32, k=4, eight_bit=True)
    with pytest.raises(
        sle.MissingDependency,
        match=r"Averages of Adam in 8 bits .* pip install torchao",
    ):
        new_optimizer(new_sae(), config)


@pytest.mark.usefixtures("fake_torchao")
def test_averages_of_torchao_are_saved_by_their_parts():
    config = TrainConfig(d_sae=32, k=4, eight_bit=True)
    sae, optimizer = trained(steps=2, config=config)
    set_learning_rate(optimizer, 0.25)
    assert optimizer.param_groups[0]["lr"].item() == 0.25

    tensors = optimizer_tensors(optimizer, sae)
    assert {"exp_avg.W_enc.codes", "exp_avg.W_enc.scale"} <= tensors.keys()
    assert tensors["exp_avg.W_enc.codes"].unique().tolist() == [6]

    twin = new_sae()
    twin_optimizer = new_optimizer(twin, config)
    restore_optimizer(twin_optimizer, twin, tensors)
    restored = optimizer_tensors(twin_optimizer, twin)
    assert restored["exp_avg.W_enc.codes"].unique().tolist() == [6]
    assert restored["exp_avg.b_dec.scale"].tolist() == [1.0]
