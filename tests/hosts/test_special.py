"""One rule says which tokens are special, on every host and through every wrapper."""

import copy
from types import SimpleNamespace

import nnsight
import pytest
import tiny
import torch
from torch import nn
from transformers import (
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
)

import sae_lens_ext as sle
from sae_lens_ext.hosts import host_for
from sae_lens_ext.hosts.special import padding_id, special_token_ids
from sae_lens_ext.training import collect_activations

SITE = "blocks.1.hook_resid_post"
_TEXT = {
    "vocab_size": 110,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
}
_VISION = {
    "hidden_size": 48,
    "intermediate_size": 64,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "image_size": 28,
    "patch_size": 14,
}


def _holder(**configs):
    """A module with configs of these names."""
    module = nn.Module()
    for name, fields in configs.items():
        setattr(module, name, SimpleNamespace(**fields))
    return module


@pytest.mark.parametrize(
    ("configs", "expected"),
    [
        ({}, set()),
        ({"config": {"bos_token_id": 2, "eos_token_id": [1, 7]}}, {1, 2, 7}),
        ({"config": {"bos_token_id": None, "pad_token_id": -1}}, set()),
        ({"config": {"eos_token_id": True, "sep_token_id": 9}}, set()),
        (
            {
                "config": {"text_config": {"bos_token_id": 2}, "pad_token_id": 0},
                "generation_config": {"eos_token_id": [1, 106]},
            },
            {0, 1, 2, 106},
        ),
    ],
)
def test_a_model_names_its_special_tokens_in_its_configs(configs, expected):
    assert special_token_ids([_holder(**configs)], None) == expected
    # A tokenizer is asked only where the model names none.
    tokens = {5: SimpleNamespace(special=True), 6: SimpleNamespace(special=False)}
    tokenizer = SimpleNamespace(all_special_ids=[3], added_tokens_decoder=tokens)
    ids = special_token_ids([_holder(**configs)], tokenizer)
    assert ids == (expected or {3, 5})


def test_modules_add_up():
    outer = _holder(config={"eos_token_id": 1})
    inner = _holder(config={"bos_token_id": 2})
    assert special_token_ids([outer, inner], None) == {1, 2}


@pytest.mark.parametrize(
    ("tokenizer_id", "config_id", "d_vocab", "expected"),
    [
        (3, 4, 9, 3),
        (None, 4, 9, 4),
        (12, 4, 9, 4),
        (-1, None, 9, 0),
        (12, None, None, 12),
    ],
)
def test_the_id_at_padding_is_the_models_own_or_any(
    tokenizer_id, config_id, d_vocab, expected
):
    holder = _holder(config={"pad_token_id": config_id})
    tokenizer = SimpleNamespace(pad_token_id=tokenizer_id)
    assert padding_id([holder], tokenizer, d_vocab) == expected


def _llama():
    return tiny.hf_model("gemma2")


class _Wrapper(nn.Module):
    """A wrapper of the user's own."""

    def __init__(self, model):
        super().__init__()
        self.lm = model

    def forward(self, *arguments, **keywords):
        return self.lm(*arguments, **keywords)


def _with_generation_config():
    model = _llama()
    for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
        setattr(model.config, name, None)
    model.generation_config.bos_token_id = 2
    model.generation_config.eos_token_id = [1, 5]
    return model


def _gemma3_with_images():
    text = {**_TEXT, "num_key_value_heads": 2, "head_dim": 8, "sliding_window": 4}
    config = Gemma3Config(
        text_config=text,
        vision_config=_VISION,
        eos_token_id=[1, 106],
        image_token_index=107,
        boi_token_index=104,
        eoi_token_index=105,
        mm_tokens_per_image=4,
    )
    return Gemma3ForConditionalGeneration(config).eval()


def _llava():
    text = LlamaConfig(**_TEXT, bos_token_id=2, eos_token_id=1, pad_token_id=0)
    config = LlavaConfig(
        text_config=text,
        vision_config={"model_type": "clip_vision_model", **_VISION},
        image_token_index=106,
    )
    return LlavaForConditionalGeneration(config).eval()


