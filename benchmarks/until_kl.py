"""What ``until_kl`` saves and what it costs, on Gemma 3 270M with the demo's SAE.

Saves: its mean k on held-out text against the constant k at which the same tokens have
the same mean KL, which lies between two whole k. Costs: generating with it against
generating with the bare model.
"""

import itertools

import torch
from torch import Tensor

import sae_lens_ext as sle
from benchmarks.measure import Mismatch, ratio, side_by_side, typical
from sae_lens_ext.demo.sae import DEMO_SITE, demo_sae, held_out_tokens
from sae_lens_ext.hosts import host_for
from sae_lens_ext.interventions import Splice

BOUNDS = (0.05, 0.2, 0.5)
_ROWS = 4
_PROMPT = 16
_NEW = 48


def run() -> dict[str, float]:
    """Print the table; returns its numbers."""
    model = sle.load_bundled(progress=False)
    sae = demo_sae(model)
    tokens = held_out_tokens(model.tokenizer, n_rows=_ROWS)
    results: dict[str, float] = {}

    with torch.no_grad(), sle.splice(model, sae) as spliced:
        print(
            f"until_kl at {DEMO_SITE} of Gemma 3 270M, {_ROWS} rows of "
            f"{tokens.shape[1]} held-out tokens, k up to {sae.config.k}"
        )
        constant = _constant_kls(model, spliced, tokens)
        for bound in BOUNDS:
            spliced.k = sle.until_kl(bound)
            model(tokens)
            chosen = spliced.chosen
            same = same_kl_k(constant, chosen.mean_kl)
            met = chosen.is_met[chosen.ks > 0].float().mean().item()
            print(
                f"{bound:>8}: mean k {chosen.mean_k:6.2f} at mean KL "
                f"{chosen.mean_kl:.4f}; constant k {same:6.2f}; "
                f"ratio {chosen.mean_k / same:.3f}; within the bound {met:.3f}"
            )
            results |= {
                f"mean_k_{bound}": chosen.mean_k,
                f"mean_kl_{bound}": chosen.mean_kl,
                f"constant_k_{bound}": same,
                f"within_{bound}": met,
            }
    return results | _overhead(model, sae, tokens[:1, :_PROMPT])


def _constant_kls(model: object, spliced: Splice, tokens: Tensor) -> list[float]:
    """The mean KL of the spliced tokens at every constant k, from k=1."""
    (sae,) = spliced.saes.values()
    host = host_for(model)
    spliced.k = sle.until_kl(float("inf"), ks=[1])
    host.logits(tokens)
    is_spliced = spliced.chosen.ks > 0
    spliced.detach()
    bare = host.logits(tokens)[is_spliced].float().log_softmax(-1)
    spliced.attach()

    kls = []
    for k in range(1, sae.config.k + 1):
        spliced.k = k
        own = host.logits(tokens)[is_spliced].float().log_softmax(-1)
        kl = torch.linalg.vecdot(bare.exp(), bare - own)
        kls.append(kl.double().mean().item())
    return kls


def same_kl_k(constant: list[float], kl: float) -> float:
    """The constant k of a mean KL, between two whole k on the line through both.

    >>> same_kl_k([1.0, 0.5, 0.1], 0.3)
    2.5

    Args:
        constant: the mean KL at every k, from k=1.
        kl: the mean KL to have.

    Raises:
        Mismatch: no constant k up to the largest has so small a mean KL.
    """
    if kl >= constant[0]:
        return 1.0
    for k, (above, below) in enumerate(itertools.pairwise(constant), start=1):
        if below <= kl:
            return k + (above - kl) / (above - below)
    raise Mismatch("until_kl has a smaller mean KL than any constant k; not compared")


def _overhead(model: object, sae: sle.SAE, prompt: Tensor) -> dict[str, float]:
    """Times of generating, and how often that of the bare model they are."""

    def generate() -> Tensor:
        return model.generate(
            prompt,
            max_new_tokens=_NEW,
            do_sample=False,
            stop_at_eos=False,
            return_type="tokens",
            verbose=False,
        )

    def guarded() -> Tensor:
        with sle.splice(model, sae, sle.until_kl(BOUNDS[0])):
            return generate()

    def constant() -> Tensor:
        with sle.splice(model, sae):
            return generate()

    # The same number of tokens, however they differ.
    if guarded().shape != generate().shape:
        raise Mismatch("a generation is shorter than the other; not timed")
    calls = {"bare": generate, "constant": constant, "guarded": guarded}
    times = side_by_side(calls, rounds=5)
    overhead = ratio(times, "guarded", "bare")
    constant_overhead = ratio(times, "constant", "bare")
    print(
        f"generating {_NEW} tokens after {_PROMPT}: bare {typical(times, 'bare'):.2f} "
        f"s, a constant k {constant_overhead:.2f} times that, until_kl {overhead:.2f}"
    )
    return {
        "bare_s": typical(times, "bare"),
        "constant_overhead": constant_overhead,
        "guarded_overhead": overhead,
    }
