"""Based and ReBased in TransformerLens, 4 and 3.9, and in nnsight: hooks, caches, edits, generation, splices."""

import copy

import nnsight
import pytest
import tiny
import torch
from transformer_lens import patching
from transformer_lens.hook_points import HookPoint
from transformer_lens.model_bridge import TransformerBridge

import sae_lens_ext as sle
from sae_lens_ext.based import boot

POS = 11
LINEAR, WINDOW = 1, 2
B, T, H, D, FEATURES, D_HEAD, D_MODEL = 2, POS, 3, 4, 10, 8, 24

NAMES = {
    "hook_embed": (B, T, D_MODEL),
    **{
        f"blocks.{i}.hook_{point}": (B, T, D_MODEL)
        for i in range(5)
        for point in ("resid_pre", "resid_mid", "resid_post")
    },
    **{
        f"blocks.{i}.hook_{part}_out": (B, T, D_MODEL)
        for i in range(5)
        for part in ("attn", "mlp")
    },
    **{
        f"blocks.{i}.{norm}.hook_scale": (B, T, 1)
        for i in range(5)
        for norm in ("ln1", "ln2")
    },
    **{
        f"blocks.{i}.{norm}.hook_normalized": (B, T, D_MODEL)
        for i in range(5)
        for norm in ("ln1", "ln2")
    },
    **{
        f"blocks.{i}.mlp.hook_{point}": (B, T, 48)
        for i in range(5)
        for point in ("pre", "pre_linear", "post")
    },
    **{
        f"blocks.0.attn.hook_{point}": (B, T, 48)
        for point in ("conv_in", "gate", "conv_out", "conv_prod")
    },
    "blocks.0.attn.hook_conv_taps": (B, T, 3, 48),
    **{
        f"blocks.1.attn.hook_{point}": (B, T, H, D)
        for point in ("q_pre", "k_pre", "q", "k")
    },
    "blocks.1.attn.ln_q.hook_scale": (B, T, 1),
    "blocks.1.attn.ln_k.hook_scale": (B, T, 1),
    "blocks.1.attn.ln_q.hook_normalized": (B, T, H * D),
    "blocks.1.attn.hook_v": (B, T, H, D_HEAD),
    **{
        f"blocks.1.attn.hook_{point}": (B, T, H, FEATURES)
        for point in ("phi_q", "phi_k", "state_norm")
    },
    **{
        f"blocks.1.attn.hook_{point}": (B, H, T, T)
        for point in ("attn_scores", "kernel", "pattern")
    },
    "blocks.1.attn.hook_denom": (B, T, H),
    **{
        f"blocks.1.attn.hook_{point}": (B, T, H, FEATURES, D_HEAD)
        for point in ("write", "state")
    },
    **{f"blocks.{i}.attn.hook_z": (B, T, H, D_HEAD) for i in (1, 2, 3, 4)},
    **{f"blocks.{i}.attn.hook_result": (B, T, H, D_MODEL) for i in range(5)},
    **{
        f"blocks.2.attn.hook_{point}": (B, T, H, D_HEAD)
        for point in ("q", "k", "v", "rot_q", "rot_k")
    },
    **{
        f"blocks.2.attn.hook_{point}": (B, H, T, T)
        for point in ("attn_scores", "pattern")
    },
    "ln_final.hook_scale": (B, T, 1),
    "ln_final.hook_normalized": (B, T, D_MODEL),
}


def ids():
    return tiny.tokens(B, POS)


@pytest.fixture
def model():
    made = tiny.based()
    # A trained one has biases.
    torch.nn.init.normal_(made.model.layers[0].mixer.out_proj.bias)
    return made


@pytest.fixture
def bridge(model):
    return boot(copy.deepcopy(model))


@pytest.fixture
def cached(bridge):
    with torch.no_grad():
        return bridge, *bridge.run_with_cache(ids())


def test_it_computes_what_the_model_does(model, bridge):
    assert isinstance(bridge, TransformerBridge)
    assert torch.equal(bridge(ids()), model(ids()).logits)
    loss = bridge(ids(), return_type="loss")
    torch.testing.assert_close(loss, model(ids(), labels=ids()).loss)


def test_a_model_is_booted_once(model):
    boot(model)
    with pytest.raises(
        sle.InvalidArgument,
        match="this model is in a bridge already, which has taken it apart; use that bridge, or boot",
    ):
        boot(model)


