"""Where a splice rejects an activation, whatever runs the model itself does too."""

import pytest
import tiny
import torch
from torch import nn
from transformers import T5Config, T5ForConditionalGeneration

import sae_lens_ext as sle
from sae_lens_ext.training import collect_activations

SITE = "blocks.1.hook_resid_post"


class _Streams(nn.Module):
    """Two streams per token, with an axis of their own."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(96, 32)
        self.layers = nn.ModuleList(nn.Linear(32, 32) for _ in range(3))
        self.lm_head = nn.Linear(32, 96)
        self.config = {"bos_token_id": 2}

    def get_input_embeddings(self):
        return self.embed

    def get_output_embeddings(self):
        return self.lm_head

    def forward(self, tokens):
        hidden = self.embed(tokens).unsqueeze(2).expand(-1, -1, 2, -1)
        for layer in self.layers:
            hidden = layer(hidden)
        return self.lm_head(hidden.mean(2))


def _t5():
    config = T5Config(
        vocab_size=96, d_model=32, d_kv=8, d_ff=64, num_layers=3, num_heads=4
    )
    return T5ForConditionalGeneration(config).eval()


def _splice(model, sae):
    with torch.no_grad(), sle.splice(model, {SITE: sae}):
        model(tiny.tokens())


USES = {
    "splice": _splice,
    "sweep_k": lambda model, sae: sle.sweep_k(
        model, tiny.tokens(), {SITE: sae}, progress=False
    ),
    "Run.capture": lambda model, sae: sle.Run.capture(
        model, tiny.tokens(), {SITE: sae}
    ),
    "difference_in_means": lambda model, _: sle.difference_in_means(
        model, SITE, tiny.tokens(), tiny.tokens()
    ),
    "collect_activations": lambda model, _: collect_activations(
        model, tiny.tokens(), SITE, progress=False
    ),
}


@pytest.mark.parametrize("use", USES)
def test_a_stream_with_another_axis_is_rejected_in_one_sentence(use):
    message = rf"the activation at {SITE} is \[2, 10, 2, 32\]"
    with pytest.raises(sle.ShapeMismatch, match=message):
        USES[use](_Streams(), tiny.sae())


@pytest.mark.parametrize("use", ["splice", "sweep_k", "Run.capture"])
def test_an_activation_of_another_width_is_rejected_in_one_sentence(use):
    message = rf"the activation at {SITE} is .*; the SAE spliced there has d_model=16"
    model = _Streams()
    model.forward = lambda tokens: model.lm_head(model.layers[1](model.embed(tokens)))
    with pytest.raises(sle.ShapeMismatch, match=message):
        USES[use](model, tiny.sae(d_model=16))


@pytest.mark.parametrize("use", [name for name in USES if name != "splice"])
def test_a_model_that_reads_two_texts_is_rejected_in_one_sentence(use):
    message = "a t5 has an encoder and a decoder, which read different tokens"
    with pytest.raises(sle.UnsupportedHost, match=message):
        USES[use](_t5(), tiny.sae())
