"""A bridge computes what the model does, and hooks on it act as on the model itself.

It holds in TransformerLens 4 and, by ``make test-saelens``, in 3.9.
"""

import copy

import pytest
import tiny
import torch
from transformer_lens.hook_points import HookPoint
from transformer_lens.model_bridge import TransformerBridge

import sae_lens_ext as sle
from sae_lens_ext.based import boot

CONV, LINEAR, WINDOW = range(3)
BATCH, POS, HEADS, D_MODEL, D_HEAD = 2, 11, 3, 24, 8
FEATURE_DIM, FEATURES, CHANNELS, D_MLP = 4, 10, 48, 48
TOKENS = tiny.tokens(BATCH, POS)


def shapes_of_every_block(layer):
    block = f"blocks.{layer}"
    points = [
        "hook_resid_pre",
        "hook_resid_mid",
        "hook_resid_post",
        "hook_attn_out",
        "hook_mlp_out",
        "ln1.hook_normalized",
        "ln2.hook_normalized",
    ]
    shapes = {f"{block}.{point}": (BATCH, POS, D_MODEL) for point in points}
    for norm in ("ln1", "ln2"):
        shapes[f"{block}.{norm}.hook_scale"] = (BATCH, POS, 1)
    for point in ("pre", "pre_linear", "post"):
        shapes[f"{block}.mlp.hook_{point}"] = (BATCH, POS, D_MLP)
    shapes[f"{block}.attn.hook_result"] = (BATCH, POS, HEADS, D_MODEL)
    return shapes


def shapes_of_mixers():
    conv = f"blocks.{CONV}.attn"
    linear = f"blocks.{LINEAR}.attn"
    window = f"blocks.{WINDOW}.attn"
    by_head = (BATCH, POS, HEADS)
    by_pair = (BATCH, HEADS, POS, POS)

    shapes = {f"{conv}.hook_conv_taps": (BATCH, POS, 3, CHANNELS)}
    for point in ("conv_in", "gate", "conv_out", "conv_prod"):
        shapes[f"{conv}.hook_{point}"] = (BATCH, POS, CHANNELS)

    for norm in ("ln_q", "ln_k"):
        shapes[f"{linear}.{norm}.hook_scale"] = (BATCH, POS, 1)
        shapes[f"{linear}.{norm}.hook_normalized"] = (BATCH, POS, HEADS * FEATURE_DIM)
    for point in ("q_pre", "k_pre", "q", "k"):
        shapes[f"{linear}.hook_{point}"] = (*by_head, FEATURE_DIM)
    shapes[f"{linear}.hook_v"] = (*by_head, D_HEAD)
    for point in ("phi_q", "phi_k", "state_norm"):
        shapes[f"{linear}.hook_{point}"] = (*by_head, FEATURES)
    for point in ("attn_scores", "kernel", "pattern"):
        shapes[f"{linear}.hook_{point}"] = by_pair
    shapes[f"{linear}.hook_denom"] = by_head
    for point in ("write", "state"):
        shapes[f"{linear}.hook_{point}"] = (*by_head, FEATURES, D_HEAD)

    for point in ("q", "k", "v", "rot_q", "rot_k"):
        shapes[f"{window}.hook_{point}"] = (*by_head, D_HEAD)
    for point in ("attn_scores", "pattern"):
        shapes[f"{window}.hook_{point}"] = by_pair
    for layer in range(1, 5):
        shapes[f"blocks.{layer}.attn.hook_z"] = (*by_head, D_HEAD)
    return shapes


SHAPES = {
    "hook_embed": (BATCH, POS, D_MODEL),
    **{
        name: shape
        for layer in range(5)
        for name, shape in shapes_of_every_block(layer).items()
    },
    **shapes_of_mixers(),
    "ln_final.hook_scale": (BATCH, POS, 1),
    "ln_final.hook_normalized": (BATCH, POS, D_MODEL),
}


@pytest.fixture
def model():
    model = tiny.based()
    # A trained model has biases that are not zero.
    torch.nn.init.normal_(model.model.layers[CONV].mixer.out_proj.bias)
    return model


@pytest.fixture
def bridge(model):
    return boot(copy.deepcopy(model))


@pytest.fixture
def cache(bridge):
    with torch.no_grad():
        _, cache = bridge.run_with_cache(TOKENS)
    return cache


def test_bridge_computes_what_the_model_does(model, bridge):
    assert isinstance(bridge, TransformerBridge)
    assert torch.equal(bridge(TOKENS), model(TOKENS).logits)
    loss = bridge(TOKENS, return_type="loss")
    torch.testing.assert_close(loss, model(TOKENS, labels=TOKENS).loss)


def test_rejects_a_model_that_was_booted_before(model):
    boot(model)
    message = (
        "this model is in a bridge already, which has taken it apart; use that bridge, "
        "or boot"
    )
    with pytest.raises(sle.InvalidArgument, match=message):
        boot(model)


