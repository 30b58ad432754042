"""The package's claims hold on Gemma 3 270M, the bundled model, and its activations."""

import pytest
import tiny
import torch

import sae_lens_ext as sle
from sae_lens_ext.demo import prepare_bundled
from sae_lens_ext.demo.sae import DEMO_SITE
from sae_lens_ext.objectives import TopK
from sae_lens_ext.sae import FVU
from sae_lens_ext.training import Activations, TrainConfig, train


def test_the_bundled_model_is_a_language_model(gemma3):
    logits = gemma3("The capital of France is Paris, and the capital of Japan is")
    assert gemma3.tokenizer.decode(logits[0, -1].argmax()) == " Tokyo"


def test_one_hierarchical_sae_is_as_good_as_a_topk_sae_at_its_own_k(gemma3_activations):
    """The paper's claim, small.

    The same data, steps and sizes; the error is on held-out activations, at the k that
    the TopK SAE is trained for.
    """
    values = gemma3_activations.values
    # Every tenth run of 127 tokens, one row of text, is held out.
    is_held_out = (torch.arange(len(values)) // 127) % 10 == 0
    data = Activations(values[~is_held_out][:30_000], DEMO_SITE, n_special=1)
    held_out = values[is_held_out]

    def error_at(sae, k):
        fvu = FVU()
        with torch.no_grad():
            fvu.update(held_out, sae(held_out, k))
        return fvu.value()

    # For fewer steps; the learning rate is that of the recipe.
    common = {"d_sae": 1024, "epochs": 4, "batch_size": 1024}
    hierarchical = train(data, TrainConfig(k=32, **common), progress=False).sae
    for k in (16, 32):
        config = TrainConfig(k=k, objective=TopK(), **common)
        topk = train(data, config, progress=False).sae
        assert error_at(hierarchical, k) <= error_at(topk, k), f"at k={k}"
        for other_k in {4, 8, 16} - {k}:
            topk_error = error_at(topk, min(other_k, k))
            assert error_at(hierarchical, other_k) < topk_error, (
                f"TopK {k} used at {other_k}"
            )


@pytest.fixture(scope="module")
def demo_sae(gemma3):
    """The SAE of the demo."""
    return sle.demo_sae(gemma3)


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


def test_every_host_gives_the_same_numbers(gemma3, demo_sae):
    """The bridge, the Hugging Face model and nnsight around it, for one k and edit."""
    import nnsight
    from transformers import AutoModelForCausalLM

    tokens = gemma3.to_tokens("If the key is not in the dictionary, a KeyError is")
    plain = AutoModelForCausalLM.from_pretrained(
        prepare_bundled(progress=False), dtype=torch.float32, local_files_only=True
    )
    models = {"lens": gemma3, "torch": plain, "nnsight": nnsight.NNsight(plain)}
    logits = {}
    with torch.no_grad():
        for name, model in models.items():
            code = sle.Run.capture(model, tokens, demo_sae).codes[DEMO_SITE]
            strongest = int(code.indices[0, -1, 0])
            edits = [sle.Scale(strongest, by=2, positions=[-1])]
            with sle.splice(model, demo_sae, k=8, edits=edits):
                logits[name] = tiny.logits(model, tokens)
    for name in ("torch", "nnsight"):
        torch.testing.assert_close(
            logits[name],
            logits["lens"],
            rtol=0,
            atol=1e-4,
            msg=lambda text, name=name: f"{name}: {text}",
        )


def test_a_feature_does_what_its_attribution_says(gemma3, demo_sae):
    """Gradient times activation finds a feature that speaks for the next word.

    Without the feature that word loses; with more of it, the word wins.
    """
    tokens = gemma3.to_tokens(
        "If the key is not in the dictionary, a KeyError is raised; "
        "if the index is out of range, an"
    )
    leaves = []

    def keep(acts, hook):
        acts.retain_grad()
        leaves.append(acts)

    with sle.splice(gemma3, demo_sae, error_term=True):
        hook = (f"{DEMO_SITE}.hook_sae_acts_post", keep)
        logits = gemma3.run_with_hooks(tokens, fwd_hooks=[hook])[0, -1]
        word = int(logits.argmax())
        (logits[word] - logits.mean()).backward()
    gemma3.zero_grad()
    (acts,) = leaves
    attribution = (acts.grad * acts.detach())[0].sum(0)
    feature = int(attribution.argmax())
    assert gemma3.tokenizer.decode(word) == " error"

    def score(edits):
        with (
            torch.no_grad(),
            sle.splice(gemma3, demo_sae, error_term=True, edits=edits),
        ):
            logits = gemma3(tokens)[0, -1]
        return (logits[word] - logits.mean()).item()

    bare = score([])
    largest = acts.detach()[0, :, feature].amax().item()
    assert score([sle.Ablate(feature)]) < bare
    # The measured effect of a small step is the attribution's: the sum over positions
    # of gradient times change.
    effect = score([sle.Scale(feature, by=1.01)]) - bare
    assert effect == pytest.approx(0.01 * attribution[feature].item(), rel=0.2)
    assert score([sle.Steer(feature, by=0.1 * largest, positions=[-1])]) > bare
