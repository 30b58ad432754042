"""Fixtures of the tests of interventions."""

import pytest
import tiny
import torch

import sae_lens_ext as sle


@pytest.fixture
def sae():
    """A random SAE after block 1."""
    return tiny.sae()


@pytest.fixture
def change_by_edits(model):
    """A function that measures what edits change, in the tiny model on a bridge."""

    def measure(sae, edits, tokens, **options):
        """The change of the activation after the splice, and the code before edits."""
        site = "blocks.1.hook_resid_post"
        outputs = []
        for applied in ([], edits):
            with (
                torch.no_grad(),
                sle.splice(model, sae, k=8, edits=applied, **options) as spliced,
            ):
                hook = (site, lambda x, hook: outputs.append(x.clone()))
                model.run_with_hooks(tokens, fwd_hooks=[hook])
                code = spliced.codes[site]
        clean, edited = outputs
        return edited - clean, code

    return measure
