"""Whatever runs a model gives the same where accelerate loads weights as it runs."""

import accelerate
import pytest
import tiny
import torch

import sae_lens_ext as sle
from sae_lens_ext.training import collect_activations

SITE = "blocks.1.hook_resid_post"


def _on_the_cpu(model, folder):
    return accelerate.cpu_offload(model, execution_device=torch.device("cpu"))


def _on_disk(model, folder):
    return accelerate.disk_offload(model, str(folder))


def _partly_on_disk(model, folder):
    names = ["model.embed_tokens", "model.norm", "model.rotary_emb", "lm_head"]
    places = dict.fromkeys(names, "cpu")
    places |= {f"model.layers.{i}": "disk" if i % 2 else "cpu" for i in range(4)}
    return accelerate.dispatch_model(
        model, places, main_device="cpu", offload_dir=str(folder)
    )


@pytest.mark.parametrize("offload", [_on_the_cpu, _on_disk, _partly_on_disk])
def test_offloaded_weights_change_nothing(offload, tmp_path):
    plain = tiny.hf_model("gemma2")
    model = offload(tiny.hf_model("gemma2"), tmp_path)
    is_offloaded = [weight.is_meta for weight in model.parameters()]
    assert any(is_offloaded)
    tokens = tiny.tokens(rows=3, length=8)
    sae = tiny.sae()

    def spliced(model):
        with torch.no_grad(), sle.splice(model, sae, k=4):
            return model(tokens).logits

    def swept(model):
        saes = {SITE: sae, "blocks.2.hook_attn_out": tiny.sae(seed=1)}
        frame = sle.sweep_k(model, tokens, saes, ks=[2, 8], progress=False)
        return torch.tensor([frame.attrs["ce_bare"], *frame["ce"], *frame["kl"]])

    def recorded(model):
        return sle.Run.capture(model, tokens, sae).codes[SITE].dense()

    def direction(model):
        return sle.difference_in_means(model, SITE, tokens[:1], tokens[1:])

    def collected(model):
        return collect_activations(model, tokens, SITE, progress=False).values

    for measure in (spliced, swept, recorded, direction, collected):
        torch.testing.assert_close(
            measure(model), measure(plain), rtol=1e-5, atol=1e-5, msg=measure.__name__
        )
        # Also where the run ended early.
        assert [weight.is_meta for weight in model.parameters()] == is_offloaded
