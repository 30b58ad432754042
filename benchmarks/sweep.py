"""A sweep over k against separate spliced runs, on Gemma 3 270M.

What running the blocks below the site once saves: with the site in the middle, eight
values of k cost half a model once and half a model eight times, 0.56 of eight whole
runs.
"""

import torch
from torch import Tensor

import sae_lens_ext as sle
from benchmarks.measure import Mismatch, ratio, side_by_side, typical
from benchmarks.splice import LENGTH, SITE, random_sae, some_tokens
from sae_lens_ext.hosts import capture, host_for, next_token_logits
from sae_lens_ext.interventions.sites import placements
from sae_lens_ext.interventions.sweep import Spliced, SweptModel, rows_that_fit

KS = [1, 2, 4, 8, 12, 16, 24, 32]
SCORED = torch.arange(0, LENGTH - 1, 8)


def run() -> dict[str, float]:
    """Print the table; returns its numbers."""
    model = sle.load_bundled(progress=False)
    host = host_for(model)
    site = host.site(SITE)
    tokens = some_tokens(host.d_vocab or 0)

    with torch.no_grad():
        x = capture(host, tokens, [site])[site]
        sae = random_sae(x.shape[-1], x)
        masks = {SITE: torch.ones_like(tokens, dtype=torch.bool)}

        def bare() -> Tensor:
            return next_token_logits(host, tokens, SCORED)

        def separately() -> list[Tensor]:
            logits = []
            for k in KS:
                with sle.splice(model, sae, k=k):
                    logits.append(bare())
            return logits

        def at_once() -> list[Tensor]:
            swept = SweptModel(
                host,
                tokens,
                placements(host, {SITE: sae}),
                masks,
                batch_size=len(tokens),
                ks=KS,
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

        def whole_sweep() -> object:
            return sle.sweep_k(model, tokens, sae, KS, score=SCORED, progress=False)

        for ours, plain in zip(at_once(), separately(), strict=True):
            if not (ours - plain).abs().max() < 1e-3:
                raise Mismatch(
                    "the sweep's logits are not those of separate runs; not timed"
                )

        calls = {
            "separately": separately,
            "at_once": at_once,
            "whole_sweep": whole_sweep,
            "bare": bare,
        }
        times = side_by_side(calls, rounds=5)

    seconds = {name: typical(times, name) for name in times}
    at_once_ratio = ratio(times, "at_once", "separately")
    sweep_ratio = typical(
        times, lambda row: row["whole_sweep"] / (row["separately"] + 3 * row["bare"])
    )
    print(
        f"{len(KS)} values of k at {SITE} of Gemma 3 270M, {len(tokens)}x{LENGTH} "
        f"tokens, {len(SCORED)} positions scored, float32; medians"
    )
    _print_line("eight separate spliced runs", seconds["separately"])
    _print_line(
        "the same, blocks below the site once",
        seconds["at_once"],
        f"{at_once_ratio:.3f}",
    )
    _print_line(
        "eleven separate runs: the three ends too",
        seconds["separately"] + 3 * seconds["bare"],
        "(eight as above and three bare ones)",
    )
    _print_line(
        "sweep_k: ends, FVU, L0, KL and all",
        seconds["whole_sweep"],
        f"{sweep_ratio:.3f}",
    )
    return {**seconds, "ratio": at_once_ratio, "sweep_ratio": sweep_ratio}


def _print_line(name: str, seconds: float, rest: str = "") -> None:
    print(f"{name:>48} {seconds:7.2f} s   {rest}".rstrip())
