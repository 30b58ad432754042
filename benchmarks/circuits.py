"""Effects at 64 values of k against effects at one, on Gemma 3 270M.

Every k comes from one backward pass, so all of them should cost what one does. And what
integrated gradients miss of the change that they share out (``completeness``).
"""

from collections.abc import Mapping
from typing import Any

import torch

import sae_lens_ext as sle
from benchmarks import completeness
from benchmarks.measure import Mismatch, ratio, side_by_side, typical
from benchmarks.splice import LENGTH, SITE, some_tokens
from sae_lens_ext.hosts import capture, host_for

K = 64
D_SAE = 4096
ROWS = 1
# Where the table is compared with that of a pass of its own.
CHECKED = (1, 7, 32, 64)
# The largest difference of an effect from that of a pass of its own, in logits.
_TOLERANCE = 1e-6


def run() -> dict[str, Any]:
    """Print the table; returns its numbers."""
    model = sle.load_bundled(progress=False)
    host = host_for(model)
    tokens = some_tokens(host.d_vocab or 0)[:ROWS]
    with torch.no_grad():
        site = host.site(SITE)
        x = capture(host, tokens, [site])[site]
    sae = centred_sae(x)
    metric = sle.circuits.logit_difference(1000, 2000)

    def effects(k: int = K) -> Any:
        return sle.circuits.effects(model, sae, tokens, metric=metric, k=k)

    def every_k() -> Any:
        return effects().by_k()

    def one_k() -> Any:
        return effects().at(K)

    refuse_differences(every_k(), {k: effects(k).at(k) for k in CHECKED})
    times = side_by_side({"one_k": one_k, "every_k": every_k}, rounds=15)
    seconds = {name: typical(times, name) for name in times}
    every_over_one = ratio(times, "every_k", "one_k")
    print(
        f"effects of every feature and error at {SITE} of Gemma 3 270M, "
        f"{ROWS}x{LENGTH} tokens, d_sae={D_SAE}, float32; medians"
    )
    _print_line(f"k={K}", seconds["one_k"])
    _print_line(
        f"k=1 to {K}, from the same pass",
        seconds["every_k"],
        f"{every_over_one:.3f} of one",
    )
    gaps = completeness.rows(model)
    return {**seconds, "every_over_one": every_over_one, "completeness": gaps}


def centred_sae(x: torch.Tensor) -> sle.SAE:
    """A random SAE that has K features for every one of these activations."""
    config = sle.SAEConfig(d_model=x.shape[-1], d_sae=D_SAE, k=K, hook_name=SITE)
    sae = sle.SAE(config, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        sae.b_dec.copy_(x.flatten(0, 1).mean(0))
    return sae.eval()


def refuse_differences(every_k: Any, separate: Mapping[int, Any]) -> None:
    """Check that effects at every k are those of a pass of its own.

    Args:
        every_k: the table of every k.
        separate: by k, the table of a pass at that k.

    Raises:
        Mismatch: nodes or effects differ.
    """
    keys = ["row", "site", "position", "feature"]
    for k, alone in separate.items():
        table = every_k[every_k.k == k].reset_index(drop=True)
        # In this form NaN fails too.
        is_equal = table[keys].equals(alone[keys]) and bool(
            ((table.effect - alone.effect).abs() <= _TOLERANCE).all()
        )
        if not is_equal:
            raise Mismatch(
                f"effects at k={k} are not those of a pass at that k; not timed"
            )


def _print_line(name: str, seconds: float, rest: str = "") -> None:
    print(f"{name:>32} {seconds:7.2f} s   {rest}".rstrip())