@pytest.mark.parametrize(
    "register",
    [
        "register_forward_hook",
        "register_forward_pre_hook",
        "register_full_backward_hook",
    ],
)
def test_hooks_on_taps_are_not_dropped_without_a_word(model, register):
    handle = getattr(model.model.layers[LINEAR].mixer.hook_pattern, register)(
        lambda *_: None
    )
    with pytest.raises(
        sle.InvalidArgument,
        match=r"hooks on model\.layers\.1\.mixer\.hook_pattern, .*: remove the hooks, boot, and hook",
    ):
        boot(model)
    handle.remove()
    torch.testing.assert_close(boot(copy.deepcopy(model))(ids()), model(ids()).logits)


def test_a_config_or_a_folder_is_enough(model, tmp_path):
    assert boot(model.config).cfg.n_layers == 5
    model.float().save_pretrained(tmp_path)
    tiny.tokenizer().save_pretrained(tmp_path)
    found = boot(tmp_path)
    assert torch.equal(found.to_tokens("w1 w2"), torch.tensor([[2, 5, 6]]))
    theirs = TransformerBridge.boot_transformers(str(tmp_path))
    assert torch.equal(found("w1 w2"), theirs("w1 w2"))
    torch.testing.assert_close(theirs(ids()), model(ids()).logits)


def test_every_name_is_there_with_its_shape(cached):
    _, _, cache = cached
    found = {name: tuple(cache[name].shape) for name in NAMES if name in cache}
    assert found == NAMES


def test_every_point_fires_when_it_alone_is_hooked(bridge):
    for name, shape in NAMES.items():
        if name.endswith("hook_result"):
            bridge.set_use_attn_result(True)
        seen = []
        bridge.run_with_hooks(
            ids(),
            fwd_hooks=[(name, lambda x, hook, seen=seen: seen.append(tuple(x.shape)))],
        )
        assert seen == [shape], name


def sliced(bridge, *points):
    names = [f"blocks.{LINEAR}.attn.hook_{point}" for point in points]
    _, whole = bridge.run_with_cache(ids(), names_filter=names)
    _, last = bridge.run_with_cache(ids(), names_filter=names, pos_slice=-1)
    for name in names:
        axis = 2 if whole[name].shape[1:3] == (H, T) else 1
        torch.testing.assert_close(
            last[name].squeeze(axis), whole[name].select(axis, -1), msg=name
        )


def test_positions_can_be_sliced(bridge):
    sliced(bridge, "pattern", "kernel", "attn_scores", "q", "z")


@pytest.mark.skipif(
    not hasattr(HookPoint(), "pos_dim"),
    reason="TransformerLens 3 knows where positions are in its own points only",
)
def test_positions_of_states_can_be_sliced(bridge):
    sliced(bridge, "state", "write", "state_norm", "phi_q", "denom")


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
def test_an_edit_does_what_it_does_to_the_model_itself(model, bridge, point):
    def louder(x):
        return x * (1 + torch.arange(x.numel(), dtype=x.dtype).view(x.shape).sin())

    handle = getattr(model.model.layers[LINEAR].mixer, point).register_forward_hook(
        lambda _, __, output: louder(output)
    )
    wanted = model(ids()).logits
    handle.remove()
    found = bridge.run_with_hooks(
        ids(), fwd_hooks=[(f"blocks.{LINEAR}.attn.{point}", lambda x, hook: louder(x))]
    )
    assert torch.equal(found, wanted)
    assert (wanted - model(ids()).logits).abs().max() > 1e-3
    assert torch.equal(bridge(ids()), model(ids()).logits)


