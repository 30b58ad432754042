"""Only logits are taken for logits."""

import pytest
import torch

import sae_lens_ext as sle
from sae_lens_ext.hosts.lens_logits import last_logits


def test_logits_of_the_last_column():
    logits = torch.randn(2, 3, 7)
    for output in (logits, (logits, None), (logits, object())):
        last, cache = last_logits(output, 7)
        assert torch.equal(last, logits[:, 2])
        assert cache is None


def test_rejects_an_activation():
    with pytest.raises(sle.InvalidArgument, match="stops the runs of this model"):
        last_logits(torch.randn(2, 3, 5), 7)
