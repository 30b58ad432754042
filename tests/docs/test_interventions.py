"""The code of docs/interventions.md runs, and its table names public edits."""

import re

import tiny
import torch
from documents import python_blocks, run_blocks, text_of

import sae_lens_ext as sle

# The tiny model's tokenizer knows no English.
WORDS = {
    "I love it": "w1 w2",
    "Wonderful": "w3",
    "I hate it": "w4 w5",
    "Terrible": "w6",
    "blocks.12.hook_resid_post": "blocks.1.hook_resid_post",
}


def test_the_code_edits_what_it_says(gemma2, tmp_path):
    text = text_of("interventions.md")
    for words, replacement in WORDS.items():
        text = text.replace(words, replacement)
    bare = gemma2(tiny.tokens())

    names = run_blocks(
        tmp_path,
        python_blocks(text),
        model=gemma2,
        sae=tiny.sae(d_sae=512, k=32),
        tokens=tiny.tokens(),
        other_tokens=tiny.tokens(seed=1),
        torch=torch,
    )
    assert torch.equal(names["logits_with_one"], bare), (
        "neither feature is active in this model, so nothing changes"
    )
    assert not torch.equal(names["logits"], bare)
    assert names["direction"].shape == (32,)
    assert isinstance(names["code"], sle.SparseCode)
    assert torch.equal(gemma2(tiny.tokens()), bare)


def test_every_edit_in_the_table_is_public():
    edits = re.findall(r"^\| `(\w+)\(", text_of("interventions.md"), re.MULTILINE)
    assert len(edits) == 6
    for edit in edits:
        assert hasattr(sle, edit)