def test_a_pattern_a_state_and_features_change_the_output_as_the_mathematics_says(
    cached,
):
    bridge, _, cache = cached
    prefix = f"blocks.{LINEAR}.attn"
    # One key alone: its value is what every later head reads.
    one_key = torch.zeros_like(cache[f"{prefix}.hook_pattern"])
    one_key[..., 3] = 1
    value = cache[f"{prefix}.hook_v"][:, 3]
    state, norm = cache[f"{prefix}.hook_state"], cache[f"{prefix}.hook_state_norm"]
    phi_q, phi_k = cache[f"{prefix}.hook_phi_q"], cache[f"{prefix}.hook_phi_k"]
    silenced = phi_k.clone()
    silenced[:, :5] = 0
    kernel = torch.einsum("bqhf,bkhf->bhqk", phi_q, silenced).tril()
    expected = {
        "hook_pattern": (one_key, value[:, None].expand(-1, T, -1, -1)),
        # A state twice as large, and the same normaliser: twice the output.
        "hook_state": (2 * state, 2 * cache[f"{prefix}.hook_z"]),
        "hook_state_norm": (4 * norm, cache[f"{prefix}.hook_z"] / 4),
        "hook_phi_k": (
            silenced,
            torch.einsum(
                "bhqk,bkhd->bqhd",
                kernel / (kernel.sum(-1, keepdim=True) + 1e-12),
                cache[f"{prefix}.hook_v"],
            ),
        ),
    }
    for point, (changed, z) in expected.items():
        seen = {}
        hooks = [
            (f"{prefix}.{point}", lambda _, hook, changed=changed: changed),
            (f"{prefix}.hook_z", lambda x, hook, seen=seen: seen.update(z=x)),
        ]
        bridge.run_with_hooks(ids(), fwd_hooks=hooks)
        torch.testing.assert_close(
            seen["z"],
            z,
            rtol=1e-9,
            atol=1e-9,
            msg=lambda text, point=point: f"{point}: {text}",
        )


def test_an_edit_of_the_stream_between_attention_and_mlp_reaches_the_stream(cached):
    bridge, _, cache = cached
    seen = {}
    hooks = [
        ("blocks.1.hook_resid_mid", lambda x, hook: torch.zeros_like(x)),
        ("blocks.1.hook_resid_post", lambda x, hook: seen.update(post=x)),
    ]
    bridge.run_with_hooks(ids(), fwd_hooks=hooks)
    torch.testing.assert_close(seen["post"], torch.zeros_like(seen["post"]))
    torch.testing.assert_close(
        cache["resid_mid", 1] + cache["mlp_out", 1], cache["resid_post", 1]
    )


@pytest.mark.parametrize("layer", ["linear_attention", "full_attention"])
def test_a_model_of_the_synthetic_task_is_taken_apart_too(layer):
    options = {
        "conv_form": "base",
        "mlp": "identity",
        "norm": "layer",
        "use_rope": False,
        "max_position_embeddings": 16,
    }
    model = tiny.based(num_hidden_layers=2, layer_types=["conv", layer], **options)
    bridge = boot(copy.deepcopy(model))
    logits, cache = bridge.run_with_cache(ids())
    torch.testing.assert_close(logits, model(ids()).logits)
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
    found = cache.logit_attrs(
        cache.decompose_resid(pos_slice=-1), tokens=torch.tensor([7, 9]), pos_slice=-1
    )
    torch.testing.assert_close(found.sum(0), logits[torch.arange(B), -1, [7, 9]])
    assert bridge.pos_embed.W_pos.shape == (16, D_MODEL)


def test_gradients_are_seen_by_backward_hooks(bridge):
    bridge.train(False)
    seen = {}
    with bridge.hooks(
        bwd_hooks=[
            (
                f"blocks.{LINEAR}.attn.hook_pattern",
                lambda grad, hook: seen.update(grad=grad),
            )
        ]
    ):
        bridge(ids(), return_type="loss").backward()
    assert seen["grad"].shape == (B, H, T, T)
    assert seen["grad"].abs().sum() > 0


@pytest.mark.parametrize("rows", [1, 2])
def test_gradients_are_cached(bridge, rows):
    _, cache = bridge.run_with_cache(
        tiny.tokens(rows, POS), incl_bwd=True, return_type="loss"
    )
    assert cache[f"blocks.{LINEAR}.attn.hook_pattern_grad"].abs().sum() > 0


def test_the_residual_stream_is_taken_apart(cached):
    bridge, _, cache = cached
    parts, labels = cache.decompose_resid(return_labels=True)
    assert labels == [
        "embed",
        *(f"{i}_{part}_out" for i in range(5) for part in ("attn", "mlp")),
    ]
    torch.testing.assert_close(parts.sum(0), cache["resid_post", 4])
    accumulated, labels = cache.accumulated_resid(incl_mid=True, return_labels=True)
    assert len(labels) == 11
    torch.testing.assert_close(accumulated[3], cache["resid_mid", 1])
    heads, labels = cache.stack_head_results(return_labels=True)
    assert labels == [f"L{layer}H{head}" for layer in range(5) for head in range(H)]
    bias = bridge.blocks[0].attn.b_O
    torch.testing.assert_close(
        heads.sum(0) + bias, sum(cache["attn_out", layer] for layer in range(5))
    )
    # A convolution has no heads: head 0 is all of it.
    torch.testing.assert_close(heads[0] + bias, cache["attn_out", 0])
    everything = cache.get_full_resid_decomposition(expand_neurons=False)
    torch.testing.assert_close(everything.sum(0), cache["resid_post", 4])
    neurons = cache.stack_neuron_results(layer=-1)
    torch.testing.assert_close(
        neurons.sum(0), sum(cache["mlp_out", layer] for layer in range(5))
    )


