"""A sweep over k against separate spliced runs, on Gemma 3 270M.

Running the blocks below the site once saves half: with the site in the middle, eight
values of k cost half a model once and half a model eight times, 0.56 of eight runs.
"""

import torch

import sae_lens_ext as sle
from benchmarks.measure import Mismatch, side_by_side, typical
from benchmarks.splice import LENGTH, SITE, random_sae, some_tokens
from sae_lens_ext.hosts import capture, host_for, next_token_logits
from sae_lens_ext.interventions.sweep import Spliced, SweptModel, rows_that_fit

KS = [1, 2, 4, 8, 12, 16, 24, 32]
SCORED = torch.arange(0, LENGTH - 1, 8)


def run() -> dict[str, float]:
    """Print the table; returns its numbers."""
    model = sle.load_bundled(progress=False)
    host = host_for(model)
    site, tokens = host.site(SITE), some_tokens(host.d_vocab or 0)
    with torch.no_grad():
        x = capture(host, tokens, [site])[site]
        sae = random_sae(x.shape[-1], x)
        masks = {SITE: torch.ones_like(tokens, dtype=torch.bool)}

        def separately() -> list[torch.Tensor]:
            logits = []
            for k in KS:
                with sle.splice(model, sae, k=k):
                    logits.append(next_token_logits(host, tokens, SCORED))
            return logits

        def at_once() -> list[torch.Tensor]:
            swept = SweptModel(
                host,
                tokens,
                {SITE: site},
                {SITE: sae},
                masks,
                batch_size=len(tokens),
                k=max(KS),
                extrapolate=False,
            )
            # As many values of k as rows of one batch as sweep_k would take.
            n = max(1, rows_that_fit(host, SCORED, memory_mb=256) // len(tokens))
            worlds = [Spliced(k) for k in KS]
            groups = [worlds[start : start + n] for start in range(0, len(worlds), n)]
            return [
                logits
                for group in groups
                for logits in swept.logits(slice(None), group, SCORED)
            ]

        for ours, plain in zip(at_once(), separately(), strict=True):
            if not (ours - plain).abs().max() < 1e-3:
                raise Mismatch(
                    "the sweep's logits are not those of separate runs; not timed"
                )

        def whole_sweep() -> object:
            return sle.sweep_k(model, tokens, sae, KS, score=SCORED, progress=False)

        def bare() -> torch.Tensor:
            return next_token_logits(host, tokens, SCORED)

        calls = {
            "separately": separately,
            "at_once": at_once,
            "whole_sweep": whole_sweep,
            "bare": bare,
        }
        times = side_by_side(calls, rounds=5)
    seconds = {
        name: typical(times, lambda round_s, name=name: round_s[name]) for name in times
    }
    ratio = typical(times, lambda round_s: round_s["at_once"] / round_s["separately"])
    with_ends = seconds["separately"] + 3 * seconds["bare"]
    sweep_ratio = typical(
        times,
        lambda round_s: (
            round_s["whole_sweep"] / (round_s["separately"] + 3 * round_s["bare"])
        ),
    )
    print(
        f"{len(KS)} values of k at {SITE} of Gemma 3 270M, {len(tokens)}x{LENGTH} "
        f"tokens, {len(SCORED)} positions scored, float32; medians"
    )
    print(f"{'eight separate spliced runs':>48} {seconds['separately']:7.2f} s")
    print(
        f"{'the same, blocks below the site once':>48} "
        f"{seconds['at_once']:7.2f} s   {ratio:.3f}"
    )
    print(
        f"{'eleven separate runs: the three ends too':>48} "
        f"{with_ends:7.2f} s   (eight as above and three bare ones)"
    )
    print(
        f"{'sweep_k: ends, FVU, L0, KL and all':>48} "
        f"{seconds['whole_sweep']:7.2f} s   {sweep_ratio:.3f}"
    )
    return {**seconds, "ratio": ratio, "sweep_ratio": sweep_ratio}
