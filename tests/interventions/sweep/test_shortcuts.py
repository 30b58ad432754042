"""Sweeps that skip blocks and run worlds at once give what whole runs give.

They do on models on which other splices and hooks act, on models whose blocks return
more than a tensor, and on models where a shortcut would be wrong. Every comparison is
over all rows and all positions, in every world.
"""

from contextlib import ExitStack, contextmanager

import pytest
import tiny
import torch
import transformers
from torch import nn

import sae_lens_ext as sle
from sae_lens_ext.hosts import host_for
from sae_lens_ext.interventions.sites import placements
from sae_lens_ext.interventions.sweep import (
    Bare,
    MeanAblated,
    Spliced,
    SweptModel,
    ZeroAblated,
)

WORLDS = [Bare(), ZeroAblated(), MeanAblated(), Spliced(2), Spliced(8)]
# What comes before each of them is blocks 0 and 1, whole.
SITES = ("blocks.1.hook_resid_post", "blocks.2.hook_resid_pre", "blocks.2.hook_mlp_out")


@pytest.fixture(scope="module", params=["torch", "lens"])
def model(request):
    """The same weights as a plain module, and on a bridge."""
    return tiny.hosted(request.param)


@pytest.fixture
def tokens():
    """Four rows of random words."""
    return tiny.tokens(rows=4, length=7)


def _swept_logits(model, site, sae, tokens, batch_size=4):
    host = host_for(model)
    swept = SweptModel(
        host,
        tokens,
        placements(host, {site: sae}),
        {site: torch.ones_like(tokens, dtype=torch.bool)},
        batch_size=batch_size,
        ks=[8],
        extrapolate=False,
    )
    scored = torch.arange(tokens.shape[1])
    parts = []
    for rows in swept.batches:
        (bare,) = swept.logits(rows, [Bare()], scored)
        parts.append(torch.cat([bare[None], swept.logits(rows, WORLDS[1:], scored)]))
    return torch.cat(parts, 1), swept.n_skipped


def _whole_logits(model, site, sae, tokens):
    """Logits of whole runs in which the activation is replaced behind all hooks."""
    host = host_for(model)
    seen = []
    undo = host.attach(host.site(site), lambda x: seen.append(x.clone()))
    bare = host.logits(tokens)
    undo()
    mean = seen[0].flatten(0, 1).mean(0)

    logits = [bare]
    for replace in (
        torch.zeros_like,
        lambda x: mean.expand_as(x),
        lambda x: sae(x, 2),
        lambda x: sae(x, 8),
    ):
        undo = host.attach(host.site(site), replace)
        logits.append(host.logits(tokens))
        undo()
    return torch.stack(logits)


def _splice(site, **options):
    """Another splice, whose edit changes a feature that few tokens have."""
    outer = tiny.sae(seed=5)
    edits = [sle.Scale(3, by=20.0), sle.Steer(7, by=4.0, positions=[2])]

    @contextmanager
    def acting(model):
        options_of_splice = {"error_term": True, "edits": edits, **options}
        with sle.splice(model, {site: outer}, **options_of_splice):
            yield

    return acting


def _hook(index, side):
    """A user's own hook, which acts on one row and adds more at every position."""

    def changed(x):
        x = x.clone()
        x[2] += torch.arange(x.shape[1])[:, None]
        return x

    @contextmanager
    def acting(model):
        host = host_for(model)
        block = host.blocks[index]
        if side == "output":
            handle = block.register_forward_hook(lambda *args: changed(args[2]))
        else:
            handle = block.register_forward_pre_hook(
                lambda _, args: (changed(args[0]), *args[1:])
            )
        yield
        handle.remove()

    return acting


def _together(*contexts):
    @contextmanager
    def acting(model):
        with ExitStack() as stack:
            for context in contexts:
                stack.enter_context(context(model))
            yield

    return acting


ACTING = {
    "a splice two blocks below": _splice("blocks.0.hook_resid_post"),
    "a splice inside of a skipped block": _splice("blocks.1.hook_mlp_out"),
    "a splice at the end of the skipped blocks": _splice("blocks.1.hook_resid_post"),
    "a splice behind the skipped blocks": _splice("blocks.2.hook_resid_pre"),
    "a splice above": _splice("blocks.2.hook_resid_post", error_term=False),
    "a splice of some rows": _splice(
        "blocks.3.hook_resid_pre", positions=torch.arange(28).view(4, 7) % 3 == 0
    ),
    "a hook on a skipped block": _hook(0, "output"),
    "a hook on the last skipped block": _hook(1, "output"),
    "a hook before the next block": _hook(2, "input"),
    "several": _together(
        _splice("blocks.0.hook_resid_post"),
        _hook(1, "output"),
        _splice("blocks.1.hook_resid_post"),
        _splice("blocks.2.hook_attn_out"),
    ),
}


