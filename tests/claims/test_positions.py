"""Positions count the tokens of the text, whatever cache or wrapper a model has."""

import pytest
import tiny
import torch
import transformers
from torch import nn
from transformers import DynamicCache, StaticCache

import sae_lens_ext as sle
from sae_lens_ext.hosts import host_for

SITE = "blocks.1.hook_resid_post"
DIRECTION = 20 * torch.randn(32, generator=torch.Generator().manual_seed(0))
_SMALL = {
    "vocab_size": 96,
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "eos_token_id": None,
    "pad_token_id": 0,
}


def _loud(model):
    """A model whose blocks matter."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.mul_(4)
    return model.eval()


def _minimax():
    config = transformers.MiniMaxConfig(
        **_SMALL,
        intermediate_size=64,
        head_dim=8,
        block_size=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        num_local_experts=2,
        num_experts_per_tok=1,
        layer_types=["linear_attention", "full_attention", "linear_attention"],
    )
    return _loud(transformers.MiniMaxForCausalLM(config))


def _mamba():
    config = transformers.MambaConfig(**_SMALL, state_size=4)
    return _loud(transformers.MambaForCausalLM(config))


def _falcon_mamba():
    config = transformers.FalconMambaConfig(**_SMALL, state_size=4)
    return _loud(transformers.FalconMambaForCausalLM(config))


def _rwkv():
    config = transformers.RwkvConfig(
        **_SMALL, attention_hidden_size=32, intermediate_size=64
    )
    return transformers.RwkvForCausalLM(config).eval()


def _gemma():
    model = tiny.hf_model("gemma2")
    model.generation_config.eos_token_id = None
    return model


class _Wrapper(nn.Module):
    """A wrapper of the user's own, with arguments of other names."""

    def __init__(self, model):
        super().__init__()
        self.lm = model

    def forward(self, ids, past=None):
        return self.lm(ids, past_key_values=past, use_cache=True)

    def generate(self, *arguments, **keywords):
        return self.lm.generate(*arguments, **keywords)


class _ByForward(_Wrapper):
    """A wrapper that calls its model's forward past torch's hooks, as PEFT does."""

    def forward(self, ids, past=None):
        return self.lm.forward(ids, past_key_values=past, use_cache=True)


MODELS = {
    "gemma": _gemma,
    "mamba": _mamba,
    "falcon mamba": _falcon_mamba,
    "rwkv": _rwkv,
    "minimax": _minimax,
    "wrapper": lambda: _Wrapper(_gemma()),
    "wrapper past hooks": lambda: _ByForward(_gemma()),
    "wrapper of mamba": lambda: _Wrapper(_mamba()),
}


def _whole_texts(model, prompt, positions, n_steps=4):
    """New tokens with a plain hook, running the whole text at every step."""
    inner = getattr(model, "lm", model)

    def steer(_, __, output):
        hidden = output[0] if isinstance(output, tuple) else output
        hidden = hidden.clone()
        hidden[:, positions] += DIRECTION
        return (hidden, *output[1:]) if isinstance(output, tuple) else hidden

    handle = host_for(inner).blocks[1].register_forward_hook(steer)
    ids = prompt
    for _ in range(n_steps):
        new = inner(ids, use_cache=False).logits[:, -1:].argmax(-1)
        ids = torch.cat([ids, new], 1)
    handle.remove()
    return ids[:, prompt.shape[1] :].tolist()


@pytest.mark.parametrize("positions", [slice(0, 4), slice(7, None)], ids=str)
@pytest.mark.parametrize("name", MODELS)
def test_generation_is_that_of_whole_texts(name, positions):
    torch.manual_seed(0)
    model = MODELS[name]()
    # One row, because RWKV of transformers mixes rows when it goes on from a state.
    prompt = torch.arange(4, 10)[None]
    edits = [sle.AddDirection(DIRECTION.tolist())]
    options = {"max_new_tokens": 4, "do_sample": False, "pad_token_id": 0}
    with torch.no_grad():
        expected = _whole_texts(model, prompt, positions)
        with sle.splice(model, {SITE: None}, edits=edits, positions=positions):
            new = model.generate(prompt, **options)[:, 6:]
    assert new.tolist() == expected


