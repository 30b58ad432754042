"""The part of ``benchmarks.splice`` that needs SAELens.

``benchmarks.splice`` runs it in SAELens' environment.
"""

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
    """Print one line of JSON: the seconds of every round.

    Of a bare forward pass up to the site, and of one with each library's splice.
    """
    stop = int(SITE.split(".")[1]) + 1
    model = sle.load_bundled(progress=False)
    # Its own boot_transformers does the same.
    model.__class__ = SAETransformerBridge
    model._acts_to_saes = {}
    model._transcoder_output_hooks = {}

    tokens = some_tokens(model.cfg.d_vocab)
    our_sae = sle.SAE.from_pretrained(folder)
    their_sae = sae_lens.SAE.load_from_disk(folder)

    def bare():
        return model(tokens, stop_at_layer=stop)

    def spliced_by_us():
        with sle.splice(model, our_sae, error_term=True):
            return model(tokens, stop_at_layer=stop)

    def spliced_by_saelens():
        return model.run_with_saes(
            tokens, saes=[their_sae], use_error_term=True, stop_at_layer=stop
        )

    with torch.no_grad():
        ours = spliced_by_us()
        error = (ours - spliced_by_saelens()).abs().max() / ours.abs().max()
        if not error < 1e-5:
            raise Mismatch(
                "with the error term both should be the bare activation; "
                f"they differ by {error:.1e} relative"
            )
        calls = {"bare": bare, "ours": spliced_by_us, "saelens": spliced_by_saelens}
        times = side_by_side(calls, rounds=21)

    answer = {
        "times": times,
        "version": version("sae-lens"),
        "lens_version": version("transformer-lens"),
    }
    print(json.dumps(answer))


main(sys.argv[1])
