"""What a splice adds to a forward pass of Gemma 3 270M, up to the spliced block.

And what a splice of SAELens adds, in an environment of its own.
"""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import sae_lens_ext as sle
from benchmarks.measure import (
    Mismatch,
    in_environment,
    ratio,
    side_by_side,
    typical,
)
from sae_lens_ext.hosts import Host, capture, host_for

SITE = "blocks.9.hook_resid_post"
D_SAE = 4096
K = 32
ROWS = 4
LENGTH = 128
_SAELENS_PYTHON = Path(".venv-saelens/bin/python")


def random_sae(d_model: int, activation: Tensor) -> sle.SAE:
    """An SAE of the size of a real one.

    It is centred on the activations, so that its codes are not all alike.
    """
    sae = sle.SAE(
        sle.SAEConfig(d_model=d_model, d_sae=D_SAE, k=K, hook_name=SITE),
        generator=torch.Generator().manual_seed(0),
    )
    with torch.no_grad():
        sae.b_dec.copy_(activation.flatten(0, 1).mean(0))
    return sae.eval()


def some_tokens(d_vocab: int) -> Tensor:
    """Random words: how long a forward pass takes does not depend on them."""
    g = torch.Generator().manual_seed(0)
    return torch.randint(4, d_vocab, (ROWS, LENGTH), generator=g)


def run() -> dict[str, float]:
    """Print the table; returns its numbers."""
    model = sle.load_bundled(progress=False)
    host: Host = host_for(model)
    site = host.site(SITE)
    tokens = some_tokens(host.d_vocab or 0)

    with torch.no_grad():
        x = capture(host, tokens, [site])[site]
        sae = random_sae(x.shape[-1], x)

        def bare() -> Tensor:
            return capture(host, tokens, [site])[site]

        def spliced(**options: Any) -> Callable[[], Tensor]:
            splice = sle.splice(model, sae, k=K, **options)

            def call() -> Tensor:
                with splice:
                    return bare()

            return call

        plain = spliced()
        if not torch.equal(plain(), sae(x)):
            raise Mismatch(
                "the spliced activation is not the SAE's reconstruction; not timed"
            )
        flat = x.flatten(0, 1)
        weights = sae.W_enc
        bias = sae.b_enc
        calls = {
            "bare": bare,
            "encoder": lambda: torch.addmm(bias, flat, weights),
            "spliced": plain,
            "with_error": spliced(error_term=True, edits=[sle.Ablate([1, 2, 3])]),
        }
        times = side_by_side(calls, rounds=25)

    ms = {name: 1e3 * typical(times, name) for name in times}
    over_floor = typical(
        times, lambda row: row["spliced"] / (row["bare"] + row["encoder"])
    )
    error_over_spliced = ratio(times, "with_error", "spliced")
    print(
        f"splice at {SITE} of Gemma 3 270M, {ROWS}x{LENGTH} tokens, d_sae={D_SAE}, "
        f"k={K}, forward up to the site, float32; medians"
    )
    _print_line("bare forward to the site", ms["bare"])
    _print_line("encoder product alone", ms["encoder"])
    _print_line("spliced", ms["spliced"], f"{over_floor:.3f} of bare + encoder")
    _print_line(
        "with error term and three ablations",
        ms["with_error"],
        f"{error_over_spliced:.3f} of spliced",
    )
    return {
        **ms,
        "over_floor": over_floor,
        "error_over_spliced": error_over_spliced,
        **_beside_saelens(sae),
    }


def _beside_saelens(sae: sle.SAE) -> dict[str, float]:
    """Measure both libraries' splices in the environment of SAELens."""
    with tempfile.TemporaryDirectory() as folder:
        sae.save_pretrained(folder)
        answer = in_environment(_SAELENS_PYTHON, "benchmarks.splice_saelens", folder)
    if not answer:
        return {}
    times = answer["times"]
    bare = 1e3 * typical(times, "bare")
    ours = 1e3 * typical(times, lambda row: row["ours"] - row["bare"])
    saelens = 1e3 * typical(times, lambda row: row["saelens"] - row["bare"])
    print(
        f"in the environment of SAELens {answer['version']}, through TransformerLens "
        f"{answer['lens_version']}, both with their error term:"
    )
    _print_line("bare forward to the site", bare)
    _print_line("added by this package", ours)
    _print_line("added by SAELens", saelens, f"{saelens / ours:.1f} times as much")
    return {
        "ours_added": ours,
        "saelens_added": saelens,
        "saelens_over_ours": saelens / ours,
    }


def _print_line(name: str, ms: float, rest: str = "") -> None:
    print(f"{name:>44} {ms:8.1f} ms   {rest}".rstrip())
