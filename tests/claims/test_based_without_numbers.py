"""Fake, meta and functional tensors pass through Based: shapes, and no numbers asked.

So tools that only ask for shapes work: nnsight's scan, and torch's own.
"""

import nnsight
import pytest
import tiny
import torch
from nnsight.modeling.transformers import TransformersModel
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.func import functionalize

from sae_lens_ext.experiments.recall import MQAR, answers_at, soft_iou

BATCH, POS = 2, 5
HOOKED = ("hook_q", "hook_pattern", "hook_phi_q", "hook_result", "hook_scale")


def double_in_place(_, __, output):
    output.mul_(2)


HOOKS = {
    "no hooks": None,
    "reading": lambda *_: None,
    "editing": lambda _, __, output: output * 2,
    "editing in place": double_in_place,
}


def run_with_everything(model, device):
    """A text, then more of it, then a single token, each with all that can be checked.

    Called again for every context, in which tensors are made.
    """
    ids = torch.ones(BATCH, POS, dtype=torch.int64, device=device)
    mask = torch.ones_like(ids)
    positions = torch.arange(2 * POS, device=device).expand(BATCH, -1)
    first = model(
        ids, attention_mask=mask, position_ids=positions[:, :POS], use_cache=True
    )
    model(
        ids,
        attention_mask=torch.cat([mask, mask], dim=1),
        position_ids=positions[:, POS:],
        past_key_values=first.past_key_values,
        labels=ids,
    )
    last = model(
        ids[:, :2],
        past_key_values=first.past_key_values,
        logits_to_keep=torch.tensor([0, 1], device=device),
    )
    assert last.logits.shape == (BATCH, 2, len(tiny.WORDS))


def run_functional(model):
    def run(ids):
        run_with_everything(model, ids.device)
        return ids

    functionalize(run)(torch.ones(1))


@pytest.mark.parametrize("hook", HOOKS.values(), ids=HOOKS)
def test_shapes_are_enough(hook):
    model = tiny.based(max_position_embeddings=2 * POS + 2)
    if hook is not None:
        for name, module in model.named_modules():
            if name.endswith(HOOKED):
                module.register_forward_hook(hook)

    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            with FakeTensorMode(allow_non_fake_inputs=True):
                run_with_everything(model, "cpu")
            run_functional(model)
    model.to("meta")
    with torch.device("meta"):
        run_with_everything(model, "meta")


def test_scan_knows_the_shapes_of_a_text():
    traced = TransformersModel(
        tiny.based(), tokenizer=tiny.tokenizer(), task="text-generation"
    )
    with traced.scan("w1 w2 w3"):
        shape = nnsight.save(traced.model.layers[1].output.shape)
    assert shape[-2:] == (4, tiny.based().config.hidden_size)


def test_the_circuit_of_recall_needs_no_numbers():
    shape = (BATCH, MQAR(seq_len=12, pairs=3, vocab_size=64).seq_len)
    tokens = torch.zeros(shape, dtype=torch.int64, device="meta")
    where = answers_at(tokens, tokens)
    assert where.shape == (*shape, shape[1])
    pattern = torch.zeros(BATCH, 4, *where.shape[1:], device="meta")
    assert soft_iou(pattern, where).shape == (4,)
