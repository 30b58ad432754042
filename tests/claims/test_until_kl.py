"""With until_kl every token has the smallest k that keeps the prediction.

The oracle runs the bare model and splices with k by position, one token after the
other, without a cache; it knows nothing of the search.
"""

import math

import pytest
import tiny
import torch
from transformers import BloomConfig, BloomForCausalLM

import sae_lens_ext as sle
from sae_lens_ext.hosts import host_for

SITE = "blocks.1.hook_resid_post"
KS = (1, 2, 3, 4, 6, 8)
N_NEW = 4


def next_log_probs(model, ids, **options):
    with torch.no_grad():
        return model(ids, **options).logits[:, -1].double().log_softmax(-1)


def brute_force(
    model, sae, ids, bound, spliced, ks=KS, edits=(), error_term=False, positions=None
):
    """The smallest k of every token of one row, by a run for each candidate.

    Where none is enough, the one of the least divergence.
    """
    n_tokens = ids.shape[1]
    chosen = [1] * n_tokens
    kls = [0.0] * n_tokens
    for position in range(n_tokens):
        if not spliced[position]:
            continue
        prefix = ids[:, : position + 1]
        if edits:
            with sle.splice(model, sae, error_term=True, edits=edits):
                reference = next_log_probs(model, prefix)
        else:
            reference = next_log_probs(model, prefix)
        by_k = {}
        for k in ks:
            per_position = torch.tensor([*chosen[:position], k])
            options = {
                "edits": edits,
                "error_term": error_term,
                "positions": positions,
            }
            with sle.splice(model, sae, per_position, **options):
                own = next_log_probs(model, prefix)
            by_k[k] = (reference.exp() * (reference - own)).sum().item()
            if by_k[k] <= bound:
                break
        chosen[position] = min(by_k, key=by_k.__getitem__)
        kls[position] = by_k[chosen[position]]
    ks = [k if is_spliced else 0 for k, is_spliced in zip(chosen, spliced, strict=True)]
    return ks, kls


@pytest.fixture(scope="module")
def model():
    return tiny.hosted("torch")


@pytest.fixture(scope="module")
def sae():
    """One that leaves BOS alone, so that not every column has a k."""
    return tiny.sae(exclude_special_tokens=(2,))


def spliced_positions(ids):
    return [token != 2 for token in ids[0].tolist()]


CASES = {
    "bare": {},
    "none-is-enough": {},
    "steer": {"edits": [sle.Steer([5, 6], by=3.0)]},
    "steer-a-part": {"edits": [sle.Steer(5, by=4.0, positions=slice(2, 4))]},
    "error-term": {"edits": [sle.Ablate(range(24))], "error_term": True},
}
BOUND = {
    "bare": 0.6,
    "none-is-enough": 1e-4,
    "steer": 0.6,
    "steer-a-part": 0.6,
    "error-term": 0.02,
}


@pytest.mark.parametrize("case", CASES)
def test_every_token_has_the_smallest_k_that_is_enough(model, sae, case):
    ids = tiny.tokens(rows=1, length=7)
    bound = BOUND[case]
    expected, kls = brute_force(
        model, sae, ids, bound, spliced_positions(ids), **CASES[case]
    )
    rule = sle.until_kl(bound, ks=KS)
    with torch.no_grad(), sle.splice(model, sae, rule, **CASES[case]) as spliced:
        logits = model(ids).logits
        chosen = spliced.chosen
    assert chosen.ks.tolist() == [expected]
    torch.testing.assert_close(
        chosen.kls[0].double(), torch.tensor(kls).double(), rtol=1e-3, atol=1e-5
    )
    assert len(set(expected)) > 2, "a bound that all or no k meet tests nothing"

    # The run itself is a splice with these numbers.
    ks = chosen.ks.clamp(min=1)
    with torch.no_grad(), sle.splice(model, sae, ks, **CASES[case]):
        assert torch.equal(model(ids).logits, logits)


PROMPT = tiny.tokens(rows=1, length=4)


@pytest.fixture(scope="module")
def by_brute_force(model, sae):
    """A generated text, and the k of every token but the last, which is never read."""
    ids = PROMPT
    for _ in range(N_NEW):
        ks, _ = brute_force(model, sae, ids, 0.6, spliced_positions(ids))
        with sle.splice(model, sae, torch.tensor(ks).clamp(min=1)):
            log_probs = next_log_probs(model, ids)
        ids = torch.cat([ids, log_probs.argmax(-1, keepdim=True)], dim=1)
    return ids, ks


