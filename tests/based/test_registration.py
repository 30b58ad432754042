"""``transformers`` and TransformerLens find the model by themselves."""

import sys
import types

import tiny
import torch
import transformers

from sae_lens_ext.based import BasedConfig, BasedForCausalLM
from sae_lens_ext.based.registration import register

BRIDGE_MODULE = "sae_lens_ext.based.bridge"
TABLE_MODULE = "transformer_lens.factories.architecture_adapter_factory"


def test_the_auto_classes_load_what_was_saved(tmp_path):
    tokens = tiny.tokens(2, 11)
    model = tiny.based("based")
    model.save_pretrained(tmp_path)
    loaded = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path, dtype=torch.float64
    )
    assert type(loaded) is BasedForCausalLM
    # Loading sets these two fields.
    fields = loaded.config.to_dict()
    set_by_loading = {
        key: fields[key] for key in ("_name_or_path", "dtype") if key in fields
    }
    assert fields == {**model.config.to_dict(), **set_by_loading}
    torch.testing.assert_close(loaded(tokens).logits, model(tokens).logits)


def test_a_config_adds_the_architecture_to_a_loaded_transformer_lens(monkeypatch):
    factory = types.ModuleType(TABLE_MODULE)
    factory.SUPPORTED_ARCHITECTURES = {}
    bridge = types.ModuleType(BRIDGE_MODULE)
    bridge.BasedArchitectureAdapter = object()
    monkeypatch.setitem(sys.modules, TABLE_MODULE, factory)
    monkeypatch.setitem(sys.modules, BRIDGE_MODULE, bridge)

    BasedConfig(hidden_size=24, num_attention_heads=3)
    expected = {"BasedForCausalLM": bridge.BasedArchitectureAdapter}
    assert expected == factory.SUPPORTED_ARCHITECTURES


def test_a_config_does_not_load_transformer_lens(monkeypatch):
    monkeypatch.delitem(sys.modules, TABLE_MODULE, raising=False)
    BasedConfig(hidden_size=24, num_attention_heads=3)
    assert TABLE_MODULE not in sys.modules


def test_registering_twice_adds_one_hook():
    register()
    assert len(BasedConfig.creation_hooks) == 1
