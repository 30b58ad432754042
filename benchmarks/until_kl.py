"""What ``until_kl`` saves and what it costs, on Gemma 3 270M with the demo's SAE.

Saves: its mean k on held-out text against the constant k at which the same tokens have
the same mean KL, which lies between two whole k. Costs: generating with it, by
``Splice.generate`` and by the model's own function, against generating with the bare
model, in processor time of one thread.

The text is from ``python -m benchmarks corpus``.
"""

import time
from bisect import bisect_left
from collections.abc import Callable, Sequence
from functools import cache

import torch
from torch import Tensor

import sae_lens_ext as sle
from benchmarks.corpus.texts import beginnings, corpus_texts
from benchmarks.measure import Mismatch, ratio, side_by_side, typical
from sae_lens_ext.demo import DEMO_SITE
from sae_lens_ext.hosts import Host, host_for
from sae_lens_ext.interventions import ChosenK, Splice

BOUNDS = (0.05, 0.2, 0.5)
_TEXT = "fortunes"
_ROWS = 6
_LENGTH = 48
_PROMPT = 8
_NEW = 16
# In the place of the default, and with the reference twice as many rows.
_POWERS = (1, 2, 4, 8, 16, 32, 64)
_FINE = (1, 3, 6, 9, 12, 16, 20, 25, 30, 35, 40, 46, 52, 58, 64)


def run() -> dict[str, float | None]:
    """Print the table; returns its numbers."""
    torch.set_num_threads(1)
    model = sle.load_bundled(progress=False)
    sae = sle.demo_sae(model)
    tokens = beginnings(corpus_texts(_TEXT), model.tokenizer, _ROWS)[:, :_LENGTH]
    results: dict[str, float | None] = {}
    results |= _overhead(model, sae, tokens[:1, :_PROMPT])

    with torch.no_grad(), sle.splice(model, sae) as spliced:
        print(
            f"until_kl at {DEMO_SITE} of Gemma 3 270M, {_ROWS} rows of {_LENGTH} "
            f"held-out tokens, k up to {sae.config.k}"
        )
        rules = {f"{bound}": sle.until_kl(bound) for bound in BOUNDS}
        for bound in BOUNDS[:2]:
            rules[f"{bound}_powers"] = sle.until_kl(bound, ks=_POWERS)
            rules[f"{bound}_fine"] = sle.until_kl(bound, ks=_FINE)
        kl_at = None
        for name, rule in rules.items():
            spliced.k = rule
            model(tokens)
            chosen = spliced.chosen
            if kl_at is None:
                kl_at = _kl_of_constant_k(host_for(model), spliced, tokens, chosen)
            results |= _saved(name, chosen, kl_at, sae.config.trained_k)
    return results


def _saved(
    name: str, chosen: ChosenK, kl_at: Callable[[int], float], largest: int
) -> dict[str, float | None]:
    """Print what a bound has chosen beside a constant k, and return the numbers."""
    same = same_kl_k(kl_at, chosen.mean_kl, largest)
    met = chosen.is_met[chosen.ks > 0].float().mean().item()
    beside = f"no constant k up to {largest} has so small a one"
    if same is not None:
        beside = f"constant k {same:6.2f}; ratio {chosen.mean_k / same:.3f}"
    print(
        f"{name:>11}: mean k {chosen.mean_k:6.2f} at mean KL {chosen.mean_kl:.4f}; "
        f"{beside}; within the bound {met:.3f}",
        flush=True,
    )
    return {
        f"mean_k_{name}": chosen.mean_k,
        f"mean_kl_{name}": chosen.mean_kl,
        f"constant_k_{name}": same,
        f"within_{name}": met,
    }


def _kl_of_constant_k(
    host: Host, spliced: Splice, tokens: Tensor, chosen: ChosenK
) -> Callable[[int], float]:
    """The mean KL of the spliced tokens as a function of a constant k."""
    # Rows are whole texts without padding, so positions are columns.
    is_spliced = chosen.ks > 0
    spliced.detach()
    bare = [host.logits(row.unsqueeze(0))[0] for row in tokens]
    spliced.attach()

    @cache
    def kl_at(k: int) -> float:
        before = spliced.k
        spliced.k = k
        kls = []
        for row, reference, mask in zip(tokens, bare, is_spliced, strict=True):
            own = host.logits(row.unsqueeze(0))[0, mask].float().log_softmax(-1)
            log_probs = reference[mask].float().log_softmax(-1)
            kls.append(torch.linalg.vecdot(log_probs.exp(), log_probs - own))
        spliced.k = before
        return torch.cat(kls).double().mean().item()

    return kl_at


def same_kl_k(kl_at: Callable[[int], float], kl: float, largest: int) -> float | None:
    """The constant k of a mean KL, between two whole k on the line through both.

    None where no k up to the largest has so small a mean KL.

    >>> same_kl_k({1: 1.0, 2: 0.5, 3: 0.1}.__getitem__, 0.3, 3)
    2.5

    Args:
        kl_at: the mean KL at a k, which falls where k rises.
        kl: the mean KL to have.
        largest: the largest k.
    """
    ks = range(1, largest + 1)
    index = bisect_left(ks, -kl, key=lambda k: -kl_at(k))
    if index == len(ks):
        return None
    if index == 0:
        return 1.0
    k = ks[index - 1]
    above = kl_at(k)
    below = kl_at(k + 1)
    return k + (above - kl) / (above - below)


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

    new = slice(_PROMPT, None)

    def by_the_model() -> Tensor:
        rule = sle.until_kl(BOUNDS[0])
        with sle.splice(model, sae, rule, positions=new):
            return generate()

    def by_the_splice(ks: Sequence[int] | None = None) -> Tensor:
        rule = sle.until_kl(BOUNDS[0], ks=ks)
        return sle.splice(model, sae, rule, positions=new).generate(prompt, _NEW)

    def constant() -> Tensor:
        with sle.splice(model, sae):
            return generate()

    if not torch.equal(by_the_model(), by_the_splice()):
        raise Mismatch("the two ways to generate give different tokens; not timed")
    if generate().shape != by_the_splice().shape:
        raise Mismatch("a generation is shorter than the other; not timed")
    calls = {
        "bare": generate,
        "constant": constant,
        "splice": by_the_splice,
        "splice_fine": lambda: by_the_splice(_FINE),
        "model": by_the_model,
    }
    times = side_by_side(calls, rounds=2, clock=time.process_time)
    print(f"generating {_NEW} tokens after {_PROMPT}: {typical(times, 'bare'):.2f} s")
    results = {"bare_s": typical(times, "bare")}
    for name in list(calls)[1:]:
        results[f"{name}_overhead"] = ratio(times, name, "bare")
        print(f"{name:>15}: {results[f'{name}_overhead']:.2f} times that", flush=True)
    return results