@pytest.mark.parametrize("host", ["torch", "lens", "transformers_model"])
@pytest.mark.parametrize("use_cache", [True, False])
def test_generation_is_token_by_token(sae, by_brute_force, host, use_cache):
    hosted = tiny.hosted(host)
    with torch.no_grad(), sle.splice(hosted, sae, sle.until_kl(0.6, ks=KS)) as spliced:
        generated = _generated(hosted, PROMPT, use_cache)
        chosen = spliced.chosen
    ids, ks = by_brute_force
    assert generated.tolist() == ids.tolist()
    assert chosen.ks.tolist() == [ks]


@pytest.mark.parametrize("host", ["torch", "lens", "transformers_model"])
def test_generation_by_the_search_alone_is_the_same(sae, by_brute_force, host):
    spliced = sle.splice(tiny.hosted(host), sae, sle.until_kl(0.6, ks=KS))
    ids, ks = by_brute_force
    assert spliced.generate(PROMPT, N_NEW).tolist() == ids.tolist()
    assert spliced.chosen.ks.tolist() == [ks]


def test_generation_by_the_search_takes_one_run_for_every_token(model, sae):
    n_runs = 0

    def count(*_):
        nonlocal n_runs
        n_runs += 1

    handle = model.register_forward_pre_hook(count)
    spliced = sle.splice(model, sae, sle.until_kl(0.6), positions=slice(4, None))
    spliced.generate(PROMPT, N_NEW)
    handle.remove()
    assert n_runs == N_NEW


@pytest.mark.parametrize("host", ["torch", "lens"])
def test_blocks_below_the_site_run_one_row_for_all(sae, host):
    """From the second run on, where the first has shown the model's cache."""
    hosted = tiny.hosted(host)
    blocks = host_for(hosted).blocks
    n_rows = {index: [] for index in range(len(blocks))}
    handles = [
        block.register_forward_hook(
            lambda _, __, output, index=index: n_rows[index].append(
                len(output if isinstance(output, torch.Tensor) else output[0])
            )
        )
        for index, block in enumerate(blocks)
    ]
    spliced = sle.splice(hosted, sae, sle.until_kl(0.6, ks=KS))
    ids = spliced.generate(PROMPT, N_NEW)
    for handle in handles:
        handle.remove()
    n_runs = ids.shape[1] - 1
    # BOS is not spliced, and has no candidates.
    assert n_rows[0] == [2, *[1] * (n_runs - 1)]
    assert n_rows[2] == n_rows[3] == [2, *[1 + len(KS)] * (n_runs - 1)]


def test_a_model_whose_biases_have_rows_of_their_own_runs_all_rows():
    """ALiBi's are made for the rows that the model is called with."""
    config = BloomConfig(vocab_size=96, hidden_size=32, n_layer=3, n_head=4)
    torch.manual_seed(0)
    model = BloomForCausalLM(config).eval()
    model.config._attn_implementation = "eager"
    site = "blocks.0.hook_resid_post"
    sae = tiny.sae(hook_name=site)
    spliced = sle.splice(model, sae, sle.until_kl(0.05, ks=KS), positions="all")
    n_rows = []
    handle = model.transformer.h[0].register_forward_pre_hook(
        lambda _, arguments: n_rows.append(len(arguments[0]))
    )
    generated = spliced.generate(PROMPT, N_NEW)
    handle.remove()
    # One row is tried once.
    assert n_rows == [7, 1, *[7] * 6]
    expected, _ = brute_force(
        model, sae, generated[:, :-1], 0.05, [True] * 7, positions="all"
    )
    assert spliced.chosen.ks.tolist() == [expected]


