"""Models are named by their configs, and folders by their last part."""

from types import SimpleNamespace

import pytest

from sae_lens_ext.hosts import name_of_model, shown_name


def test_a_model_has_the_name_that_its_config_gives_it():
    named = SimpleNamespace(config=SimpleNamespace(name_or_path="owner/model"))
    bridged = SimpleNamespace(cfg=SimpleNamespace(model_name="model"))
    assert name_of_model(named) == "owner/model"
    assert name_of_model(bridged) == "model"
    assert name_of_model(object()) is None


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("/home/me/models/mine", "mine"),
        ("/home/me/models/mine/", "mine"),
        ("./mine", "mine"),
        ("../mine", "mine"),
        ("~/mine", "mine"),
        ("runs/today/mine", "mine"),
        ("C:\\models\\mine", "mine"),
        ("C:\\mine", "mine"),
        ("/cache/hub/models--owner--model/snapshots/0a1b2c", "owner/model"),
        ("owner/model", "owner/model"),
        ("gpt2", "gpt2"),
    ],
)
def test_readers_see_no_path_of_this_machine(name, shown):
    assert shown_name(name) == shown
