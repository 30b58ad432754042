"""TransformerLens' own analyses of the residual stream add up on Based and ReBased.

It holds in TransformerLens 4 and, by ``make test-saelens``, in 3.9.
"""

import copy

import pytest
import tiny
import torch
from transformer_lens import patching

from sae_lens_ext.based import boot

BATCH, POS, HEADS, D_MODEL = 2, 11, 3, 24
TOKENS = tiny.tokens(BATCH, POS)
ANSWERS = torch.tensor([7, 9])


@pytest.fixture
def model():
    model = tiny.based()
    # A trained model has biases that are not zero.
    torch.nn.init.normal_(model.model.layers[0].mixer.out_proj.bias)
    return model


@pytest.fixture
def bridge(model):
    return boot(copy.deepcopy(model))


@pytest.fixture
def logits_and_cache(bridge):
    with torch.no_grad():
        return bridge.run_with_cache(TOKENS)


def test_parts_add_up_to_the_stream(bridge, logits_and_cache):
    _, cache = logits_and_cache
    parts, labels = cache.decompose_resid(return_labels=True)
    outputs = [f"{layer}_{part}_out" for layer in range(5) for part in ("attn", "mlp")]
    assert labels == ["embed", *outputs]
    torch.testing.assert_close(parts.sum(0), cache["resid_post", 4])

    accumulated, labels = cache.accumulated_resid(incl_mid=True, return_labels=True)
    assert len(labels) == 11
    torch.testing.assert_close(accumulated[3], cache["resid_mid", 1])
    everything = cache.get_full_resid_decomposition(expand_neurons=False)
    torch.testing.assert_close(everything.sum(0), cache["resid_post", 4])


def test_heads_and_neurons_add_up_to_their_layers(bridge, logits_and_cache):
    _, cache = logits_and_cache
    heads, labels = cache.stack_head_results(return_labels=True)
    assert labels == [f"L{layer}H{head}" for layer in range(5) for head in range(HEADS)]
    bias = bridge.blocks[0].attn.b_O
    mixer_outputs = sum(cache["attn_out", layer] for layer in range(5))
    torch.testing.assert_close(heads.sum(0) + bias, mixer_outputs)
    # A convolution has no heads: head 0 is all of it.
    torch.testing.assert_close(heads[0] + bias, cache["attn_out", 0])

    neurons = cache.stack_neuron_results(layer=-1)
    mlp_outputs = sum(cache["mlp_out", layer] for layer in range(5))
    torch.testing.assert_close(neurons.sum(0), mlp_outputs)


def test_direct_attributions_add_up_to_the_logits(logits_and_cache):
    logits, cache = logits_and_cache
    attributions = cache.logit_attrs(
        cache.decompose_resid(pos_slice=-1),
        tokens=ANSWERS,
        pos_slice=-1,
        has_batch_dim=True,
    )
    torch.testing.assert_close(
        attributions.sum(0), logits[torch.arange(BATCH), -1, ANSWERS]
    )


@pytest.mark.parametrize("layer", ["linear_attention", "full_attention"])
def test_a_model_of_the_synthetic_task_adds_up_too(layer):
    model = tiny.based(
        num_hidden_layers=2,
        layer_types=["conv", layer],
        conv_form="base",
        mlp="identity",
        norm="layer",
        use_rope=False,
        max_position_embeddings=16,
    )
    bridge = boot(copy.deepcopy(model))
    logits, cache = bridge.run_with_cache(TOKENS)
    torch.testing.assert_close(logits, model(TOKENS).logits)

    parts, labels = cache.decompose_resid(return_labels=True)
    assert labels == [
        "embed",
        "pos_embed",
        "0_attn_out",
        "0_mlp_out",
        "1_attn_out",
        "1_mlp_out",
    ]
    torch.testing.assert_close(parts.sum(0), cache["resid_post", 1])
    heads = cache.stack_head_results()
    torch.testing.assert_close(
        heads.sum(0), cache["attn_out", 0] + cache["attn_out", 1]
    )
    attributions = cache.logit_attrs(
        cache.decompose_resid(pos_slice=-1), tokens=ANSWERS, pos_slice=-1
    )
    torch.testing.assert_close(
        attributions.sum(0), logits[torch.arange(BATCH), -1, ANSWERS]
    )
    assert bridge.pos_embed.W_pos.shape == (16, D_MODEL)


def test_patching_the_stream_restores_the_clean_logits(bridge):
    corrupted = TOKENS.clone()
    corrupted[:, 4] = (corrupted[:, 4] + 1) % 90
    clean_logits, cache = bridge.run_with_cache(TOKENS)

    def distance(logits):
        return (logits[:, -1] - clean_logits[:, -1]).norm()

    patched = patching.get_act_patch_resid_pre(bridge, corrupted, cache, distance)
    assert patched.shape == (5, POS)
    torch.testing.assert_close(
        patched[0, 4], torch.zeros_like(patched[0, 4]), rtol=0, atol=1e-6
    )
    assert patched[0, 5] > 1e-3


def test_processed_weights_leave_the_probabilities(model, bridge):
    with pytest.warns(UserWarning, match="does not support"):
        bridge.enable_compatibility_mode()
    expected = model(TOKENS).logits.log_softmax(-1)
    torch.testing.assert_close(
        bridge(TOKENS).log_softmax(-1), expected, rtol=1e-5, atol=1e-5
    )
