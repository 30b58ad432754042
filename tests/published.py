"""Published Based and ReBased models, small and random, and what they compute.

The computation is slow, one thing after the other, in plain torch. Nothing here knows
the models of this package: the names and shapes of the weights, and the mathematics,
are those of HazyResearch/based, HazyResearch/zoology, corl-team/rebased and
fla-org/flash-linear-attention.
"""

import copy
import json
import math

import torch
from safetensors.torch import save_file
from torch.nn.functional import layer_norm, silu, softmax

HUB_CONFIG = {
    "model_type": "gpt2",
    "architectures": "GPTLMHeadModel",  # as published: no list
    "_target_": "a.path.that.cannot.be.Imported",
    "n_embd": 24,
    "n_inner": 40,
    "n_head": 3,
    "n_layer": 5,
    "vocab_size": 45,
    "pad_vocab_size_multiple": 8,
    "n_positions": 0,
    "layer_norm_epsilon": 1e-5,
    "rms_norm": True,
    "residual_in_fp32": True,
    "activation_function": "swiglu",
    "rotary_emb_fraction": 1,
    "tie_word_embeddings": True,
    "mixer": {
        "_target_": "no.such.module.BaseConv",
        "expand_proj": 4,
        "kernel_sizes": 3,
        "use_bias": True,
        "l_max": 2048,
    },
    "alt_mixer": {
        "_target_": "no.such.module.LinearAttention",
        "feature_dim": 4,
        "num_heads": 3,
        "feature_map": {"_target_": "no.such.module.TaylorExp", "input_dim": 4},
    },
    "alt_mixer_layers": [1, 4],
    "alt_mixer_2": {
        "_target_": "no.such.module.SlidingAttention",
        "window_size": 6,
        "num_heads": 3,
    },
    "alt_mixer_2_layers": [2],
}
"""As ``hazyresearch/based-*``.

Convolutions at layers 0 and 3, linear attention at 1 and 4, a window of 3 tokens back
at 2.
"""

ZOOLOGY_CONFIG = {
    "d_model": 22,
    "n_layers": 2,
    "vocab_size": 48,
    "max_position_embeddings": 12,
    "sequence_mixer": {
        "name": "no.such.module.Hybrid",
        "kwargs": {
            "configs": [
                {
                    "name": "no.such.module.BaseConv",
                    "kwargs": {"l_max": 12, "kernel_size": 3},
                },
                {
                    "name": "no.such.module.Based",
                    "kwargs": {
                        "l_max": 12,
                        "feature_dim": 4,
                        "num_heads": 4,
                        "num_key_value_heads": 4,
                    },
                },
            ]
        },
    },
    "state_mixer": {"name": "torch.nn.Identity", "kwargs": {}},
}
"""Four heads in 22 dimensions: each value has 5, and two are left over.

In the published models, 64 does not divide by 12.
"""

FLA_CONFIG = {
    "model_type": "rebased",
    "hidden_size": 24,
    "num_hidden_layers": 3,
    "num_heads": 3,
    "feature_dim": 4,
    "intermediate_size": 40,
    "hidden_act": "swish",
    "vocab_size": 48,
    "norm_eps": 1e-6,
    "tie_word_embeddings": False,
    "attn": {
        "layers": [1],
        "num_heads": 3,
        "num_kv_heads": 3,
        "qkv_bias": False,
        "window_size": 4,
        "rope_theta": 10000.0,
    },
}

NORMS = ("ln_q", "ln_k")
"""The norms of ReBased, as corl-team/rebased names them."""

TOKENS = torch.tensor([3, 41, 7, 7, 0, 19, 3, 44, 20, 5, 11])
"""A text for the models above."""

PARAMETERS = {
    "based-360m": 362_620_928,
    "based-1.3b": 1_349_453_056,
    "based-small": 147_542_016,
    "rebased-small": 147_542_016 + 6_912,
    "attention-small": 151_880_448,
    "rebased-360m": 362_620_928 + 5_120,
}
"""How many parameters each published model has."""


# Files.