@pytest.mark.parametrize(
    "register",
    [
        "register_forward_hook",
        "register_forward_pre_hook",
        "register_full_backward_hook",
    ],
)
def test_rejects_a_model_with_hooks_on_its_taps(model, register):
    tap = model.model.layers[LINEAR].mixer.hook_pattern
    handle = getattr(tap, register)(lambda *_: None)
    message = (
        r"hooks on model\.layers\.1\.mixer\.hook_pattern, .*: remove the hooks, boot, "
        "and hook"
    )
    with pytest.raises(sle.InvalidArgument, match=message):
        boot(model)
    handle.remove()
    torch.testing.assert_close(boot(copy.deepcopy(model))(TOKENS), model(TOKENS).logits)


def test_boots_from_a_config_or_a_folder(model, tmp_path):
    assert boot(model.config).cfg.n_layers == 5
    model.float().save_pretrained(tmp_path)
    tiny.tokenizer().save_pretrained(tmp_path)
    booted = boot(tmp_path)
    assert torch.equal(booted.to_tokens("w1 w2"), torch.tensor([[2, 5, 6]]))
    by_lens = TransformerBridge.boot_transformers(str(tmp_path))
    assert torch.equal(booted("w1 w2"), by_lens("w1 w2"))
    torch.testing.assert_close(by_lens(TOKENS), model(TOKENS).logits)


@pytest.mark.usefixtures("without_shape_checks")
def test_rejects_what_cannot_be_booted():
    with pytest.raises(
        sle.InvalidArgument, match="boot takes a BasedConfig, .* of type int"
    ):
        boot(5)


def test_every_hook_point_has_its_name_and_shape(cache):
    shapes = {name: tuple(cache[name].shape) for name in SHAPES if name in cache}
    assert shapes == SHAPES


def test_every_hook_point_fires_when_it_alone_is_hooked(bridge):
    for name, shape in SHAPES.items():
        if name.endswith("hook_result"):
            bridge.set_use_attn_result(True)
        shapes = []

        def store(x, hook, shapes=shapes):
            shapes.append(tuple(x.shape))

        bridge.run_with_hooks(TOKENS, fwd_hooks=[(name, store)])
        assert shapes == [shape], name


def assert_last_position_can_be_sliced(bridge, *points):
    names = [f"blocks.{LINEAR}.attn.hook_{point}" for point in points]
    _, whole = bridge.run_with_cache(TOKENS, names_filter=names)
    _, last = bridge.run_with_cache(TOKENS, names_filter=names, pos_slice=-1)
    for name in names:
        axis = 2 if whole[name].shape[1:3] == (HEADS, POS) else 1
        torch.testing.assert_close(
            last[name].squeeze(axis), whole[name].select(axis, -1), msg=name
        )


def test_positions_can_be_sliced(bridge):
    assert_last_position_can_be_sliced(
        bridge, "pattern", "kernel", "attn_scores", "q", "z"
    )


@pytest.mark.skipif(
    not hasattr(HookPoint(), "pos_dim"),
    reason="TransformerLens 3 knows where positions are in its own points only",
)
def test_positions_of_states_can_be_sliced(bridge):
    assert_last_position_can_be_sliced(
        bridge, "state", "write", "state_norm", "phi_q", "denom"
    )


@pytest.mark.parametrize(
    "point",
    [
        "hook_pattern",
        "hook_kernel",
        "hook_phi_k",
        "hook_state",
        "hook_write",
        "hook_denom",
        "hook_q_pre",
    ],
)
def test_an_edit_acts_as_on_the_model_itself(model, bridge, point):
    def scale(x):
        return x * (1 + torch.arange(x.numel(), dtype=x.dtype).view(x.shape).sin())

    plain = model(TOKENS).logits
    tap = getattr(model.model.layers[LINEAR].mixer, point)
    handle = tap.register_forward_hook(lambda _, __, output: scale(output))
    expected = model(TOKENS).logits
    handle.remove()

    hook = (f"blocks.{LINEAR}.attn.{point}", lambda x, hook: scale(x))
    logits = bridge.run_with_hooks(TOKENS, fwd_hooks=[hook])
    assert torch.equal(logits, expected)
    assert (expected - plain).abs().max() > 1e-3
    assert torch.equal(bridge(TOKENS), plain)


def edited_z(bridge, point, replacement):
    """The weighted values of linear attention when an activation is replaced."""
    prefix = f"blocks.{LINEAR}.attn"
    outputs = []
    hooks = [
        (f"{prefix}.{point}", lambda _, hook: replacement),
        (f"{prefix}.hook_z", lambda x, hook: outputs.append(x)),
    ]
    bridge.run_with_hooks(TOKENS, fwd_hooks=hooks)
    return outputs[0]