@pytest.mark.parametrize("acting", ACTING.values(), ids=ACTING)
@pytest.mark.parametrize("site", SITES)
def test_each_world_is_that_of_whole_runs(model, tokens, site, acting):
    sae = tiny.sae(seed=2)
    with torch.no_grad():
        untouched = _whole_logits(model, site, sae, tokens)
        with acting(model):
            expected = _whole_logits(model, site, sae, tokens)
            logits, n_skipped = _swept_logits(model, site, sae, tokens)
    assert not torch.allclose(expected[0], untouched[0], atol=1e-2), "it should act"
    torch.testing.assert_close(logits, expected, rtol=0, atol=2e-4)

    # A torch hook on a bridge's block acts behind the block's own hook points, so that
    # a run that begins there would leave it out, which is noticed.
    acts_behind = acting in (
        ACTING["several"],
        ACTING["a hook on the last skipped block"],
    )
    is_left_out = acts_behind and site == SITES[0] and hasattr(model, "hook_dict")
    assert n_skipped == (0 if is_left_out else 2)


def test_sweep_k_is_exact_with_a_splice_that_row_0_does_not_show(model, tokens):
    """Applied twice, its edit would change every row but the first."""
    site = SITES[0]
    sae = tiny.sae(seed=2)
    outer = tiny.sae(seed=5)
    edits = [sle.Steer(7, by=20.0)]
    mask = torch.zeros(4, 7, dtype=torch.bool)
    mask[1:] = True
    options = {"error_term": True, "edits": edits, "positions": mask}
    with torch.no_grad(), sle.splice(model, {site: outer}, **options):
        frame = sle.sweep_k(model, tokens, {site: sae}, ks=[2, 8], progress=False)
        logits = _whole_logits(model, site, sae, tokens)

    cross_entropies = [
        nn.functional.cross_entropy(
            world[:, :-1].flatten(0, 1), tokens[:, 1:].flatten()
        ).item()
        for world in logits
    ]
    columns = [frame.attrs[name] for name in ("ce_bare", "ce_zero", "ce_mean")]
    assert [*columns, *frame["ce"]] == pytest.approx(cross_entropies, rel=1e-5)


def test_hooks_of_skipped_blocks_are_called_in_whole_runs_only(tokens):
    model = tiny.hosted("torch")
    calls = {"skipped": 0, "later": 0}

    def count(name):
        def hook(*_):
            calls[name] += 1

        return hook

    layers = model.model.layers
    layers[0].register_forward_pre_hook(count("skipped"))
    layers[0].mlp.register_forward_hook(count("skipped"))
    layers[1].register_forward_hook(count("skipped"))
    layers[2].register_forward_hook(count("later"))
    with torch.no_grad():
        _swept_logits(model, SITES[0], tiny.sae(), tokens, batch_size=2)
    # Two batches, each in the run that ends at the site and in that of the bare model.
    assert calls["skipped"] == 3 * 2 * 2
    # Of each batch: the bare model, the check of it, and each of the four other worlds.
    assert calls["later"] == 2 * 6


def test_a_splice_below_is_reached_again_after_a_sweep(model, tokens):
    below = "blocks.0.hook_mlp_out"
    with torch.no_grad(), sle.splice(model, {below: tiny.sae(seed=5)}) as spliced:
        sle.sweep_k(model, tokens, {SITES[0]: tiny.sae()}, ks=[2], progress=False)
        host_for(model).logits(tokens)
        assert spliced.codes[below].values.shape == (4, 7, 8)


_IDS = {"vocab_size": 97, "bos_token_id": 2, "eos_token_id": 1, "pad_token_id": 0}
_SIZES = {
    **_IDS,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
}
_GPT = {**_IDS, "n_embd": 32, "n_layer": 3, "n_head": 4}
# Blocks of these return a tuple, of one item or of several, or a list.
_FAMILIES = {
    "bloom": {**_IDS, "hidden_size": 32, "n_layer": 3, "n_head": 4},
    "codegen": {**_GPT, "rotary_dim": 4},
    "falcon": _SIZES,
    "falcon_h1": {
        **_SIZES,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "mamba_d_state": 4,
        "mamba_n_heads": 8,
        "mamba_d_head": 8,
        "mamba_d_ssm": 64,
        "mamba_n_groups": 1,
    },
    "gpt_neo": {
        **_IDS,
        "hidden_size": 32,
        "num_layers": 4,
        "num_heads": 4,
        "attention_types": [[["global", "local"], 2]],
    },
    "gptj": {**_GPT, "rotary_dim": 4},
    "mpt": {**_IDS, "d_model": 32, "n_layers": 3, "n_heads": 4},
    "openai-gpt": _GPT,
    "rwkv": {**_SIZES, "attention_hidden_size": 32},
    "xlstm": {**_IDS, "hidden_size": 32, "num_hidden_layers": 3, "num_heads": 4},
}


