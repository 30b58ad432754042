"""The part of ``benchmarks.splice`` that needs SAELens; it runs in its environment."""

import json
import sys
from importlib.metadata import version

import sae_lens
import torch
from sae_lens.analysis.sae_transformer_bridge import SAETransformerBridge

import sae_lens_ext as sle
from benchmarks.measure import Mismatch, side_by_side
from benchmarks.splice import SITE, some_tokens


def main(folder: str) -> None:
    """Print JSON: times of a bare forward to the site and of both splices."""
    block = int(SITE.split(".")[1])
    model = sle.load_bundled(progress=False)
    model.__class__ = SAETransformerBridge  # what its own boot_transformers does
    model._acts_to_saes, model._transcoder_output_hooks = {}, {}
    tokens = some_tokens(model.cfg.d_vocab)
    ours, theirs = sle.SAE.from_pretrained(folder), sae_lens.SAE.load_from_disk(folder)

    def spliced_by_us():
        with sle.splice(model, ours, error_term=True):
            return model(tokens, stop_at_layer=block + 1)

    def spliced_by_saelens():
        return model.run_with_saes(
            tokens, saes=[theirs], use_error_term=True, stop_at_layer=block + 1
        )

    with torch.no_grad():
        error = (
            spliced_by_us() - spliced_by_saelens()
        ).abs().max() / spliced_by_us().abs().max()
        if not error < 1e-5:
            raise Mismatch(
                "with the error term both should be the bare activation; they differ "
                f"by {error:.1e} relative"
            )
        calls = {
            "bare": lambda: model(tokens, stop_at_layer=block + 1),
            "ours": spliced_by_us,
            "saelens": spliced_by_saelens,
        }
        times = side_by_side(calls, rounds=21)
    print(
        json.dumps(
            {
                "times": times,
                "version": version("sae-lens"),
                "lens_version": version("transformer-lens"),
            }
        )
    )


main(sys.argv[1])
