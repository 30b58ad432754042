"""What blocks add is checked once, by runs that leave a model as it was."""

import copy
import gc
import weakref

import pytest
import tiny
import torch
import transformers
from torch import nn

import sae_lens_ext as sle
from sae_lens_ext.hosts import checks, host_for

POINTS = ("hook_attn_out", "hook_mlp_out", "hook_mlp_in", "attn.hook_z")
NAMES = [f"blocks.1.{point}" for point in POINTS]


def _keys(model):
    return [host_for(model).site(name).key for name in NAMES]


@pytest.fixture
def runs(monkeypatch):
    """How often each model was run for a check."""
    runs = []
    probed = checks.probed

    def counted(module, *arguments):
        runs.append(module)
        return probed(module, *arguments)

    monkeypatch.setattr(checks, "probed", counted)
    return runs


def test_a_check_leaves_no_trace():
    model = tiny.hf_model("gpt2").train()
    model.transformer.h[0].attn.eval()
    modes = [part.training for part in model.modules()]
    calls = []
    model.transformer.h[1].register_forward_hook(lambda *_: calls.append(1))
    hooks = tiny.hooks_of(model)
    random_state = torch.get_rng_state()
    with sle.splice(model, {"blocks.0.hook_resid_post": tiny.sae()}) as spliced:
        model(tiny.tokens())
        code = spliced.codes["blocks.0.hook_resid_post"]
        calls.clear()
        random_state = torch.get_rng_state()
        _keys(model)
        assert spliced.codes["blocks.0.hook_resid_post"] is code
    assert not calls
    assert torch.equal(torch.get_rng_state(), random_state)
    assert [part.training for part in model.modules()] == modes
    assert tiny.hooks_of(model) == hooks
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_model_is_checked_once_and_again_when_its_parts_change(runs):
    model = tiny.hf_model("gemma2")
    _keys(model)
    _keys(model)
    assert runs == [model]

    layer = model.model.layers[1]
    layer.mlp = nn.Sequential(layer.mlp)
    assert _keys(model)[1:3] == [
        "model.layers.1.post_feedforward_layernorm.output",
        "model.layers.1.mlp.input",
    ]
    assert len(runs) == 2


def test_a_model_that_was_checked_is_not_kept():
    model = tiny.hf_model("gpt2")
    _keys(model)
    reference = weakref.ref(model)
    del model
    gc.collect()
    assert reference() is None


def test_the_verdict_does_not_depend_on_hooks_and_splices():
    expected = _keys(tiny.hf_model("gpt2"))
    model = tiny.hf_model("gpt2").train()
    block = model.transformer.h[1]
    block.attn.register_forward_hook(lambda *args: (args[2][0] * 3, *args[2][1:]))
    block.mlp.register_forward_pre_hook(lambda _, args: (args[0] + 1,))
    with sle.splice(model, {"transformer.h.1.mlp": tiny.sae()}):
        assert _keys(model) == expected


class _Adapted(nn.Module):
    """A linear layer with a low-rank adapter, as PEFT's are."""

    def __init__(self, base_layer):
        super().__init__()
        self.base_layer = base_layer
        self.lora_A = nn.Linear(32, 2, bias=False)
        self.lora_B = nn.Linear(2, 32, bias=False)

    def forward(self, x):
        return self.base_layer(x) + self.lora_B(self.lora_A(x))


class _Packed(nn.Module):
    """A linear layer with 8-bit weights under another name."""

    def __init__(self, linear):
        super().__init__()
        self.scale = linear.weight.abs().max() / 127
        packed = (linear.weight / self.scale).round().to(torch.int8)
        self.register_buffer("packed", packed)

    def forward(self, x):
        return x @ (self.packed.to(x.dtype) * self.scale).T


@pytest.mark.parametrize("wrap", [_Adapted, _Packed])
def test_heads_are_found_before_wrapped_and_quantised_layers(wrap):
    model = tiny.hf_model("gemma2")
    with torch.no_grad():
        for layer in model.model.layers:
            layer.self_attn.o_proj = wrap(layer.self_attn.o_proj)
            layer.mlp.down_proj = _Packed(layer.mlp.down_proj)
    assert _keys(model) == _keys(tiny.hf_model("gemma2"))


def _gate(layer):
    class Gated(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = layer

        def forward(self, *arguments, **keywords):
            hidden, *rest = self.inner(*arguments, **keywords)
            return (hidden * hidden.sigmoid(), *rest)

    return Gated()


def test_attention_whose_last_module_is_no_matrix_has_no_heads():
    model = tiny.hf_model("gpt2")
    model.transformer.h[1].attn = _gate(model.transformer.h[1].attn)
    host = host_for(model)
    assert host.site("blocks.1.hook_attn_out").key == "transformer.h.1.attn.output"
    with pytest.raises(
        sle.UnknownSite,
        match="the Gated of block 1 has no heads: no module in attn maps",
    ):
        host.site("blocks.1.attn.hook_z")


@pytest.mark.parametrize(
    ("family", "reason"),
    [
        ("bloom", "its weights are not loaded"),
        ("t5", "it has an encoder and a decoder, which read different tokens"),
    ],
)
def test_says_why_a_model_cannot_be_checked(family, reason):
    config = transformers.AutoConfig.for_model(family)
    config.num_hidden_layers = 2
    with torch.device("meta"):
        if family == "t5":
            model = transformers.T5ForConditionalGeneration(config)
        else:
            model = transformers.BloomForCausalLM(config)
    with pytest.raises(sle.UnknownSite, match=f"is checked by a run .*, and {reason}"):
        host_for(model).site("blocks.1.hook_attn_out")
    assert host_for(model).site("blocks.1.hook_resid_post")


@pytest.mark.parametrize("name", ["gemma2", "gpt2"])
def test_known_families_without_weights_have_the_points_that_runs_show(name):
    model = tiny.hf_model(name)
    expected = _keys(model)
    assert _keys(copy.deepcopy(model).to("meta")) == expected


def test_a_run_that_fails_is_reported():
    class Failing(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.ModuleList([nn.Linear(2, 2), nn.Linear(2, 2)])

        def forward(self, images):
            raise ValueError("expected an image")

    message = r"a run of this Failing on a few tokens, .* \(ValueError: expected an im"
    with pytest.raises(sle.UnknownSite, match=message):
        host_for(Failing()).site("blocks.0.hook_mlp_out")


class _Looped(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(9, 4)
        self.layers = nn.ModuleList([nn.Linear(4, 4), nn.Linear(4, 4)])

    def forward(self, tokens):
        x = self.embedding(tokens)
        for layer in (*self.layers, *self.layers):
            x = layer(x)
        return x

    def get_input_embeddings(self):
        return self.embedding


def test_a_block_that_runs_twice_has_no_branches():
    with pytest.raises(sle.UnknownSite, match="block 0 ran 2 times in one run"):
        host_for(_Looped()).site("blocks.0.hook_attn_out")