def test_the_next_token_can_be_chosen(model, sae):
    spliced = sle.splice(model, sae, sle.until_kl(0.6, ks=KS))
    with spliced:
        ids = spliced.generate(PROMPT, 3, next_token=lambda logits: logits.argmin(-1))
        log_probs = next_log_probs(model, ids[:, :-1])
    assert ids[0, -1] == log_probs.argmin()
    assert ids[0, :4].tolist() == PROMPT[0].tolist()
    with pytest.raises(
        sle.InvalidArgument, match=r"token ids \[1\].* torch.int64 tensor \[1, 2\]"
    ):
        spliced.generate(PROMPT, 3, next_token=lambda logits: logits[:, :2].long())
    with pytest.raises(sle.InvalidArgument, match=r"a torch.bool tensor \[1\]"):
        spliced.generate(PROMPT, 3, next_token=lambda logits: logits[:, 0] > 0)
    for outside in (-1, len(tiny.WORDS)):
        with pytest.raises(sle.InvalidArgument, match=rf"from 0 to .* \[{outside}\]"):
            spliced.generate(
                PROMPT, 3, next_token=lambda _, outside=outside: torch.tensor([outside])
            )
    spliced.k = 4
    with pytest.raises(sle.InvalidArgument, match="call the model's own generate"):
        spliced.generate(PROMPT)


def _generated(model, ids, use_cache):
    options = {"max_new_tokens": N_NEW, "do_sample": False}
    if hasattr(model, "trace"):
        with model.generate(ids, use_cache=use_cache, **options) as tracer:
            output = tracer.result.save()
        return output
    if hasattr(model, "hook_dict"):
        return model.generate(
            ids,
            use_past_kv_cache=use_cache,
            stop_at_eos=False,
            return_type="tokens",
            verbose=False,
            **options,
        )
    return model.generate(ids, min_new_tokens=N_NEW, use_cache=use_cache, **options)


def test_rows_of_different_lengths_are_each_as_if_alone(model, sae):
    """Padded on the left, as in generation."""
    long = tiny.tokens(rows=1, length=6)
    short = tiny.tokens(rows=1, length=4, seed=1)
    ids = torch.cat([long, torch.cat([torch.zeros(1, 2).long(), short], 1)])
    mask = torch.tensor([[1] * 6, [0, 0, 1, 1, 1, 1]])
    options = {"max_new_tokens": 3, "min_new_tokens": 3, "do_sample": False}
    alone = []
    with torch.no_grad(), sle.splice(model, sae, sle.until_kl(0.6, ks=KS)) as spliced:
        for row in (long, short):
            tokens = model.generate(row, **options)
            alone.append((tokens[0].tolist(), spliced.chosen.ks[0].tolist()))
        both = model.generate(ids, attention_mask=mask, **options)
        chosen = spliced.chosen.ks
    assert both[0].tolist() == alone[0][0]
    assert both[1].tolist() == [0, 0, *alone[1][0]]
    assert chosen[0].tolist() == alone[0][1]
    assert chosen[1].tolist() == [*alone[1][1], 0, 0]

    # Given in any form, and padded as they need to be.
    rows = [long[0].tolist(), short[0].tolist()]
    assert spliced.generate(rows, 3)[:, 2:].tolist() == both[:, 2:].tolist()
    assert spliced.chosen.ks.tolist() == chosen.tolist()


def test_an_infinite_bound_gives_the_smallest_k(model, sae):
    ids = tiny.tokens(rows=2, length=5)
    with torch.no_grad(), sle.splice(model, sae, sle.until_kl(math.inf)) as spliced:
        model(ids)
        assert set(spliced.chosen.ks[:, 1:].flatten().tolist()) == {1}
        assert spliced.chosen.is_met.all()
        spliced.k = sle.until_kl(0, ks=[8])
        model(ids)
        assert not spliced.chosen.is_met[:, 1:].any()
    assert repr(spliced.chosen).startswith("ChosenK(8 tokens, mean k 8, mean KL ")
    assert repr(spliced.chosen).endswith("; 8 above 0 at every k)")


def test_several_sites_share_one_k_up_to_their_own(model):
    """Given the k of the first site, the second has the same up to its largest."""
    other = "blocks.2.hook_resid_post"
    saes = {SITE: tiny.sae(), other: tiny.sae(k=4, seed=1, hook_name=other)}
    ids = tiny.tokens(rows=2, length=5)
    at_4 = sle.until_kl(math.inf, ks=[4])
    with torch.no_grad(), sle.splice(model, saes, at_4) as spliced:
        model(ids)
        # Enough for about half of the tokens.
        spliced.k = sle.until_kl(spliced.chosen.kls.median().item())
        logits = model(ids).logits
        ks = spliced.chosen.ks
        spliced.k = {SITE: ks, other: ks.clamp(max=4)}
        assert torch.equal(model(ids).logits, logits)
    assert ks.min() <= 4 < ks.max()