def test_edits_change_the_output_by_the_formula(bridge, cache):
    prefix = f"blocks.{LINEAR}.attn"
    z = cache[f"{prefix}.hook_z"]
    v = cache[f"{prefix}.hook_v"]

    # With all weight on one key, every query reads the value of that key.
    one_key = torch.zeros_like(cache[f"{prefix}.hook_pattern"])
    one_key[..., 3] = 1
    value = v[:, 3]

    phi_q = cache[f"{prefix}.hook_phi_q"]
    silenced = cache[f"{prefix}.hook_phi_k"].clone()
    silenced[:, :5] = 0
    weights = torch.einsum("bqhf,bkhf->bhqk", phi_q, silenced).tril()
    pattern = weights / (weights.sum(-1, keepdim=True) + 1e-12)

    state = cache[f"{prefix}.hook_state"]
    norm = cache[f"{prefix}.hook_state_norm"]
    expected = {
        "hook_pattern": (one_key, value[:, None].expand(-1, POS, -1, -1)),
        # A state twice as large over the same denominator is twice the output.
        "hook_state": (2 * state, 2 * z),
        "hook_state_norm": (4 * norm, z / 4),
        "hook_phi_k": (silenced, torch.einsum("bhqk,bkhd->bqhd", pattern, v)),
    }
    for point, (replacement, expected_z) in expected.items():
        torch.testing.assert_close(
            edited_z(bridge, point, replacement),
            expected_z,
            rtol=1e-9,
            atol=1e-9,
            msg=lambda text, point=point: f"{point}: {text}",
        )


def test_an_edit_between_mixer_and_mlp_reaches_the_stream(bridge, cache):
    outputs = []
    hooks = [
        ("blocks.1.hook_resid_mid", lambda x, hook: torch.zeros_like(x)),
        ("blocks.1.hook_resid_post", lambda x, hook: outputs.append(x)),
    ]
    bridge.run_with_hooks(TOKENS, fwd_hooks=hooks)
    torch.testing.assert_close(outputs[0], torch.zeros_like(outputs[0]))
    torch.testing.assert_close(
        cache["resid_mid", 1] + cache["mlp_out", 1], cache["resid_post", 1]
    )


def test_backward_hooks_see_gradients(bridge):
    bridge.train(False)
    gradients = []
    hook = (
        f"blocks.{LINEAR}.attn.hook_pattern",
        lambda gradient, hook: gradients.append(gradient),
    )
    with bridge.hooks(bwd_hooks=[hook]):
        bridge(TOKENS, return_type="loss").backward()
    assert gradients[0].shape == (BATCH, HEADS, POS, POS)
    assert gradients[0].abs().sum() > 0


@pytest.mark.parametrize("rows", [1, 2])
def test_gradients_are_cached(bridge, rows):
    _, cache = bridge.run_with_cache(
        tiny.tokens(rows, POS), incl_bwd=True, return_type="loss"
    )
    assert cache[f"blocks.{LINEAR}.attn.hook_pattern_grad"].abs().sum() > 0


def test_effective_attention_is_the_pattern(bridge, cache):
    assert cache.ssm_layers() == [1, 4]
    pattern = cache[f"blocks.{LINEAR}.attn.hook_pattern"]
    torch.testing.assert_close(
        cache.compute_ssm_effective_attention(layer=LINEAR), pattern
    )
    by_layer = cache.compute_ssm_effective_attention()
    shapes = {layer: tuple(patterns.shape) for layer, patterns in by_layer.items()}
    assert shapes == {1: (BATCH, HEADS, POS, POS), 4: (BATCH, HEADS, POS, POS)}

    names = [f"blocks.{LINEAR}.attn.hook_{point}" for point in ("q", "k")]
    _, queries_and_keys = bridge.run_with_cache(TOKENS, names_filter=names)
    torch.testing.assert_close(
        queries_and_keys.compute_ssm_effective_attention(layer=LINEAR), pattern
    )

    _, neither = bridge.run_with_cache(TOKENS, names_filter="hook_embed")
    message = (
        "the cache has neither blocks.1.attn.hook_pattern nor blocks.1.attn.hook_q and"
    )
    with pytest.raises(sle.InvalidArgument, match=message):
        neither.compute_ssm_effective_attention(layer=LINEAR)


@pytest.mark.parametrize(
    ("layer", "queries"), [(LINEAR, "hook_q_pre"), (WINDOW, "hook_q")]
)
def test_weights_of_heads_are_laid_out_as_in_transformer_lens(
    bridge, cache, layer, queries
):
    attn = bridge.blocks[layer].attn
    prefix = f"blocks.{layer}.attn"
    x = cache[f"blocks.{layer}.ln1.hook_out"]
    torch.testing.assert_close(
        torch.einsum("btd,hde->bthe", x, attn.W_Q), cache[f"{prefix}.{queries}"]
    )
    torch.testing.assert_close(
        torch.einsum("btd,hde->bthe", x, attn.W_V), cache[f"{prefix}.hook_v"]
    )
    z = cache[f"{prefix}.hook_z"]
    torch.testing.assert_close(
        torch.einsum("bthe,hed->btd", z, attn.W_O),
        cache[f"blocks.{layer}.hook_attn_out"],
    )


