"""The arguments of calls are read by name, from the outermost to the innermost."""

import pytest
import tiny
import torch
from torch import nn

from sae_lens_ext.hosts import CallFacts
from sae_lens_ext.hosts.calls import named_arguments, takes, token_ids

TOKENS = torch.tensor([[1, 2]])


def test_token_ids_are_the_first_tensor_of_integers():
    mask = torch.ones(1, 2, dtype=torch.bool)
    embeddings = torch.zeros(1, 2, 4)
    assert token_ids((embeddings, None, TOKENS), {}) is TOKENS
    assert token_ids((), {"inputs_embeds": embeddings, "input": TOKENS}) is TOKENS
    assert token_ids((embeddings,), {}) is None
    assert token_ids((), {"attention_mask": mask, "input": TOKENS}) is mask


def test_positional_arguments_get_the_names_of_forward():
    model = tiny.hf_model("gemma2")
    arguments = named_arguments(model, (TOKENS, "mask"), {"use_cache": True})
    assert arguments == {"input_ids": TOKENS, "attention_mask": "mask"} | {
        "use_cache": True
    }
    # DataParallel's own arguments have no names.
    wrapped = nn.DataParallel(model)
    assert named_arguments(wrapped, (TOKENS,), {"use_cache": 1}) == {"use_cache": 1}


@pytest.mark.parametrize(
    ("module", "expected"),
    [
        (tiny.hf_model("gpt2"), True),
        (nn.DataParallel(tiny.hf_model("gpt2")), True),
        (nn.Linear(2, 2), False),
        (nn.DataParallel(nn.Linear(2, 2)), False),
    ],
)
def test_a_wrapper_takes_what_the_model_inside_it_takes(module, expected):
    assert takes(module, "attention_mask") is expected


def test_the_innermost_argument_counts_in_a_form_that_is_understood():
    facts = CallFacts()
    outer = torch.tensor([[1, 1]])
    inner = torch.tensor([[1, 1, 0]])
    pairs = torch.zeros(1, 1, 3, 3)
    facts.read({"attention_mask": outer, "position_ids": TOKENS, "input_ids": TOKENS})
    facts.read({"attention_mask": inner, "inputs_embeds": torch.zeros(1, 3, 4)})
    facts.read({"attention_mask": pairs, "position_ids": None})
    assert facts.attention_mask is not None
    assert facts.attention_mask.tolist() == [[True, True, False]]
    assert facts.position_ids is TOKENS
    assert facts.shape == (1, 3)


@pytest.mark.parametrize(
    "mask",
    [
        torch.tensor([[[[True, False], [True, True]]]]),
        torch.tensor([[[[0.0, -3e38], [0.0, 0.0]]]]),
        {
            "sliding_attention": torch.zeros(1, 1, 2, 2),
            "full_attention": torch.tensor([[[[1, 0], [1, 1]]]]),
        },
    ],
)
def test_a_mask_over_pairs_is_read_in_any_form(mask):
    facts = CallFacts()
    facts.read({"attention_mask": mask})
    assert facts.attended is not None
    assert facts.attended.tolist() == [[[[True, False], [True, True]]]]


def test_a_cache_counts_as_it_was_before_the_run():
    keys = torch.zeros(1, 2, 5, 4)
    facts = CallFacts()
    facts.read({"past_key_values": ((keys, keys),)})
    facts.read({"past_key_values": None})
    assert facts.cached == 5
