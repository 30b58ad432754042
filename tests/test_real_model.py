"""On Gemma 3 270M, the bundled model: what is claimed of this package, on activations that no test made up."""

import pytest
import torch

import sae_lens_ext as sle
from sae_lens_ext.objectives import TopK
from sae_lens_ext.sae import FVU
from sae_lens_ext.training import Activations, TrainConfig, train
from sae_lens_ext.training.demo import DEMO_SITE


def test_it_is_a_language_model(gemma3):
    logits = gemma3("The capital of France is Paris, and the capital of Japan is")
    assert gemma3.tokenizer.decode(logits[0, -1].argmax()) == " Tokyo"


def test_one_hierarchical_sae_is_as_good_as_a_topk_sae_at_its_own_k(gemma3_activations):
    """The paper's claim, small: the same data, steps and sizes; error on held-out activations at the k the TopK SAE is for."""
    values = gemma3_activations.values
    # Every tenth run of 127 tokens, one row of text, is held out.
    held_out = (torch.arange(len(values)) // 127) % 10 == 0
    data = Activations(values[~held_out][:30_000], DEMO_SITE, n_special=1)

    def error_at(sae, k):
        fvu = FVU()
        with torch.no_grad():
            fvu.update(values[held_out], sae(values[held_out], k))
        return fvu.value()

    common = {"d_sae": 1024, "epochs": 4, "batch_size": 1024, "lr": 3e-3}
    hierarchical = train(data, TrainConfig(k=32, **common), progress=False).sae
    for k in (16, 32):
        topk = train(data, TrainConfig(k=k, objective=TopK(), **common), progress=False).sae
        assert error_at(hierarchical, k) <= error_at(topk, k), f"at k={k}"
        for other in {4, 8, 16} - {k}:
            assert error_at(hierarchical, other) < error_at(topk, min(other, k)), f"TopK {k} used at {other}"


@pytest.fixture(scope="module")
def demo_sae(gemma3):
    return sle.demo_sae(gemma3, progress=False)


def test_turning_k_is_exact_and_the_model_comes_back(gemma3, demo_sae):
    tokens = gemma3.to_tokens("The capital of France is")
    bare = gemma3(tokens)
    with sle.splice(gemma3, demo_sae, k=32) as spliced:
        at_32 = gemma3(tokens)
        spliced.k = 8
        at_8 = gemma3(tokens)
        code = spliced.codes[DEMO_SITE]
    assert not code.values[0, 0].any(), "BOS is left alone"
    with sle.splice(gemma3, demo_sae, k=8):
        assert torch.equal(gemma3(tokens), at_8)
    assert not torch.equal(at_8, at_32)
    assert torch.equal(gemma3(tokens), bare)
