"""Token ids go where the model takes them, wherever its weights are."""

import accelerate
import pytest
import tiny
import torch
from accelerate.hooks import AlignDevicesHook, SequentialHook
from torch import nn

import sae_lens_ext as sle
from sae_lens_ext.hosts.devices import input_device

CPU = torch.device("cpu")


def test_tokens_go_to_the_embedding():
    embedding = nn.Embedding(3, 2)
    model = nn.Sequential(nn.Linear(2, 2, device="meta"), embedding)
    assert input_device(model, embedding) == CPU
    assert input_device(model, None) == CPU
    assert input_device(nn.ReLU(), None) is None


def test_tokens_go_where_offloaded_weights_are_loaded_to():
    model = accelerate.cpu_offload(tiny.hf_model("gpt2"), execution_device=CPU)
    assert next(model.parameters()).device.type == "meta"
    assert input_device(model, model.get_input_embeddings()) == CPU
    assert input_device(model, None) == CPU


def test_the_device_may_be_that_of_a_chain_of_hooks():
    model = nn.Linear(2, 2, device="meta")
    align = AlignDevicesHook(execution_device="cpu")
    # accelerate would load the weights at once, without any to load.
    model._hf_hook = SequentialHook(align)
    assert input_device(model, None) == CPU


def test_rejects_a_model_without_weights():
    with torch.device("meta"):
        model = nn.ModuleList([nn.Embedding(9, 32), nn.Linear(32, 9)])
    with pytest.raises(
        sle.UnsupportedHost, match="the weights of this ModuleList are not loaded"
    ):
        input_device(model, None)
