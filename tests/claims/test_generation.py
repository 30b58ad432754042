"""Splices and edits act on every generated token, with a cache and without one."""

import pytest
import tiny
import torch

import sae_lens_ext as sle

SITE = "blocks.1.hook_resid_post"
N_NEW = 6


def _generated(model, tokens, use_cache):
    """Tokens, and the logits that each was chosen by."""
    options = {
        "max_new_tokens": N_NEW,
        "do_sample": False,
        "output_logits": True,
    }
    if hasattr(model, "trace"):
        with model.generate(
            tokens, use_cache=use_cache, return_dict_in_generate=True, **options
        ) as tracer:
            output = tracer.result.save()
    elif hasattr(model, "hook_dict"):
        output = model.generate(
            tokens,
            use_past_kv_cache=use_cache,
            stop_at_eos=False,
            return_type="tokens",
            verbose=False,
            **options,
        )
    else:
        output = model.generate(
            tokens,
            min_new_tokens=N_NEW,
            use_cache=use_cache,
            return_dict_in_generate=True,
            **options,
        )
    return output.sequences, torch.stack(output.logits, 1)


CASES = {
    "splice": {"k": 3},
    "splice-but-special-tokens": {"k": 3},
    "steer": {"error_term": True, "edits": [sle.Steer([5, 6], by=3.0)]},
    "steer-the-new-tokens": {
        "error_term": True,
        "edits": [sle.Steer([5, 6], by=3.0, positions=slice(10, None))],
    },
    "splice-the-prompt": {"k": 2, "positions": slice(None, 10)},
    "splice-later-tokens": {"k": 2, "positions": slice(12, None)},
    "mask-of-the-prompt": {"k": 2, "positions": torch.arange(10) % 2 == 0},
    "k-per-position": {"k": torch.arange(1, 25).clamp(max=8)},
    "rule": {"k": sle.until_fvu(0.5)},
    "direction": {
        "edits": [
            sle.AddDirection(torch.linspace(-1, 1, 32), positions=slice(11, None))
        ]
    },
}


@pytest.fixture(scope="module", params=["gemma2", "gpt2"])
def models(request):
    """The same weights on three hosts."""
    return {
        host: tiny.hosted(host, request.param)
        for host in ("lens", "torch", "transformers_model")
    }


@pytest.mark.parametrize("case", CASES)
def test_every_host_generates_the_same_with_a_cache_and_without(models, case):
    tokens = tiny.tokens(rows=2, length=10)
    sae = tiny.sae(exclude_special_tokens=case == "splice-but-special-tokens")
    # A mask is as long as the prompt, so it needs the cache that keeps the prompt a run
    # of its own.
    cache_settings = (True,) if case == "mask-of-the-prompt" else (True, False)
    outputs = {}
    for host, model in models.items():
        for use_cache in cache_settings:
            with torch.no_grad(), sle.splice(model, sae, **CASES[case]):
                outputs[host, use_cache] = _generated(model, tokens, use_cache)

    expected_tokens, expected_logits = outputs["torch", True]
    for setting, (generated, logits) in outputs.items():
        assert generated.tolist() == expected_tokens.tolist(), setting
        torch.testing.assert_close(
            logits,
            expected_logits,
            rtol=0,
            atol=1e-4,
            msg=lambda text, setting=setting: f"{setting}: {text}",
        )
    _, bare_logits = _generated(models["torch"], tokens, True)
    assert not torch.allclose(bare_logits, expected_logits, atol=1e-3)


def test_generating_is_running_the_longer_text(models):
    """The logits of a generation are those of a whole run over the generated text."""
    model = models["torch"]
    tokens = tiny.tokens(rows=1, length=10)
    edits = [sle.Steer(5, by=3.0, positions=slice(3, 13))]
    with torch.no_grad(), sle.splice(model, tiny.sae(), k=4, edits=edits):
        generated, logits = _generated(model, tokens, True)
        whole = model(generated).logits
    torch.testing.assert_close(whole[:, 9:-1], logits, rtol=0, atol=1e-4)


def test_rejects_the_mean_of_a_run_in_cached_generation(models):
    message = "the mean over a run's tokens is not known in cached generation"
    edits = [sle.Ablate(range(48), to="mean")]
    for model in models.values():
        with (
            pytest.raises(sle.InvalidArgument, match=message),
            sle.splice(model, tiny.sae(), edits=edits),
        ):
            _generated(model, tiny.tokens(rows=1), True)


def test_padding_of_a_batch_is_left_alone():
    model = tiny.hosted("transformers_model")
    sae = tiny.sae(exclude_special_tokens=True)
    with sle.splice(model, sae) as spliced:
        with model.trace() as tracer:
            with tracer.invoke("w1 w2 w3"):
                pass
            with tracer.invoke("w1 w2 w3 w4 w5"):
                logits = model.output.logits.save()
        code = spliced.codes[SITE]
    assert (code.values > 0).any(-1).sum(-1).tolist() == [3, 5]
    with torch.no_grad(), sle.splice(model, sae), model.trace("w1 w2 w3 w4 w5"):
        alone = model.output.logits.save()
    torch.testing.assert_close(logits, alone, rtol=0, atol=1e-4)
