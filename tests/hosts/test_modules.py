"""Hidden states and blocks are found in torch modules of any layout."""

from types import SimpleNamespace

import pytest
import tiny
import torch
from torch import nn
from transformers.modeling_outputs import BaseModelOutput

from sae_lens_ext.errors import UnknownSite
from sae_lens_ext.hosts.modules import (
    called_if_there,
    find_blocks,
    n_logits,
    replaced_input,
    replaced_output,
)

HIDDEN = torch.zeros(1, 2, 4)
NEW = torch.ones(1, 2, 4)


def test_an_output_is_replaced_alone_or_in_a_tuple():
    assert replaced_output(HIDDEN, lambda _: NEW) is NEW
    assert replaced_output((HIDDEN, "cache"), lambda _: NEW) == (NEW, "cache")


def test_an_input_is_replaced_by_position_or_by_name():
    arguments, keywords = replaced_input((HIDDEN, "mask"), {"a": 1}, lambda _: NEW)
    assert arguments[0] is NEW
    assert (arguments[1], keywords) == ("mask", {"a": 1})

    arguments, keywords = replaced_input((), {"hidden_states": HIDDEN}, lambda _: NEW)
    assert arguments == ()
    assert keywords["hidden_states"] is NEW


def test_hidden_states_are_the_first_tensor_of_numbers():
    ids = torch.zeros(1, 2, dtype=torch.int64)
    arguments, _ = replaced_input((3, ids, HIDDEN), {}, lambda _: NEW)
    assert arguments[:2] == (3, ids)
    assert arguments[2] is NEW
    _, keywords = replaced_input((3,), {"mask": ids, "x": HIDDEN}, lambda _: NEW)
    assert keywords == {"mask": ids, "x": NEW}
    # An embedding is called with ids alone.
    assert replaced_input((ids,), {}, lambda _: NEW)[0] == (NEW,)
    assert replaced_output((None, HIDDEN), lambda _: NEW) == (None, NEW)


def test_a_named_output_stays_of_its_kind():
    output = BaseModelOutput(last_hidden_state=HIDDEN, attentions=(HIDDEN,))
    new = replaced_output(output, lambda _: NEW)
    assert type(new) is BaseModelOutput
    assert new.last_hidden_state is NEW
    assert new[0] is NEW
    assert new.attentions is output.attentions
    assert output.last_hidden_state is HIDDEN
    assert replaced_output(
        {"gate": HIDDEN, "hidden_states": HIDDEN}, lambda _: NEW
    ) == {
        "gate": HIDDEN,
        "hidden_states": NEW,
    }


@pytest.mark.parametrize("output", [None, "text", (), {"ids": 3}])
def test_a_module_without_tensors_is_not_a_site(output):
    with pytest.raises(UnknownSite, match="returns a .* without any"):
        replaced_output(output, lambda _: NEW)
    with pytest.raises(UnknownSite, match=r"called with 1 arguments and \['a'\]"):
        replaced_input((output,), {"a": 1}, lambda _: NEW)


def test_a_function_that_returns_none_leaves_the_value():
    output = (HIDDEN, "cache")
    assert replaced_output(output, lambda _: None) is output
    assert replaced_input((HIDDEN,), {}, lambda _: None)[0][0] is HIDDEN


def _layers(n, width=4):
    return nn.ModuleList(nn.Linear(width, width) for _ in range(n))


def test_blocks_are_the_largest_list_that_is_in_no_other():
    model = nn.Module()
    model.small = _layers(5, width=2)
    model.layers = nn.ModuleList(nn.Module() for _ in range(2))
    for layer in model.layers:
        layer.experts = _layers(9)
    model.empty = nn.ModuleList()
    path, blocks = find_blocks(model)
    assert path == "layers"
    assert blocks == list(model.layers)
    assert find_blocks(nn.Linear(2, 2)) == ("", ())


def test_only_the_decoder_of_a_model_with_several_parts_has_blocks():
    class TextAndImages(nn.Module):
        def __init__(self):
            super().__init__()
            self.vision = nn.Module()
            self.vision.layers = _layers(9)
            self.text = nn.Module()
            self.text.layers = _layers(2)

        def get_decoder(self):
            return self.text

    assert find_blocks(TextAndImages())[0] == "text.layers"


@pytest.mark.parametrize(("name", "n_blocks"), [("gemma2", 4), ("gpt2", 3)])
def test_finds_the_blocks_of_language_models(name, n_blocks):
    path, blocks = find_blocks(tiny.hf_model(name))
    assert path == {"gemma2": "model.layers", "gpt2": "transformer.h"}[name]
    assert len(blocks) == n_blocks


@pytest.mark.parametrize("decoder", [nn.Linear(2, 2), nn.Sequential(), None])
def test_a_decoder_without_blocks_is_not_where_they_are(decoder):
    class OddDecoder(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = _layers(2)

        def get_decoder(self):
            return decoder

    assert find_blocks(OddDecoder())[0] == "layers"


def test_an_accessor_that_fails_counts_as_absent():
    class Unsure(nn.Module):
        def get_decoder(self):
            raise NotImplementedError

        def get_encoder(self, modality):
            return self

        def get_input_embeddings(self):
            return {}["tokens"]

        def get_text(self):
            return "not a module"

    assert called_if_there(Unsure(), "get_decoder") is None
    assert called_if_there(Unsure(), "get_encoder") is None
    assert called_if_there(Unsure(), "get_input_embeddings") is None
    assert called_if_there(Unsure(), "get_text") is None
    assert called_if_there(Unsure(), "get_nothing") is None


class _Quantised(nn.Module):
    """A linear layer whose weight is packed, as 4-bit layers' are."""

    def __init__(self, n_out=None):
        super().__init__()
        self.weight = torch.zeros(17, 1, dtype=torch.uint8).flatten()
        if n_out is not None:
            self.out_features = n_out


def test_the_number_of_logits_is_that_of_the_layer_or_of_the_config():
    config = SimpleNamespace(vocab_size=50)
    text_and_images = SimpleNamespace(text_config=config)
    assert n_logits(nn.Linear(4, 9), config) == 9
    assert n_logits(nn.Embedding(9, 4), None) == 9
    assert n_logits(_Quantised(9), config) == 9
    assert n_logits(_Quantised(), config) == 50
    assert n_logits(_Quantised(), text_and_images) == 50
    assert n_logits(_layers(3), config) is None
    assert n_logits(None, config) is None
