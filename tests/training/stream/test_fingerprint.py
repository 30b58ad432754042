"""A model is told from one with other weights or another size."""

import torch
from toy import Toy

from sae_lens_ext.hosts import host_for
from sae_lens_ext.training.stream.fingerprint import model_facts


def test_equal_models_have_equal_facts_and_others_do_not():
    first = Toy()
    facts = model_facts(host_for(first))
    assert facts["parameters"] == sum(part.numel() for part in first.parameters())

    assert model_facts(host_for(Toy())) == facts
    other = Toy()
    with torch.no_grad():
        other.out.bias[0] = 0.2
    assert model_facts(host_for(other)) != facts
    assert model_facts(host_for(Toy(500))) != facts


def test_weights_that_are_not_loaded_count_by_their_shapes():
    with torch.device("meta"):
        layer = torch.nn.Linear(3, 4)
    assert model_facts(host_for(layer))["parameters"] == 16
