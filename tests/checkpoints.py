"""What a checkpoint computes, slowly and step by step in float32.

The twin that defines what an SAE with these tensors must do: normalise the token,
encode, choose the active features, decode, add the skip connection, scale back.
"""

import json
from pathlib import Path

import torch
from safetensors.torch import load_file

FIXTURES = Path(__file__).parent / "formats" / "fixtures"


def cases():
    """The cases that other libraries made: maker, name, folder and subfolder."""
    listing = json.loads((FIXTURES / "cases.json").read_text())
    return [
        (maker, case["case"], FIXTURES / case["folder"], case["subfolder"])
        for maker in listing
        for case in listing[maker]["cases"]
    ]


def expected(maker, case):
    """Inputs, reconstructions and activations of a case, as its library has them."""
    tensors = load_file(FIXTURES / "expected" / f"{maker}.safetensors")
    return tuple(tensors[f"{case}/{name}"] for name in ("x", "recons", "acts"))


def normalized(checkpoint, x):
    """The token as it is encoded, and what brings a reconstruction back."""
    if checkpoint.token_norm == "layer_norm":
        mean = x.mean(-1, keepdim=True)
        std = (x - mean).std(-1, keepdim=True)
        return (x - mean) / (std + 1e-5), std, mean
    if checkpoint.token_norm == "unit_norm":
        scale = x.norm(dim=-1, keepdim=True) / checkpoint.d_model**0.5
        return x / scale, scale, torch.zeros(1)
    return x, torch.ones(1), torch.zeros(1)


def encoded(checkpoint, x):
    """The activation of every feature ``[batch, d_sae]``."""
    weights = {name: tensor.float() for name, tensor in checkpoint.tensors.items()}
    u, _, _ = normalized(checkpoint, x.float())
    if checkpoint.apply_b_dec_to_input:
        u = u - weights["b_dec"]
    pre = u @ weights["W_enc"] + weights["b_enc"]

    acts = pre.relu()
    if checkpoint.kind in ("jumprelu", "batchtopk"):
        acts = acts * (pre > weights["threshold"])
    if checkpoint.kind == "topk":
        values, indices = pre.topk(checkpoint.k)
        acts = torch.zeros_like(pre).scatter(-1, indices, values.relu())
    return acts


def reconstructed(checkpoint, x):
    """What the SAE or transcoder makes of ``x``, ``[batch, d_out]``."""
    weights = {name: tensor.float() for name, tensor in checkpoint.tensors.items()}
    _, scale, mean = normalized(checkpoint, x.float())
    recons = encoded(checkpoint, x) @ weights["W_dec"] + weights["b_dec"]
    recons = recons * scale + mean
    if "W_skip" in weights:
        recons = recons + x.float() @ weights["W_skip"]
    return recons
