"""Memory of effects on a metric: against the bare backward pass, and for long prompts.

Of 512 tokens of Gemma 3 270M, effects at three sites of 16,384 features each, at every
k, against the gradient of the metric by the activation at the earliest of the sites.
And of a small model with Gemma 2's attention (windows, bounded scores), effects of
prompts of 1,500 to 6,000 tokens. Memory is what a process takes on top of the model and
the SAEs.
"""

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import torch
from transformers import Gemma2Config, Gemma2ForCausalLM

import sae_lens_ext as sle
from benchmarks.measure import Mismatch, megabytes, peak_extra_bytes
from sae_lens_ext.circuits.measurement import Measurement
from sae_lens_ext.circuits.prompts import Prompts
from sae_lens_ext.circuits.runs import gradient_run
from sae_lens_ext.hosts import host_for

BLOCKS = (5, 9, 13)
N_TOKENS = 512
D_SAE = 16_384
K = 64
LIMIT = 1.5
"""Of the memory of effects, by that of the bare backward pass."""
LENGTHS = (1500, 3000, 6000)
LINEAR = 1.15
"""Of the memory per token of a prompt, by that of one of half the length."""
SITE = f"blocks.{BLOCKS[0]}.hook_resid_post"
_D_LONG = 256
_LONG_SITE = "blocks.1.hook_resid_post"


def run() -> dict[str, Any]:
    """Print the table; returns its numbers.

    Raises:
        Mismatch: effects take more than their limit, or memory is not linear.
    """
    bare = peak_extra_bytes(prepare, "bare")
    effects = peak_extra_bytes(prepare, "effects")
    ratio = effects / bare
    print(
        f"{N_TOKENS} tokens of Gemma 3 270M, sites after blocks "
        f"{', '.join(map(str, BLOCKS))} with d_sae={D_SAE}: bare backward "
        f"{megabytes(bare)}, effects at every k {megabytes(effects)}, "
        f"ratio {ratio:.2f}",
        flush=True,
    )
    long = []
    for n_tokens in LENGTHS:
        n_bytes = peak_extra_bytes(prepare_long, n_tokens)
        long.append({"tokens": n_tokens, "bytes": n_bytes})
        print(
            f"{n_tokens:,} tokens of a small Gemma 2: {megabytes(n_bytes)}, "
            f"{n_bytes / n_tokens / 1e3:.0f} kB per token",
            flush=True,
        )

    if not ratio <= LIMIT:
        raise Mismatch(f"effects take {ratio:.2f} times the bare backward's memory")
    for shorter, longer in pairwise(long):
        growth = longer["bytes"] / longer["tokens"] * shorter["tokens"]
        if not growth <= LINEAR * shorter["bytes"]:
            raise Mismatch(f"memory is not linear in tokens: {long}")
    return {"bare_bytes": bare, "effects_bytes": effects, "ratio": ratio, "long": long}


def prepare(name: str) -> tuple[Callable[[], object], Callable[[], object]]:
    """The bare backward pass or effects, of few tokens to warm up and of all."""
    model = sle.load_bundled(progress=False)
    host = host_for(model)
    saes = [
        random_sae(f"blocks.{block}.hook_resid_post", model.cfg.d_model, D_SAE)
        for block in BLOCKS
    ]
    metric = sle.circuits.logit_difference(1000, 2000)

    def bare(tokens: torch.Tensor) -> object:
        prompts = Prompts.of(host, tokens, None)
        measurement = Measurement(host, metric, prompts)
        return gradient_run(host, prompts.clean, [host.site(SITE)], measurement)

    def effects(tokens: torch.Tensor) -> object:
        return sle.circuits.effects(model, saes, tokens, metric=metric)

    call = {"bare": bare, "effects": effects}[name]
    tokens = _tokens(host.d_vocab or 0, N_TOKENS)
    return (lambda: call(tokens[:, :8])), (lambda: call(tokens))


def prepare_long(n_tokens: int) -> tuple[Callable[[], object], Callable[[], object]]:
    """Effects in a small Gemma 2, of few tokens to warm up and of many."""
    config = Gemma2Config(
        vocab_size=1000,
        hidden_size=_D_LONG,
        intermediate_size=2 * _D_LONG,
        num_hidden_layers=4,
        num_attention_heads=8,
        num_key_value_heads=4,
        head_dim=32,
        query_pre_attn_scalar=32,
        max_position_embeddings=8192,
    )
    torch.manual_seed(0)
    # Bounded scores need eager attention.
    model = Gemma2ForCausalLM._from_config(config, attn_implementation="eager").eval()
    sae = random_sae(_LONG_SITE, _D_LONG, 8 * _D_LONG)
    metric = sle.circuits.logit_difference(100, 200)
    tokens = _tokens(config.vocab_size, n_tokens)

    def effects(tokens: torch.Tensor) -> object:
        return sle.circuits.effects(model, sae, tokens, metric=metric)

    return (lambda: effects(tokens[:, :8])), (lambda: effects(tokens))


def random_sae(site: str, d_model: int, d_sae: int) -> sle.SAE:
    """An untrained SAE."""
    config = sle.SAEConfig(d_model=d_model, d_sae=d_sae, k=K, hook_name=site)
    return sle.SAE(config, generator=torch.Generator().manual_seed(0)).eval()


def _tokens(d_vocab: int, n_tokens: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(10, d_vocab, (1, n_tokens), generator=generator)
