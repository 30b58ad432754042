"""Published Based and ReBased models, small and random, and what they compute: slow, one thing after the other, in plain torch.

Nothing here knows the models of this package. The names and shapes of the weights, and the mathematics, are those of HazyResearch/based,
HazyResearch/zoology, corl-team/rebased and fla-org/flash-linear-attention.
"""

import math

import torch
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
"""As ``hazyresearch/based-*``: convolutions at layers 0 and 3, linear attention at 1 and 4, a window of 3 tokens back at 2."""

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
"""Four heads in 22 dimensions: each value has 5, and two are left over, as in the published models 64 does not divide by 12."""

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


def hub_shapes(config, norms=()):
    """Names and shapes of a model on the hub; ``norms`` are the two of ReBased, as they are called."""
    d, inner, heads = config["n_embd"], config["n_inner"], config["n_head"]
    features = heads * config["alt_mixer"]["feature_dim"]
    rows = (
        math.ceil(config["vocab_size"] / config["pad_vocab_size_multiple"])
        * config["pad_vocab_size_multiple"]
    )
    found = {
        "transformer.embeddings.word_embeddings.weight": [rows, d],
        "transformer.ln_f.weight": [d],
        "lm_head.weight": [rows, d],
    }
    for i in range(config["n_layer"]):
        layer, mixer = f"transformer.layers.{i}.", f"transformer.layers.{i}.mixer."
        found |= {layer + "norm1.weight": [d], layer + "norm2.weight": [d]}
        found |= {
            layer + "mlp.fc1.weight": [2 * inner, d],
            layer + "mlp.fc2.weight": [d, inner],
        }
        if i in config["alt_mixer_layers"]:
            found |= {
                mixer + "proj_q.weight": [features, d],
                mixer + "proj_k.weight": [features, d],
            }
            found |= {
                mixer + "proj_v.weight": [d // heads * heads, d],
                mixer + "out_proj.weight": [d, d // heads * heads],
            }
            found |= {
                f"{mixer}{norm}.{leaf}": [features]
                for norm in norms
                for leaf in ("weight", "bias")
            }
        elif i in config["alt_mixer_2_layers"]:
            found |= {
                mixer + "Wqkv.weight": [3 * d, d],
                mixer + "out_proj.weight": [d, d],
            }
        else:
            found |= {
                mixer + "in_proj.weight": [4 * d, d],
                mixer + "in_proj.bias": [4 * d],
            }
            found |= {mixer + "conv.conv.weight": [2 * d, 1, 3]}
            found |= {
                mixer + "out_proj.weight": [d, 2 * d],
                mixer + "out_proj.bias": [d],
            }
    return found


def zoology_shapes(config, norms=()):
    d, attention = (
        config["d_model"],
        config["sequence_mixer"]["kwargs"]["configs"][1]["kwargs"],
    )
    features, values = (
        attention["num_heads"] * attention["feature_dim"],
        d // attention["num_heads"] * attention["num_heads"],
    )
    found = {
        "backbone.embeddings.word_embeddings.weight": [config["vocab_size"], d],
        "backbone.embeddings.position_embeddings.weight": [
            config["max_position_embeddings"],
            d,
        ],
        "backbone.layers.0.sequence_mixer.mixer.projection.weight": [d, d],
        "backbone.layers.0.sequence_mixer.mixer.projection.bias": [d],
        "backbone.layers.0.sequence_mixer.mixer.conv.conv.weight": [d, 1, 3],
        "backbone.layers.0.sequence_mixer.mixer.conv.conv.bias": [d],
        "backbone.layers.1.sequence_mixer.mixer.proj_q.weight": [features, d],
        "backbone.layers.1.sequence_mixer.mixer.proj_k.weight": [features, d],
        "backbone.layers.1.sequence_mixer.mixer.proj_v.weight": [values, d],
        "backbone.layers.1.sequence_mixer.mixer.proj_o.weight": [d, values],
        "lm_head.weight": [config["vocab_size"], d],
    }
    for norm in (
        "layers.0.norm1",
        "layers.0.norm2",
        "layers.1.norm1",
        "layers.1.norm2",
        "ln_f",
    ):
        found |= {f"backbone.{norm}.weight": [d], f"backbone.{norm}.bias": [d]}
    return found | {
        f"backbone.layers.1.sequence_mixer.mixer.{norm}.{leaf}": [features]
        for norm in norms
        for leaf in ("weight", "bias")
    }


def fla_shapes(config, norms=True):
    d, inner, heads = (
        config["hidden_size"],
        config["intermediate_size"],
        config["num_heads"],
    )
    found = {
        "model.embeddings.weight": [config["vocab_size"], d],
        "model.norm.weight": [d],
        "lm_head.weight": [config["vocab_size"], d],
    }
    for i in range(config["num_hidden_layers"]):
        layer, is_linear = f"model.layers.{i}.", i not in config["attn"]["layers"]
        width = heads * config["feature_dim"] if is_linear else d
        found |= {layer + "attn_norm.weight": [d], layer + "mlp_norm.weight": [d]}
        found |= {
            layer + "mlp.gate_proj.weight": [inner, d],
            layer + "mlp.up_proj.weight": [inner, d],
        }
        found |= {layer + "mlp.down_proj.weight": [d, inner]}
        found |= {
            layer + "attn.q_proj.weight": [width, d],
            layer + "attn.k_proj.weight": [width, d],
        }
        found |= {
            layer + "attn.v_proj.weight": [d, d],
            layer + "attn.o_proj.weight": [d, d],
        }
        if is_linear and norms:
            found |= {
                layer + "attn.feature_map.gamma": [config["feature_dim"]],
                layer + "attn.feature_map.beta": [config["feature_dim"]],
            }
    return found


def random_weights(shapes, seed=0):
    """Nothing zero, norms near one, float64; the head is the embedding where its name is that of a tied one."""
    generator = torch.Generator().manual_seed(seed)
    found = {}
    for name, shape in shapes.items():
        tensor = torch.randn(shape, generator=generator, dtype=torch.float64)
        is_scale = len(shape) == 1 and name.endswith((".weight", ".gamma"))
        found[name] = (
            1 + 0.3 * tensor
            if is_scale
            else tensor * (0.3 if len(shape) == 1 else shape[-1] ** -0.5)
        )
    for embedding in (
        "transformer.embeddings.word_embeddings.weight",
        "backbone.embeddings.word_embeddings.weight",
    ):
        if embedding in found:
            found["lm_head.weight"] = found[embedding].clone()
    return found


# What the models compute, for one sequence: x is [pos, width].


def rms_norm(x, weight, eps):
    return x / torch.sqrt((x * x).mean(-1, keepdim=True) + eps) * weight


def taylor_features(x):
    d = len(x)
    return torch.cat(
        [
            x.new_ones(1),
            x / d**0.25,
            torch.outer(x, x).flatten() / (math.sqrt(2) * math.sqrt(d)),
        ]
    )


def square_features(x):
    return torch.outer(x, x).flatten() / math.sqrt(len(x))


def linear_attention(q, k, v, heads, features, eps):
    """A sum of features times values, and one of features, that every token adds to before it reads."""
    out = torch.zeros(len(q), v.shape[1], dtype=q.dtype)
    width = v.shape[1] // heads
    for head, (q_h, k_h) in enumerate(
        zip(q.chunk(heads, dim=1), k.chunk(heads, dim=1), strict=True)
    ):
        columns = slice(head * width, (head + 1) * width)
        state, total = 0, 0
        for t in range(len(q)):
            state = state + torch.outer(features(k_h[t]), v[t, columns])
            total = total + features(k_h[t])
            out[t, columns] = (
                features(q_h[t]) @ state / (features(q_h[t]) @ total + eps)
            )
    return out


def rotate(x, position, base=10000.0):
    """Halves of a head are the parts of complex numbers."""
    half = len(x) // 2
    angles = position * base ** (-torch.arange(half, dtype=x.dtype) / half)
    turned = torch.complex(x[:half], x[half:]) * torch.polar(
        torch.ones_like(angles), angles
    )
    return torch.cat([turned.real, turned.imag])


def window_attention(q, k, v, heads, back):
    out = torch.zeros_like(q)
    width = q.shape[1] // heads
    for head in range(heads):
        columns = slice(head * width, (head + 1) * width)
        keys = torch.stack([rotate(k[t, columns], t) for t in range(len(q))])
        for t in range(len(q)):
            seen = range(max(0, t - back), t + 1)
            scores = keys[list(seen)] @ rotate(q[t, columns], t) / math.sqrt(width)
            out[t, columns] = softmax(scores, 0) @ v[list(seen), columns]
    return out


def causal_convolution(x, weight, bias=0.0):
    """[pos, channels] with weight [channels, 1, 3]: the last tap is the token itself."""
    out = torch.zeros_like(x)
    for t in range(len(x)):
        for tap in range(3):
            if t - 2 + tap >= 0:
                out[t] = out[t] + x[t - 2 + tap] * weight[:, 0, tap]
    return out + bias


def hub_logits(w, config, tokens, norms=()):
    heads, back, eps = (
        config["n_head"],
        config["alt_mixer_2"]["window_size"] // 2,
        config["layer_norm_epsilon"],
    )
    x = w["transformer.embeddings.word_embeddings.weight"][tokens]
    for i in range(config["n_layer"]):
        layer, mixer = f"transformer.layers.{i}.", f"transformer.layers.{i}.mixer."
        u = rms_norm(x, w[layer + "norm1.weight"], eps)
        if i in config["alt_mixer_layers"]:
            q, k, v = (
                u @ w[mixer + name + ".weight"].T
                for name in ("proj_q", "proj_k", "proj_v")
            )
            if norms:
                q, k = (
                    layer_norm(
                        y, y.shape[-1:], w[f"{mixer}{n}.weight"], w[f"{mixer}{n}.bias"]
                    )
                    for y, n in zip((q, k), norms, strict=True)
                )
            mixed = linear_attention(
                q, k, v, heads, square_features if norms else taylor_features, 1e-12
            )
            x = x + mixed @ w[mixer + "out_proj.weight"].T
        elif i in config["alt_mixer_2_layers"]:
            q, k, v = (u @ w[mixer + "Wqkv.weight"].T).chunk(3, dim=-1)
            x = (
                x
                + window_attention(q, k, v, heads, back)
                @ w[mixer + "out_proj.weight"].T
            )
        else:
            u1, u2 = (
                u @ w[mixer + "in_proj.weight"].T + w[mixer + "in_proj.bias"]
            ).chunk(2, dim=-1)
            mixed = silu(causal_convolution(u1, w[mixer + "conv.conv.weight"])) * u2
            x = x + mixed @ w[mixer + "out_proj.weight"].T + w[mixer + "out_proj.bias"]
        y, gate = (
            rms_norm(x, w[layer + "norm2.weight"], eps) @ w[layer + "mlp.fc1.weight"].T
        ).chunk(2, dim=-1)
        x = x + (silu(gate) * y) @ w[layer + "mlp.fc2.weight"].T
    return (
        rms_norm(x, w["transformer.ln_f.weight"], eps)
        @ w["transformer.embeddings.word_embeddings.weight"].T
    )


def zoology_logits(w, config, tokens, norms=()):
    def norm(x, name):
        return layer_norm(x, x.shape[-1:], w[f"{name}.weight"], w[f"{name}.bias"])

    embedding, heads = (
        w["backbone.embeddings.word_embeddings.weight"],
        config["sequence_mixer"]["kwargs"]["configs"][1]["kwargs"]["num_heads"],
    )
    conv, attention = (
        "backbone.layers.0.sequence_mixer.mixer.",
        "backbone.layers.1.sequence_mixer.mixer.",
    )
    r0 = (
        embedding[tokens]
        + w["backbone.embeddings.position_embeddings.weight"][: len(tokens)]
    )
    u = norm(r0, "backbone.layers.0.norm1")
    convolved = causal_convolution(
        u, w[conv + "conv.conv.weight"], w[conv + "conv.conv.bias"]
    )
    r1 = (
        r0
        + convolved
        * (u @ w[conv + "projection.weight"].T + w[conv + "projection.bias"])
        + u
    )
    r2 = r1 + norm(r1, "backbone.layers.0.norm2")
    u = norm(r2, "backbone.layers.1.norm1")
    q, k, v = (
        u @ w[attention + name + ".weight"].T for name in ("proj_q", "proj_k", "proj_v")
    )
    if norms:
        q, k = (
            norm(y, attention + name) for y, name in zip((q, k), norms, strict=True)
        )
    mixed = linear_attention(
        q, k, v, heads, square_features if norms else taylor_features, 1e-12
    )
    r3 = r2 + mixed @ w[attention + "proj_o.weight"].T
    r4 = r3 + norm(r3, "backbone.layers.1.norm2")
    return norm(r4, "backbone.ln_f") @ embedding.T


def fla_logits(w, config, tokens, norms=True):
    heads, eps, x = (
        config["num_heads"],
        config["norm_eps"],
        w["model.embeddings.weight"][tokens],
    )
    for i in range(config["num_hidden_layers"]):
        layer, attn = f"model.layers.{i}.", f"model.layers.{i}.attn."
        u = rms_norm(x, w[layer + "attn_norm.weight"], eps)
        q, k, v = (u @ w[f"{attn}{name}_proj.weight"].T for name in "qkv")
        if i in config["attn"]["layers"]:
            mixed = window_attention(q, k, v, heads, config["attn"]["window_size"] - 1)
        elif norms:
            gamma, beta = w[attn + "feature_map.gamma"], w[attn + "feature_map.beta"]
            # One norm of each head's queries and keys.
            q, k = (
                torch.cat(
                    [
                        layer_norm(one, gamma.shape, gamma, beta)
                        for one in y.chunk(heads, -1)
                    ],
                    -1,
                )
                for y in (q, k)
            )
            mixed = linear_attention(q, k, v, heads, square_features, 1e-5)
        else:
            mixed = linear_attention(q, k, v, heads, taylor_features, 1e-6)
        x = x + mixed @ w[attn + "o_proj.weight"].T
        u = rms_norm(x, w[layer + "mlp_norm.weight"], eps)
        gated = silu(u @ w[layer + "mlp.gate_proj.weight"].T) * (
            u @ w[layer + "mlp.up_proj.weight"].T
        )
        x = x + gated @ w[layer + "mlp.down_proj.weight"].T
    return rms_norm(x, w["model.norm.weight"], eps) @ w["lm_head.weight"].T


PARAMETERS = {
    "based-360m": 362_620_928,
    "based-1.3b": 1_349_453_056,
    "based-small": 147_542_016,
    "rebased-small": 147_542_016 + 6_912,
    "attention-small": 151_880_448,
    "rebased-360m": 362_620_928 + 5_120,
}
"""How many parameters each published model has."""