def test_direct_attributions_make_up_the_logits(cached):
    _, logits, cache = cached
    answers = torch.tensor([7, 9])
    found = cache.logit_attrs(
        cache.decompose_resid(pos_slice=-1),
        tokens=answers,
        pos_slice=-1,
        has_batch_dim=True,
    )
    torch.testing.assert_close(found.sum(0), logits[torch.arange(B), -1, answers])


def test_effective_attention_is_the_pattern(cached):
    bridge, _, cache = cached
    assert cache.ssm_layers() == [1, 4]
    names = [f"blocks.{LINEAR}.attn.hook_{point}" for point in ("q", "k")]
    _, few = bridge.run_with_cache(ids(), names_filter=names)
    pattern = cache[f"blocks.{LINEAR}.attn.hook_pattern"]
    torch.testing.assert_close(
        few.compute_ssm_effective_attention(layer=LINEAR), pattern
    )
    torch.testing.assert_close(
        cache.compute_ssm_effective_attention(layer=LINEAR), pattern
    )
    assert {
        layer: tuple(found.shape)
        for layer, found in cache.compute_ssm_effective_attention().items()
    } == {
        1: (B, H, T, T),
        4: (B, H, T, T),
    }
    _, none = bridge.run_with_cache(ids(), names_filter="hook_embed")
    with pytest.raises(
        sle.InvalidArgument,
        match="the cache has neither blocks.1.attn.hook_pattern nor blocks.1.attn.hook_q and",
    ):
        none.compute_ssm_effective_attention(layer=LINEAR)


def test_weights_are_laid_out_as_in_transformer_lens(cached):
    bridge, _, cache = cached
    for layer in (LINEAR, WINDOW):
        attn, x = bridge.blocks[layer].attn, cache[f"blocks.{layer}.ln1.hook_out"]
        q = torch.einsum("btd,hde->bthe", x, attn.W_Q)
        torch.testing.assert_close(
            q,
            cache[
                f"blocks.{layer}.attn.{'hook_q_pre' if layer == LINEAR else 'hook_q'}"
            ],
        )
        torch.testing.assert_close(
            torch.einsum("btd,hde->bthe", x, attn.W_V),
            cache[f"blocks.{layer}.attn.hook_v"],
        )
        out = torch.einsum(
            "bthe,hed->btd", cache[f"blocks.{layer}.attn.hook_z"], attn.W_O
        )
        torch.testing.assert_close(out, cache[f"blocks.{layer}.hook_attn_out"])
    mlp = bridge.blocks[0].mlp
    torch.testing.assert_close(
        cache["blocks.0.mlp.hook_post"] @ mlp.W_out, cache["blocks.0.hook_mlp_out"]
    )
    torch.testing.assert_close(
        cache["blocks.0.ln2.hook_out"] @ mlp.W_gate, cache["blocks.0.mlp.hook_pre"]
    )
    assert bridge.OV.shape == (4, H, D_MODEL, D_MODEL)
    assert bridge.W_E.shape == (len(tiny.WORDS), D_MODEL)
    torch.testing.assert_close(bridge.accumulated_bias(1), bridge.blocks[0].attn.b_O)


def test_patching_with_transformer_lens_own_tools(bridge):
    clean, corrupted = ids(), ids()
    corrupted[:, 4] = (corrupted[:, 4] + 1) % 90
    clean_logits, cache = bridge.run_with_cache(clean)

    def distance(logits):
        return (logits[:, -1] - clean_logits[:, -1]).norm()

    patched = patching.get_act_patch_resid_pre(bridge, corrupted, cache, distance)
    assert patched.shape == (5, T)
    torch.testing.assert_close(
        patched[0, 4], torch.zeros_like(patched[0, 4]), rtol=0, atol=1e-6
    )
    assert patched[0, 5] > 1e-3