def with_changes(config, **changes):
    """A copy with other fields; a dict is merged into the one that is there."""
    changed = copy.deepcopy(config)
    for key, value in changes.items():
        if isinstance(value, dict) and isinstance(changed.get(key), dict):
            changed[key] = {**changed[key], **value}
        else:
            changed[key] = value
    return changed


def weights_of(layout, config, norms=()):
    """Random weights of a model in the layout "hub", "zoology" or "fla"."""
    shapes = {"hub": hub_shapes, "zoology": zoology_shapes, "fla": fla_shapes}
    return random_weights(shapes[layout](config, norms))


def logits_of(layout, weights, config, norms=()):
    """What such a model computes for ``TOKENS``."""
    logits = {"hub": hub_logits, "zoology": zoology_logits, "fla": fla_logits}
    return logits[layout](weights, config, TOKENS, norms)


def error_of(model, logits):
    """The largest difference between a model's logits for ``TOKENS`` and these."""
    return (model(TOKENS[None]).logits[0] - logits).abs().max().item()


def renamed(weights, old, new):
    """Weights with a part of their names replaced; at least one must have it."""
    assert any(old in name for name in weights)
    return {name.replace(old, new): tensor for name, tensor in weights.items()}


def write_folder(folder, weights, config=HUB_CONFIG):
    """Write a model as it is published; returns the folder."""
    folder.mkdir(exist_ok=True)
    save_file(weights, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config))
    return folder


# Names and shapes of weights.