@pytest.mark.parametrize("family", _FAMILIES)
def test_blocks_that_return_more_than_a_tensor_are_skipped(family, tokens):
    config = transformers.AutoConfig.for_model(family, **_FAMILIES[family])
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    sae = tiny.sae()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.mul_(4)
        logits, n_skipped = _swept_logits(model, SITES[0], sae, tokens)
        expected = _whole_logits(model, SITES[0], sae, tokens)
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-4)
    assert n_skipped == 2


class _Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(32, 32)

    def forward(self, *, stream):
        return {"gate": None, "hidden_states": stream + self.linear(stream).tanh()}


class _LanguageModel(nn.Module):
    """A language model whose run over its blocks is ``run``."""

    def __init__(self, run, n_blocks=4, block: type[nn.Module] = _Block):
        super().__init__()
        self.embedding = nn.Embedding(97, 32)
        self.layers = nn.ModuleList(block() for _ in range(n_blocks))
        self.lm_head = nn.Linear(32, 97)
        self.run = run

    def get_input_embeddings(self):
        return self.embedding

    def get_output_embeddings(self):
        return self.lm_head

    def forward(self, tokens):
        return self.lm_head(self.run(self.layers, self.embedding(tokens)))


def _call(block, x):
    return block(stream=x)["hidden_states"]


def _in_order(layers, x):
    for layer in layers:
        x = _call(layer, x)
    return x


def _first_half_looped(layers, x):
    for layer in (*layers[:2], *layers):
        x = _call(layer, x)
    return x


def _with_long_skip(layers, x):
    early = _call(layers[0], x)
    x = _call(layers[1], early)
    return _call(layers[3], _call(layers[2], x) + 3 * early)


def _with_rows_mixed(layers, x):
    x = _in_order(layers, x)
    return x + torch.arange(len(x))[:, None, None]


@pytest.mark.parametrize(
    ("run", "n_skipped"),
    [
        (_in_order, 2),
        (_first_half_looped, 0),
        (_with_long_skip, 0),
        (_with_rows_mixed, 2),
    ],
)
@pytest.mark.parametrize("site", ["blocks.2.hook_resid_pre", "layers.2.linear"])
def test_a_shortcut_that_would_be_wrong_is_not_taken(run, n_skipped, site, tokens):
    model = _LanguageModel(run)
    sae = tiny.sae()
    with torch.no_grad():
        logits, seen = _swept_logits(model, site, sae, tokens)
        expected = _whole_logits(model, site, sae, tokens)
    torch.testing.assert_close(logits, expected, rtol=1e-5, atol=1e-5)
    assert seen == (n_skipped if site.startswith("blocks") else 0)


class _BlockWithState(nn.Module):
    """Hands on a second tensor, which the next block adds."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(32, 32)

    def forward(self, x, state=None):
        new = x + self.linear(x).tanh()
        return new if state is None else new + state, 2 * x


def _with_state(layers, x):
    state = None
    for layer in layers:
        x, state = layer(x, state)
    return x


def test_blocks_that_hand_on_more_than_the_stream_are_not_skipped(tokens):
    model = _LanguageModel(_with_state, block=_BlockWithState)
    sae = tiny.sae()
    with torch.no_grad():
        logits, n_skipped = _swept_logits(model, SITES[0], sae, tokens)
        expected = _whole_logits(model, SITES[0], sae, tokens)
    torch.testing.assert_close(logits, expected, rtol=1e-5, atol=1e-5)
    assert n_skipped == 0


def test_rejects_a_site_that_fires_several_times_in_a_run(tokens):
    model = _LanguageModel(_first_half_looped)
    message = "blocks.1.hook_resid_post fires 2 times in one run of this model"
    with pytest.raises(sle.UnknownSite, match=message):
        sle.sweep_k(model, tokens, tiny.sae(), ks=[2], progress=False)
