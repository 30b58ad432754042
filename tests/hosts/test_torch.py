"""Torch modules that are not language models, or that were compiled."""

import subprocess
import sys

import pytest
import tiny
import torch
from paths import TESTS

import sae_lens_ext as sle
from sae_lens_ext.hosts import host_for


def test_a_module_that_is_not_a_language_model_can_be_spliced_but_not_swept():
    model = torch.nn.Sequential(
        torch.nn.Embedding(9, 32), torch.nn.Linear(32, 32), torch.nn.Linear(32, 4)
    )
    tokens = torch.tensor([[1, 2, 3]])
    bare = model(tokens)
    with sle.splice(model, {"1": tiny.sae()}):
        assert not torch.equal(model(tokens), bare)
    assert torch.equal(model(tokens), bare)

    with pytest.raises(
        sle.UnsupportedHost,
        match="cannot tell which module of a Sequential makes the logits",
    ):
        sle.sweep_k(model, tokens, {"1": tiny.sae()}, progress=False)
    with pytest.raises(
        sle.InvalidArgument, match="a Sequential has no tokenizer; give token ids"
    ):
        sle.sweep_k(model, "text", {"1": tiny.sae()}, progress=False)


_COMPILED = """
import sys
sys.path.insert(0, sys.argv[1])
import torch
import tiny
import sae_lens_ext as sle
from sae_lens_ext.hosts import host_for

torch.set_grad_enabled(False)
tokens = tiny.tokens()
sae = tiny.sae()
plain = tiny.hf_model("gpt2")

wrapped = torch.compile(tiny.hf_model("gpt2"), backend="eager")
inplace = tiny.hf_model("gpt2")
inplace.compile(backend="eager")
part = tiny.hf_model("gpt2")
part.transformer = torch.compile(part.transformer, backend="eager")
forward = tiny.hf_model("gpt2")
forward.forward = torch.compile(forward.forward, backend="eager")

for model in (wrapped, inplace, part, forward):
    bare = model(tokens).logits
    with sle.splice(model, sae, k=4) as spliced:
        for k in (4, 2):
            spliced.k = k
            with sle.splice(plain, sae, k=k):
                torch.testing.assert_close(model(tokens).logits, plain(tokens).logits)
    assert torch.equal(model(tokens).logits, bare)
"""


def test_a_compiled_model_is_spliced_and_runs_compiled_again_afterwards():
    # In a process without run-time shape checks, which the compiler cannot see through.
    process = subprocess.run(
        [sys.executable, "-c", _COMPILED, str(TESTS)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode == 0, process.stderr


def test_a_watched_module_keeps_its_own_forward():
    """What else wraps and unwraps ``forward`` meanwhile finds what it left there."""
    model = tiny.hosted("torch")
    with torch.no_grad(), sle.splice(model, tiny.sae()):
        assert "forward" not in model.__dict__
        model.forward = lambda *arguments, **keywords: None
        del model.forward
        model(tiny.tokens())
    model(tiny.tokens())


class _Head(torch.nn.Module):
    """An output layer whose weight is packed."""

    def __init__(self, **attributes):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(7))
        for name, value in attributes.items():
            setattr(self, name, value)


@pytest.mark.parametrize(
    ("head", "expected"),
    [
        (torch.nn.Linear(4, 9), 9),
        (_Head(out_features=9), 9),
        (_Head(), None),
        (torch.nn.ModuleList([torch.nn.Linear(4, 9)]), None),
    ],
    ids=["plain", "quantised", "packed", "several heads"],
)
def test_the_number_of_logits_is_known_where_the_output_layer_says_it(head, expected):
    model = torch.nn.Module()
    model.get_output_embeddings = lambda: head
    assert host_for(model).d_vocab == expected