@pytest.mark.parametrize("name", ["gemma", "wrapper", "wrapper past hooks"])
@pytest.mark.parametrize("make", [None, DynamicCache, StaticCache])
def test_steps_of_the_users_own_continue_a_cache(name, make):
    model = MODELS[name]()
    config = getattr(model, "lm", model).config
    past = None
    if make is DynamicCache:
        past = DynamicCache(config=config)
    elif make is StaticCache:
        past = StaticCache(config=config, max_cache_len=16)
    sae = tiny.sae()
    tokens = tiny.tokens(1, 9)
    active = []
    with (
        torch.no_grad(),
        sle.splice(model, {SITE: sae}, positions=[1, 4, -1]) as spliced,
    ):
        for part in (tokens[:, :3], tokens[:, 3:7], tokens[:, 7:]):
            if name == "gemma":
                output = model(part, past_key_values=past, use_cache=True)
            else:
                output = model(part, past)
            past = output.past_key_values
            active += (spliced.codes[SITE].l0()[0] > 0).nonzero().flatten().tolist()
    assert active == [1, 2, 1, 3, 1], "columns of 1, 2; 4, 6; 8"


@pytest.mark.parametrize("name", ["mamba", "gemma"])
def test_a_padded_batch_goes_on_where_each_of_its_texts_ended(name):
    torch.manual_seed(0)
    model = MODELS[name]()
    sae = tiny.sae()
    ids = torch.tensor([[0, 0, 0, 2, 9], [2, 5, 6, 7, 8]])
    mask = (ids != 0).long()
    options = {"max_new_tokens": 3, "do_sample": False, "pad_token_id": 0}
    active = []
    with torch.no_grad(), sle.splice(model, {SITE: sae}, positions=[3, 6]) as spliced:
        codes = type(spliced.codes).__setitem__

        def record(self, site, code):
            active.append((code.l0()[:, -1] > 0).tolist())
            codes(self, site, code)

        kind = type("Recording", (type(spliced.codes),), {"__setitem__": record})
        spliced.codes.__class__ = kind
        model.generate(ids, attention_mask=mask, **options)
    # Positions 1 and 4, 2 and 5, 3 and 6.
    assert active == [[False, False], [False, False], [True, True]]


def test_packed_rows_are_texts_of_their_own():
    model = tiny.hf_model("gemma2", attention="eager")
    texts = [tiny.tokens(1, length, seed=length)[0] for length in (4, 6, 2)]
    packed = torch.cat(texts)[None]
    position_ids = torch.cat([torch.arange(len(text)) for text in texts])[None]
    options = {"positions": [1, -1], "k": torch.tensor([1, 2, 3, 4, 5, 6])}
    with torch.no_grad(), sle.splice(model, tiny.sae(), **options) as spliced:
        model(packed, position_ids=position_ids)
        l0 = spliced.codes[SITE].l0()[0]
    assert (l0 > 0).nonzero().flatten().tolist() == [1, 3, 5, 9, 11]
    assert l0[[1, 3, 5, 9, 11]].tolist() == [2, 4, 2, 6, 2]


def test_a_call_of_the_inner_model_is_a_run_of_its_own():
    model = tiny.hf_model("gemma2")
    tokens = tiny.tokens()
    sae = tiny.sae(exclude_special_tokens=True)
    with torch.no_grad(), sle.splice(model, sae) as spliced:
        output = model.model(tokens, use_cache=True)
        active = spliced.codes[SITE].l0() > 0
        assert not active[:, 0].any()
        assert active[:, 1:].all()
        spliced.positions = [10]
        model.model(tokens[:, 1:2], past_key_values=output.past_key_values)
        assert (spliced.codes[SITE].l0() > 0).all()


def test_hidden_states_that_the_model_returns_are_spliced():
    model = tiny.hf_model("gemma2")
    tokens = tiny.tokens()
    # From the first time on, transformers has hooks of its own in the blocks.
    with torch.no_grad():
        bare = model(tokens, output_hidden_states=True).hidden_states[2]
        with sle.splice(model, tiny.sae(), k=3):
            hidden = model(tokens, output_hidden_states=True).hidden_states[2]
        torch.testing.assert_close(hidden, tiny.sae()(bare, 3), rtol=1e-4, atol=1e-4)


def test_a_decoder_has_the_padding_of_its_own_text():
    torch.manual_seed(0)
    config = transformers.T5Config(
        vocab_size=96, d_model=32, d_kv=8, d_ff=64, num_layers=3, num_heads=4
    )
    model = transformers.T5ForConditionalGeneration(config).eval()
    tokens = tiny.tokens(1, 4)
    masks = torch.tensor([[1, 1, 0, 0]]), torch.tensor([[1, 1, 1, 0]])
    with torch.no_grad(), sle.splice(model, {SITE: tiny.sae()}) as spliced:
        model(
            input_ids=tokens,
            attention_mask=masks[0],
            decoder_input_ids=tokens,
            decoder_attention_mask=masks[1],
        )
    active = spliced.codes[SITE].l0()[0] > 0
    assert active.tolist() == [True, True, True, False]
