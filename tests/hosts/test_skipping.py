"""Runs that skip blocks go on from what a whole run handed on, and restore all."""

import collections
import dataclasses

import pytest
import tiny
import torch
from torch import nn

from sae_lens_ext.hosts import capture, host_for, recorded, resume, skip_blocks
from sae_lens_ext.hosts.skipping import is_partial_run


@pytest.mark.parametrize("n_blocks", [0, 1, 2, 3])
def test_resume_gives_the_same_logits_without_running_the_blocks(gemma2, n_blocks):
    host = host_for(gemma2)
    tokens = tiny.tokens()
    logits = gemma2(tokens)
    site = host.site(f"blocks.{n_blocks}.hook_resid_pre")
    residual = capture(host, tokens, [site])[site]

    ran = []
    handles = [
        block.mlp.register_forward_hook(lambda *_, i=i: ran.append(i))
        for i, block in enumerate(gemma2.blocks)
    ]
    with resume(host, n_blocks, residual):
        assert torch.equal(gemma2(tokens), logits)
    assert ran == list(range(n_blocks, 4))

    for handle in handles:
        handle.remove()
    assert torch.equal(gemma2(tokens), logits)


def test_resume_restores_the_blocks_when_the_body_raises(gemma2):
    host = host_for(gemma2)
    tokens = tiny.tokens()
    before = [dict(block.__dict__) for block in gemma2.blocks]
    with pytest.raises(ZeroDivisionError), resume(host, 2, torch.zeros(2, 10, 32)):
        _ = 1 / 0
    assert [dict(block.__dict__) for block in gemma2.blocks] == before
    assert torch.isfinite(gemma2(tokens)).all()


def test_a_run_resumes_behind_hooks_that_have_acted():
    model = tiny.hosted("torch")
    host = host_for(model)
    tokens = tiny.tokens()
    layers = model.model.layers
    layers[0].register_forward_hook(lambda *args: args[2] + 1)
    layers[1].register_forward_hook(lambda *args: 2 * args[2])
    layers[2].register_forward_pre_hook(lambda _, args: (args[0] + 3, *args[1:]))
    with torch.no_grad():
        with recorded(host, 2) as record:
            logits = host.logits(tokens)
        assert record.can_skip
        assert record.residual is not None
        with resume(host, 2, record.residual, record.outputs):
            assert torch.equal(host.logits(tokens), logits)
        with skip_blocks(host, 2, record.residual - 3, record.outputs):
            torch.testing.assert_close(host.logits(tokens), logits)
    assert record.unembedded is not None
    assert record.unembedded.shape == (2, 10, 32)


def test_runs_are_partial_while_blocks_are_skipped(gemma2):
    seen = []
    handle = gemma2.unembed.register_forward_hook(
        lambda *_: seen.append(is_partial_run())
    )
    host = host_for(gemma2)
    with resume(host, 1, torch.zeros(2, 10, 32)):
        gemma2(tiny.tokens())
    gemma2(tiny.tokens())
    handle.remove()
    assert seen == [True, False]


_Pair = collections.namedtuple("_Pair", ["hidden", "extra"])


@dataclasses.dataclass
class _Named:
    extra: torch.Tensor
    hidden_states: torch.Tensor


class _Model(nn.Module):
    """Runs its blocks as ``step`` says, and returns the last stream."""

    def __init__(self, step, wrap):
        super().__init__()
        self.layers = nn.ModuleList(_Wrapping(wrap) for _ in range(3))
        self.step = step

    def forward(self, x):
        for layer in self.layers:
            x = self.step(layer, x)
        return x


class _Wrapping(nn.Module):
    def __init__(self, wrap):
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.wrap = wrap

    def forward(self, x):
        return self.wrap(self.linear(x))


@pytest.mark.parametrize(
    ("step", "wrap"),
    [
        (lambda layer, x: layer(x), lambda x: x),
        (lambda layer, x: layer(x=x)[0], lambda x: (x, None, x[:, :1])),
        (lambda layer, x: layer(x)[0], lambda x: [x]),
        (lambda layer, x: layer(x).hidden, lambda x: _Pair(x, {"weights": [x, 3]})),
        (lambda layer, x: layer(x)["y"], lambda x: {"y": x, "shape": x.shape}),
        (
            lambda layer, x: layer(x).hidden_states,
            lambda x: _Named(x.sum(), hidden_states=x),
        ),
    ],
)
def test_skipped_blocks_return_what_their_caller_expects(step, wrap):
    model = _Model(step, wrap)
    host = host_for(model)
    x = torch.randn(2, 5, 4)
    with torch.no_grad():
        with recorded(host, 2) as record:
            expected = model(x)
        assert record.residual is not None
        # Of another batch size than the recorded run.
        with resume(host, 2, record.residual.repeat(3, 1, 1), record.outputs):
            assert torch.equal(model(torch.zeros(6, 5, 4)), expected.repeat(3, 1, 1))
    assert record.can_skip


def test_what_skipped_blocks_return_takes_no_memory():
    model = _Model(lambda layer, x: layer(x)[0], lambda x: (x, {"weights": [x, 3]}))
    with recorded(host_for(model), 2) as record:
        model(torch.randn(2, 5, 4))
    hidden, by_products = record.outputs[0]
    weights, three = by_products["weights"]
    assert three == 3
    for tensor in (hidden, weights):
        assert tensor.shape == (2, 5, 4)
        assert tensor.untyped_storage().nbytes() == 4