MODELS = {
    "plain": _llama,
    "DataParallel": lambda: nn.DataParallel(_llama()),
    "wrapper": lambda: _Wrapper(_llama()),
    "wrapper twice": lambda: nn.DataParallel(_Wrapper(_llama())),
    "generation config": _with_generation_config,
    "gemma 3 with images": _gemma3_with_images,
    "llava": _llava,
}


@pytest.mark.parametrize("name", MODELS)
def test_bos_is_left_alone_and_not_trained_on_in_any_model(name):
    model = MODELS[name]()
    tokens = torch.tensor([[2, 10, 11, 12]])
    sae = tiny.sae(exclude_special_tokens=True)
    with torch.no_grad(), sle.splice(model, {SITE: sae}) as spliced:
        model(input_ids=tokens)
    assert spliced.codes[SITE].l0().gt(0).tolist() == [[False, True, True, True]]

    edits = [sle.AddDirection(torch.ones(32))]
    seen = []
    with torch.no_grad(), sle.splice(model, {SITE: None}, edits=edits):
        for block in host_for(model).blocks[1:2]:
            handle = block.register_forward_hook(lambda *call: seen.append(call[2]))
        model(input_ids=tokens)
        handle.remove()
    (steered,) = seen
    with torch.no_grad(), sle.splice(model, {SITE: None}, edits=[]):
        undo = host_for(model).attach(
            host_for(model).site(SITE), lambda x: seen.append(x.clone())
        )
        model(input_ids=tokens)
        undo()
    moved = (steered - seen[1]).abs().sum(-1) > 1
    assert moved.tolist() == [[False, True, True, True]]
    assert len(collect_activations(model, tokens, SITE, progress=False).values) == 3


def test_every_host_has_the_same_special_tokens_with_or_without_a_tokenizer():
    """Also with markers of a chat, which only a tokenizer knows to be special."""
    tokenizer = copy.deepcopy(tiny.tokenizer())
    tokenizer.add_special_tokens({"additional_special_tokens": ["w0", "w1"]})
    hosts = {name: tiny.hosted(name) for name in tiny.HOSTS}
    hosts["lens"].tokenizer = tokenizer
    hosts["transformers_model"].tokenizer = tokenizer
    sae = tiny.sae(exclude_special_tokens=True)
    tokens = torch.tensor([[2, 4, 10, 5, 4, 12]])
    for name, model in hosts.items():
        assert host_for(model).special_token_ids() == {0, 1, 2}, name
        with torch.no_grad(), sle.splice(model, sae) as spliced:
            tiny.logits(model, tokens)
        active = spliced.codes[SITE].l0()[0] > 0
        assert active.tolist() == [False, True, True, True, True, True], name


def _without_special_tokens():
    model = _llama()
    for config in (model.config, model.generation_config):
        for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
            setattr(config, name, None)
    return model


def test_it_is_said_where_no_special_tokens_are_known():
    model = _without_special_tokens()
    tokens = tiny.tokens()
    with pytest.raises(sle.InvalidArgument, match="trained without special tokens"):
        sle.splice(model, tiny.sae(exclude_special_tokens=True))
    message = "leave special tokens alone by default"
    with pytest.warns(UserWarning, match=message):
        sle.splice(model, {SITE: None}, edits=[sle.AddDirection(torch.ones(32))])
    with pytest.warns(UserWarning, match=message):
        collect_activations(model, tokens, SITE, progress=False)
    with pytest.warns(UserWarning, match=message):
        sle.difference_in_means(model, SITE, tokens, tokens)
    # Nothing to say where positions are chosen.
    sle.splice(model, {SITE: None}, positions="all")
    sle.difference_in_means(model, SITE, tokens, tokens, positions=[-1])


def test_a_wrapped_model_is_spliced_on_nnsight_too():
    model = nnsight.NNsight(_Wrapper(_llama()))
    sae = tiny.sae(exclude_special_tokens=True)
    mask = torch.tensor([[0, 1, 1, 1]])
    tokens = torch.tensor([[0, 2, 10, 11]])
    with (
        torch.no_grad(),
        sle.splice(model, sae, positions=[1, -1]) as spliced,
        model.trace(tokens, attention_mask=mask),
    ):
        _ = nnsight.save(model.output.logits)
    active = spliced.codes[SITE].l0()[0] > 0
    assert active.tolist() == [False, False, True, True]
