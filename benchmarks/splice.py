"""What a splice adds to a forward pass, on Gemma 3 270M up to the spliced block.

What SAELens' splice adds is measured in its own environment.
"""

import json
import subprocess
import tempfile
from pathlib import Path

import torch

import sae_lens_ext as sle
from benchmarks.measure import Mismatch, side_by_side, typical
from sae_lens_ext.hosts import Host, capture, host_for

SITE, D_SAE, K = "blocks.9.hook_resid_post", 4096, 32
ROWS, LENGTH = 4, 128
_SAELENS_PYTHON = Path(".venv-saelens/bin/python")


def random_sae(d_model: int, activation: torch.Tensor) -> sle.SAE:
    """An SAE of a real size, centred on the activations so that codes differ."""
    sae = sle.SAE(
        sle.SAEConfig(d_model=d_model, d_sae=D_SAE, k=K, hook_name=SITE),
        generator=torch.Generator().manual_seed(0),
    )
    with torch.no_grad():
        sae.b_dec.copy_(activation.flatten(0, 1).mean(0))
    return sae.eval()


def some_tokens(d_vocab: int) -> torch.Tensor:
    """Random words: how long a forward pass takes does not depend on them."""
    return torch.randint(
        4, d_vocab, (ROWS, LENGTH), generator=torch.Generator().manual_seed(0)
    )


def run() -> dict[str, float]:
    """Print the table; returns its numbers."""
    model = sle.load_bundled(progress=False)
    host: Host = host_for(model)
    site, tokens = host.site(SITE), some_tokens(host.d_vocab or 0)
    with torch.no_grad():
        x = capture(host, tokens, [site])[site]
        sae = random_sae(x.shape[-1], x)
        flat, weights, bias = x.flatten(0, 1), sae.W_enc, sae.b_enc

        def spliced(**options):
            splice = sle.splice(model, sae, k=K, **options)

            def call():
                with splice:
                    return capture(host, tokens, [site])[site]

            return call

        plain, with_error = (
            spliced(),
            spliced(error_term=True, edits=[sle.Ablate([1, 2, 3])]),
        )
        if not torch.equal(plain(), sae(x)):
            raise Mismatch(
                "the spliced activation is not the SAE's reconstruction; not timed"
            )
        times = side_by_side(
            {
                "bare": lambda: capture(host, tokens, [site]),
                "encoder": lambda: torch.addmm(bias, flat, weights),
                "spliced": plain,
                "with_error": with_error,
            },
            rounds=25,
        )
    ms = {
        name: 1e3 * typical(times, lambda round_s, name=name: round_s[name])
        for name in times
    }
    over_floor = typical(
        times,
        lambda round_s: round_s["spliced"] / (round_s["bare"] + round_s["encoder"]),
    )
    error_over_spliced = typical(
        times, lambda round_s: round_s["with_error"] / round_s["spliced"]
    )
    print(
        f"splice at {SITE} of Gemma 3 270M, {ROWS}x{LENGTH} tokens, d_sae={D_SAE}, "
        f"k={K}, forward up to the site, float32; medians"
    )
    print(f"{'bare forward to the site':>44} {ms['bare']:8.1f} ms")
    print(f"{'encoder product alone':>44} {ms['encoder']:8.1f} ms")
    print(
        f"{'spliced':>44} {ms['spliced']:8.1f} ms   {over_floor:.3f} of bare + encoder"
    )
    print(
        f"{'with error term and three ablations':>44} {ms['with_error']:8.1f} ms   "
        f"{error_over_spliced:.3f} of spliced"
    )
    return {
        **ms,
        "over_floor": over_floor,
        "error_over_spliced": error_over_spliced,
        **_beside_saelens(sae),
    }


def _beside_saelens(sae: sle.SAE) -> dict[str, float]:
    if not _SAELENS_PYTHON.exists():
        print("(SAELens is not measured: make test-saelens builds its environment)")
        return {}
    with tempfile.TemporaryDirectory() as folder:
        sae.save_pretrained(folder)
        command = [str(_SAELENS_PYTHON), "-m", "benchmarks.splice_saelens", folder]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise Mismatch(
            f"the part that runs beside SAELens failed:\n{done.stderr[-2000:]}"
        )
    answer = json.loads(done.stdout.splitlines()[-1])
    ours, saelens = (
        typical(
            answer["times"], lambda round_s, name=name: round_s[name] - round_s["bare"]
        )
        for name in ("ours", "saelens")
    )
    print(
        f"in the environment of SAELens {answer['version']}, through TransformerLens "
        f"{answer['lens_version']}, both with their error term:"
    )
    print(
        f"{'bare forward to the site':>44} "
        f"{1e3 * typical(answer['times'], lambda round_s: round_s['bare']):8.1f} ms"
    )
    print(f"{'added by this package':>44} {1e3 * ours:8.1f} ms")
    print(
        f"{'added by SAELens':>44} {1e3 * saelens:8.1f} ms   "
        f"{saelens / ours:.1f} times as much"
    )
    return {
        "ours_added": 1e3 * ours,
        "saelens_added": 1e3 * saelens,
        "saelens_over_ours": saelens / ours,
    }