def test_other_weights_are_laid_out_as_in_transformer_lens(bridge, cache):
    mlp = bridge.blocks[0].mlp
    torch.testing.assert_close(
        cache["blocks.0.mlp.hook_post"] @ mlp.W_out, cache["blocks.0.hook_mlp_out"]
    )
    torch.testing.assert_close(
        cache["blocks.0.ln2.hook_out"] @ mlp.W_gate, cache["blocks.0.mlp.hook_pre"]
    )
    assert bridge.OV.shape == (4, HEADS, D_MODEL, D_MODEL)
    assert bridge.W_E.shape == (len(tiny.WORDS), D_MODEL)
    torch.testing.assert_close(bridge.accumulated_bias(1), bridge.blocks[0].attn.b_O)


@pytest.mark.parametrize(
    ("use_past_kv_cache", "lengths"),
    [(True, [POS, 1, 1, 1, 1, 1]), (False, list(range(POS, POS + 6)))],
)
def test_generation_is_the_model_s_with_hooks_at_every_token(
    model, bridge, use_past_kv_cache, lengths
):
    expected = model.generate(
        TOKENS, max_new_tokens=6, do_sample=False, eos_token_id=None
    )
    hooked_lengths = []
    hook = (
        f"blocks.{LINEAR}.attn.hook_state",
        lambda x, hook: hooked_lengths.append(x.shape[1]),
    )
    with bridge.hooks(fwd_hooks=[hook]):
        text = bridge.generate(
            TOKENS,
            use_past_kv_cache=use_past_kv_cache,
            max_new_tokens=6,
            do_sample=False,
            stop_at_eos=False,
            verbose=False,
            return_type="tokens",
        )
    assert torch.equal(text, expected)
    assert hooked_lengths == lengths


@pytest.mark.parametrize("norm", ["rms", "layer"])
@pytest.mark.parametrize("process", ["compatibility", "weights"])
@pytest.mark.filterwarnings("ignore:BasedArchitectureAdapter does not support")
def test_direct_logit_attribution_sums_to_the_logits_once_processed(norm, process):
    """The gain and the bias of the last norm are then in the unembedding."""
    model = tiny.based(norm=norm)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name:
                parameter.uniform_(0.2, 3.0)
    bridge = boot(copy.deepcopy(model))
    if process == "compatibility":
        bridge.enable_compatibility_mode(disable_warnings=True)
    else:
        bridge.process_weights(
            fold_ln=True, center_writing_weights=False, center_unembed=False
        )

    answers = torch.tensor([7, 9])
    with torch.no_grad():
        logits, cache = bridge.run_with_cache(TOKENS)
        expected = model(TOKENS).logits
    parts = cache.decompose_resid(pos_slice=-1)
    attributions = cache.logit_attrs(
        parts, tokens=answers, pos_slice=-1, has_batch_dim=True
    )
    answered = logits[torch.arange(BATCH), -1, answers] - bridge.b_U[answers]
    torch.testing.assert_close(attributions.sum(0), answered)

    # TransformerLens processes in float32, and may add a constant to the logits.
    shift = logits - expected
    shift = shift - shift.mean(-1, keepdim=True)
    assert shift.abs().max() < 1e-3 * expected.abs().max()
    assert torch.equal(bridge.W_E, model.get_input_embeddings().weight)


@pytest.mark.filterwarnings("ignore:BasedArchitectureAdapter does not support")
def test_nothing_is_folded_unless_asked_for():
    model = tiny.based()
    with torch.no_grad():
        model.model.norm.weight.uniform_(0.2, 3.0)
    gain = model.model.norm.weight.detach().clone()
    bridge = boot(model)
    bridge.process_weights(
        fold_ln=False, center_writing_weights=False, center_unembed=False
    )
    torch.testing.assert_close(
        bridge.ln_final.original_component.weight.detach(), gain, check_dtype=False
    )


def test_parameters_can_be_listed_and_texts_can_be_longer_than_the_context():
    bridge = boot(tiny.based(max_position_embeddings=None))
    assert bridge.cfg.n_ctx == 2048
    assert bridge.get_params()["pos_embed.W_pos"].shape[0] == 2048
    assert len(list(bridge.tl_named_parameters())) == len(bridge.tl_parameters())
    tokens = tiny.tokens(1, 2100)
    with torch.no_grad():
        assert bridge(tokens).shape[:2] == (1, 2100)