@pytest.mark.parametrize("use_past_kv_cache", [True, False])
def test_generation_is_that_of_the_model_and_hooks_fire_at_every_token(
    model, bridge, use_past_kv_cache
):
    wanted = model.generate(ids(), max_new_tokens=6, do_sample=False, eos_token_id=None)
    seen = []
    options = {
        "max_new_tokens": 6,
        "do_sample": False,
        "stop_at_eos": False,
        "verbose": False,
        "return_type": "tokens",
    }
    with bridge.hooks(
        fwd_hooks=[
            (
                f"blocks.{LINEAR}.attn.hook_state",
                lambda x, hook: seen.append(x.shape[1]),
            )
        ]
    ):
        found = bridge.generate(ids(), use_past_kv_cache=use_past_kv_cache, **options)
    assert torch.equal(found, wanted)
    assert seen == (
        [POS, 1, 1, 1, 1, 1] if use_past_kv_cache else list(range(POS, POS + 6))
    )


def test_processing_weights_leaves_the_probabilities(model, bridge):
    with pytest.warns(UserWarning, match="does not support"):
        bridge.enable_compatibility_mode()
    wanted = model(ids()).logits.log_softmax(-1)
    torch.testing.assert_close(
        bridge(ids()).log_softmax(-1), wanted, rtol=1e-5, atol=1e-5
    )


SITES = [
    "blocks.1.hook_resid_post",
    "blocks.0.hook_resid_mid",
    "blocks.1.hook_attn_out",
    "blocks.0.hook_mlp_out",
    "blocks.1.attn.hook_z",
]


@pytest.mark.parametrize("site", SITES)
def test_a_splice_and_a_sweep_are_the_same_on_every_host(model, site):
    sae = sle.SAE(sle.SAEConfig(d_model=D_MODEL, d_sae=48, k=8), dtype=torch.float64)
    hosts = {
        "torch": copy.deepcopy(model),
        "lens": boot(copy.deepcopy(model)),
        "nnsight": nnsight.NNsight(copy.deepcopy(model)),
    }
    logits, tables = {}, {}
    for name, host in hosts.items():
        with (
            torch.no_grad(),
            sle.splice(
                host, {site: sae}, k=4, positions="all", edits=[sle.Steer(3, by=2.0)]
            ),
        ):
            logits[name] = tiny.logits(host, ids())
        tables[name] = sle.sweep_k(host, ids(), {site: sae}, ks=[1, 8], progress=False)
    for name in ("lens", "nnsight"):
        torch.testing.assert_close(logits[name], logits["torch"])
        torch.testing.assert_close(
            torch.tensor(tables[name].values),
            torch.tensor(tables["torch"].values),
            equal_nan=True,
        )
    assert (logits["torch"] - model(ids()).logits).abs().max() > 1e-3


def test_the_mlps_copy_of_the_stream_is_refused(bridge):
    sae = sle.SAE(sle.SAEConfig(d_model=D_MODEL, d_sae=48, k=8))
    with (
        pytest.raises(sle.UnknownSite, match="it is only the MLP's copy"),
        sle.splice(bridge, {"blocks.1.ln2.hook_in": sae}),
    ):
        pass


def test_a_convolution_has_no_heads_to_splice(model):
    sae = sle.SAE(sle.SAEConfig(d_model=D_MODEL, d_sae=48, k=8))
    with (
        pytest.raises(
            sle.UnknownSite, match="the ShortConvolution of block 0 has no heads"
        ),
        sle.splice(model, {"blocks.0.attn.hook_z": sae}),
    ):
        pass


def test_nnsight_reads_and_edits_what_the_chosen_form_computes(model):
    plain = copy.deepcopy(model)
    model.set_attention_form("dense")
    traced = nnsight.NNsight(model)
    with traced.trace(ids()):
        pattern = traced.model.layers[LINEAR].mixer.hook_pattern.output.save()
        traced.model.layers[LINEAR].mixer.hook_pattern.output = pattern * 2
        doubled = traced.output.logits.save()
    torch.testing.assert_close(
        pattern.sum(-1), torch.ones(B, H, T, dtype=torch.float64)
    )
    plain.model.layers[LINEAR].mixer.hook_pattern.register_forward_hook(
        lambda _, __, output: output * 2
    )
    torch.testing.assert_close(doubled, plain(ids()).logits)
    model.set_attention_form("recurrent")
    with traced.trace(ids()):
        state = traced.model.layers[LINEAR].mixer.hook_state.output.save()
    assert state.shape == (B, T, H, FEATURES, D_HEAD)


def test_a_form_that_does_not_exist_is_refused(model, without_shape_checks):
    with pytest.raises(
        sle.InvalidArgument,
        match="form must be one of auto, dense, recurrent; got 'fast'",
    ):
        model.set_attention_form("fast")
