"""The number of chunks is the one that needs the fewest multiplications."""

import torch

from sae_lens_ext.kernels import AttentionState, quadratic_attention
from sae_lens_ext.kernels.quadratic_attention import operator, plan


def test_auto_chooses_the_form_with_fewest_multiplications(monkeypatch):
    # Chunks of their real size.
    monkeypatch.undo()
    chunks = []

    def run(name, q, k, v, feature_map, state, wants_state, chunk):
        chunks.append(chunk)
        return v, None

    monkeypatch.setattr(operator, "run", run)

    def chunk(pos, d, state=None, form="auto"):
        q = torch.ones(pos, d)
        quadratic_attention(q, q, torch.ones(pos, 64), form=form, state=state)
        return chunks.pop()

    # Wide queries and keys have many features, and a large state; 0 is one chunk.
    assert [chunk(1024, d) for d in (4, 16, 64)] == [128, 128, 0]
    assert chunk(1024, 64, form="chunked") == 128
    # A state from before is read in any case.
    state = AttentionState(torch.ones(2080, 64), torch.ones(2080))
    assert [chunk(2200, 64, before) for before in (None, state)] == [0, 128]
    # The scores of all tokens with each other must not fill the memory.
    assert [chunk(pos, 128) for pos in (4096, 4097)] == [0, 128]


def test_groups_of_sequences_keep_the_scores_of_a_chunk_in_the_cache(monkeypatch):
    monkeypatch.setattr(plan, "_SCORES", 50)
    x = torch.ones(5, 9, 2)

    assert plan.group_sequences(x, plan.split_tokens(9, 5), 3) == [
        slice(0, 2),
        slice(2, 4),
        slice(4, 5),
    ]
    # At least one at a time, and none of no sequence.
    assert len(plan.group_sequences(x, plan.split_tokens(9, 0), 3)) == 5
    assert plan.group_sequences(x[:0], plan.split_tokens(9, 0), 3) == []