def hub_shapes(config, norms=()):
    """Of a model on the hub; ``norms`` are the two of ReBased, as they are called."""
    d = config["n_embd"]
    inner = config["n_inner"]
    heads = config["n_head"]
    features = heads * config["alt_mixer"]["feature_dim"]
    multiple = config["pad_vocab_size_multiple"]
    rows = math.ceil(config["vocab_size"] / multiple) * multiple
    shapes = {
        "transformer.embeddings.word_embeddings.weight": [rows, d],
        "transformer.ln_f.weight": [d],
        "lm_head.weight": [rows, d],
    }
    for i in range(config["n_layer"]):
        layer = f"transformer.layers.{i}"
        mixer = f"{layer}.mixer"
        shapes |= {
            f"{layer}.norm1.weight": [d],
            f"{layer}.norm2.weight": [d],
            f"{layer}.mlp.fc1.weight": [2 * inner, d],
            f"{layer}.mlp.fc2.weight": [d, inner],
        }
        if i in config["alt_mixer_layers"]:
            shapes |= {
                f"{mixer}.proj_q.weight": [features, d],
                f"{mixer}.proj_k.weight": [features, d],
                f"{mixer}.proj_v.weight": [d // heads * heads, d],
                f"{mixer}.out_proj.weight": [d, d // heads * heads],
            }
            for norm in norms:
                shapes[f"{mixer}.{norm}.weight"] = [features]
                shapes[f"{mixer}.{norm}.bias"] = [features]
        elif i in config["alt_mixer_2_layers"]:
            shapes |= {
                f"{mixer}.Wqkv.weight": [3 * d, d],
                f"{mixer}.out_proj.weight": [d, d],
            }
        else:
            shapes |= {
                f"{mixer}.in_proj.weight": [4 * d, d],
                f"{mixer}.in_proj.bias": [4 * d],
                f"{mixer}.conv.conv.weight": [2 * d, 1, 3],
                f"{mixer}.out_proj.weight": [d, 2 * d],
                f"{mixer}.out_proj.bias": [d],
            }
    return shapes


def zoology_shapes(config, norms=()):
    """Of a model of zoology; ``norms`` are the two of ReBased, as they are called."""
    d = config["d_model"]
    vocab_size = config["vocab_size"]
    positions = config["max_position_embeddings"]
    attention = config["sequence_mixer"]["kwargs"]["configs"][1]["kwargs"]
    heads = attention["num_heads"]
    features = heads * attention["feature_dim"]
    values = d // heads * heads
    mixers = [f"backbone.layers.{layer}.sequence_mixer.mixer" for layer in (0, 1)]
    shapes = {
        "backbone.embeddings.word_embeddings.weight": [vocab_size, d],
        "backbone.embeddings.position_embeddings.weight": [positions, d],
        f"{mixers[0]}.projection.weight": [d, d],
        f"{mixers[0]}.projection.bias": [d],
        f"{mixers[0]}.conv.conv.weight": [d, 1, 3],
        f"{mixers[0]}.conv.conv.bias": [d],
        f"{mixers[1]}.proj_q.weight": [features, d],
        f"{mixers[1]}.proj_k.weight": [features, d],
        f"{mixers[1]}.proj_v.weight": [values, d],
        f"{mixers[1]}.proj_o.weight": [d, values],
        "lm_head.weight": [vocab_size, d],
    }
    for norm in (
        "layers.0.norm1",
        "layers.0.norm2",
        "layers.1.norm1",
        "layers.1.norm2",
        "ln_f",
    ):
        shapes |= {f"backbone.{norm}.weight": [d], f"backbone.{norm}.bias": [d]}
    for norm in norms:
        shapes[f"{mixers[1]}.{norm}.weight"] = [features]
        shapes[f"{mixers[1]}.{norm}.bias"] = [features]
    return shapes


def fla_shapes(config, norms=True):
    """Of a model of fla; ``norms`` is whether it is ReBased."""
    d = config["hidden_size"]
    inner = config["intermediate_size"]
    heads = config["num_heads"]
    shapes = {
        "model.embeddings.weight": [config["vocab_size"], d],
        "model.norm.weight": [d],
        "lm_head.weight": [config["vocab_size"], d],
    }
    for i in range(config["num_hidden_layers"]):
        layer = f"model.layers.{i}"
        is_linear = i not in config["attn"]["layers"]
        width = heads * config["feature_dim"] if is_linear else d
        shapes |= {
            f"{layer}.attn_norm.weight": [d],
            f"{layer}.mlp_norm.weight": [d],
            f"{layer}.mlp.gate_proj.weight": [inner, d],
            f"{layer}.mlp.up_proj.weight": [inner, d],
            f"{layer}.mlp.down_proj.weight": [d, inner],
            f"{layer}.attn.q_proj.weight": [width, d],
            f"{layer}.attn.k_proj.weight": [width, d],
            f"{layer}.attn.v_proj.weight": [d, d],
            f"{layer}.attn.o_proj.weight": [d, d],
        }
        if is_linear and norms:
            shapes |= {
                f"{layer}.attn.feature_map.gamma": [config["feature_dim"]],
                f"{layer}.attn.feature_map.beta": [config["feature_dim"]],
            }
    return shapes


def random_weights(shapes, seed=0):
    """Nothing zero, norms near one, float64.

    The head is the embedding where its name is that of a tied one.
    """
    generator = torch.Generator().manual_seed(seed)
    weights = {}
    for name, shape in shapes.items():
        tensor = torch.randn(shape, generator=generator, dtype=torch.float64)
        if len(shape) == 1 and name.endswith((".weight", ".gamma")):
            weights[name] = 1 + 0.3 * tensor
        elif len(shape) == 1:
            weights[name] = 0.3 * tensor
        else:
            weights[name] = tensor * shape[-1] ** -0.5

    for embedding in (
        "transformer.embeddings.word_embeddings.weight",
        "backbone.embeddings.word_embeddings.weight",
    ):
        if embedding in weights:
            weights["lm_head.weight"] = weights[embedding].clone()
    return weights


# What the models compute, for one sequence: x is [pos, width].


def rms_norm(x, weight, eps):
    return x / torch.sqrt((x * x).mean(-1, keepdim=True) + eps) * weight


def taylor_features(x):
    d = len(x)
    constant = x.new_ones(1)
    linear = x / d**0.25
    quadratic = torch.outer(x, x).flatten() / (math.sqrt(2) * math.sqrt(d))
    return torch.cat([constant, linear, quadratic])


def square_features(x):
    return torch.outer(x, x).flatten() / math.sqrt(len(x))


def linear_attention(q, k, v, heads, features, eps):
    """Attention as a recurrence.

    Every token adds to a sum of features times values, and to one of features, before
    it reads them.
    """
    out = torch.zeros(len(q), v.shape[1], dtype=q.dtype)
    width = v.shape[1] // heads
    q_heads = q.chunk(heads, dim=1)
    k_heads = k.chunk(heads, dim=1)
    for head in range(heads):
        columns = slice(head * width, (head + 1) * width)
        state = 0
        total = 0
        for t in range(len(q)):
            query = features(q_heads[head][t])
            key = features(k_heads[head][t])
            state = state + torch.outer(key, v[t, columns])
            total = total + key
            out[t, columns] = query @ state / (query @ total + eps)
    return out


def rotate(x, position, base=10000.0):
    """Halves of a head are the parts of complex numbers."""
    half = len(x) // 2
    angles = position * base ** (-torch.arange(half, dtype=x.dtype) / half)
    rotation = torch.polar(torch.ones_like(angles), angles)
    turned = torch.complex(x[:half], x[half:]) * rotation
    return torch.cat([turned.real, turned.imag])


def window_attention(q, k, v, heads, back):
    """Softmax attention over a token and ``back`` tokens before it."""
    out = torch.zeros_like(q)
    width = q.shape[1] // heads
    for head in range(heads):
        columns = slice(head * width, (head + 1) * width)
        keys = torch.stack([rotate(k[t, columns], t) for t in range(len(q))])
        for t in range(len(q)):
            visible = list(range(max(0, t - back), t + 1))
            scores = keys[visible] @ rotate(q[t, columns], t) / math.sqrt(width)
            out[t, columns] = softmax(scores, 0) @ v[visible, columns]
    return out


def causal_convolution(x, weight, bias=0.0):
    """[pos, channels], weight [channels, 1, 3]; the last tap is the token itself."""
    out = torch.zeros_like(x)
    for t in range(len(x)):
        for tap in range(3):
            if t - 2 + tap >= 0:
                out[t] = out[t] + x[t - 2 + tap] * weight[:, 0, tap]
    return out + bias


def hub_logits(w, config, tokens, norms=()):
    heads = config["n_head"]
    back = config["alt_mixer_2"]["window_size"] // 2
    eps = config["layer_norm_epsilon"]
    embedding = w["transformer.embeddings.word_embeddings.weight"]
    features = square_features if norms else taylor_features

    x = embedding[tokens]
    for i in range(config["n_layer"]):
        layer = f"transformer.layers.{i}"
        mixer = f"{layer}.mixer"
        u = rms_norm(x, w[f"{layer}.norm1.weight"], eps)
        if i in config["alt_mixer_layers"]:
            q = u @ w[f"{mixer}.proj_q.weight"].T
            k = u @ w[f"{mixer}.proj_k.weight"].T
            v = u @ w[f"{mixer}.proj_v.weight"].T
            if norms:
                q = _wide_norm(q, w, f"{mixer}.{norms[0]}")
                k = _wide_norm(k, w, f"{mixer}.{norms[1]}")
            mixed = linear_attention(q, k, v, heads, features, 1e-12)
            x = x + mixed @ w[f"{mixer}.out_proj.weight"].T
        elif i in config["alt_mixer_2_layers"]:
            q, k, v = (u @ w[f"{mixer}.Wqkv.weight"].T).chunk(3, dim=-1)
            mixed = window_attention(q, k, v, heads, back)
            x = x + mixed @ w[f"{mixer}.out_proj.weight"].T
        else:
            projected = u @ w[f"{mixer}.in_proj.weight"].T + w[f"{mixer}.in_proj.bias"]
            u1, u2 = projected.chunk(2, dim=-1)
            convolved = causal_convolution(u1, w[f"{mixer}.conv.conv.weight"])
            mixed = silu(convolved) * u2
            x = (
                x
                + mixed @ w[f"{mixer}.out_proj.weight"].T
                + w[f"{mixer}.out_proj.bias"]
            )
        u = rms_norm(x, w[f"{layer}.norm2.weight"], eps)
        y, gate = (u @ w[f"{layer}.mlp.fc1.weight"].T).chunk(2, dim=-1)
        x = x + (silu(gate) * y) @ w[f"{layer}.mlp.fc2.weight"].T
    return rms_norm(x, w["transformer.ln_f.weight"], eps) @ embedding.T


def zoology_logits(w, config, tokens, norms=()):
    attention = config["sequence_mixer"]["kwargs"]["configs"][1]["kwargs"]
    heads = attention["num_heads"]
    embedding = w["backbone.embeddings.word_embeddings.weight"]
    positions = w["backbone.embeddings.position_embeddings.weight"]
    features = square_features if norms else taylor_features

    x = embedding[tokens] + positions[: len(tokens)]
    mixer = "backbone.layers.0.sequence_mixer.mixer"
    u = _wide_norm(x, w, "backbone.layers.0.norm1")
    convolved = causal_convolution(
        u, w[f"{mixer}.conv.conv.weight"], w[f"{mixer}.conv.conv.bias"]
    )
    gate = u @ w[f"{mixer}.projection.weight"].T + w[f"{mixer}.projection.bias"]
    x = x + convolved * gate + u
    x = x + _wide_norm(x, w, "backbone.layers.0.norm2")

    mixer = "backbone.layers.1.sequence_mixer.mixer"
    u = _wide_norm(x, w, "backbone.layers.1.norm1")
    q = u @ w[f"{mixer}.proj_q.weight"].T
    k = u @ w[f"{mixer}.proj_k.weight"].T
    v = u @ w[f"{mixer}.proj_v.weight"].T
    if norms:
        q = _wide_norm(q, w, f"{mixer}.{norms[0]}")
        k = _wide_norm(k, w, f"{mixer}.{norms[1]}")
    mixed = linear_attention(q, k, v, heads, features, 1e-12)
    x = x + mixed @ w[f"{mixer}.proj_o.weight"].T
    x = x + _wide_norm(x, w, "backbone.layers.1.norm2")
    return _wide_norm(x, w, "backbone.ln_f") @ embedding.T


def fla_logits(w, config, tokens, norms=True):
    heads = config["num_heads"]
    eps = config["norm_eps"]
    back = config["attn"]["window_size"] - 1

    x = w["model.embeddings.weight"][tokens]
    for i in range(config["num_hidden_layers"]):
        layer = f"model.layers.{i}"
        attn = f"{layer}.attn"
        u = rms_norm(x, w[f"{layer}.attn_norm.weight"], eps)
        q = u @ w[f"{attn}.q_proj.weight"].T
        k = u @ w[f"{attn}.k_proj.weight"].T
        v = u @ w[f"{attn}.v_proj.weight"].T
        if i in config["attn"]["layers"]:
            mixed = window_attention(q, k, v, heads, back)
        elif norms:
            # One norm of each head's queries and keys.
            gamma = w[f"{attn}.feature_map.gamma"]
            beta = w[f"{attn}.feature_map.beta"]
            q = _norm_of_heads(q, heads, gamma, beta)
            k = _norm_of_heads(k, heads, gamma, beta)
            mixed = linear_attention(q, k, v, heads, square_features, 1e-5)
        else:
            mixed = linear_attention(q, k, v, heads, taylor_features, 1e-6)
        x = x + mixed @ w[f"{attn}.o_proj.weight"].T
        u = rms_norm(x, w[f"{layer}.mlp_norm.weight"], eps)
        gate = silu(u @ w[f"{layer}.mlp.gate_proj.weight"].T)
        gated = gate * (u @ w[f"{layer}.mlp.up_proj.weight"].T)
        x = x + gated @ w[f"{layer}.mlp.down_proj.weight"].T
    return rms_norm(x, w["model.norm.weight"], eps) @ w["lm_head.weight"].T


def _wide_norm(x, w, name):
    return layer_norm(x, x.shape[-1:], w[f"{name}.weight"], w[f"{name}.bias"])


def _norm_of_heads(x, heads, gamma, beta):
    parts = [layer_norm(part, gamma.shape, gamma, beta) for part in x.chunk(heads, -1)]
    return torch.cat(parts, -1)
