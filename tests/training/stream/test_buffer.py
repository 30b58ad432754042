"""Every token leaves the buffer once, in random order."""

import torch

from sae_lens_ext.training.stream.buffer import ShuffleBuffer


def numbered(start, end):
    values = torch.arange(start, end).float().unsqueeze(1)
    return {"a": values, "b": torch.cat([values, -values], dim=1)}


def test_what_goes_in_comes_out_once_at_all_sites_alike():
    generator = torch.Generator().manual_seed(0)
    buffer = ShuffleBuffer(20)
    taken = []
    n_in = 0
    for n_taken in (3, 7, 1, 12, 5, 8, 6, 20):
        n_added = min(20 - len(buffer), 9)
        buffer.add(numbered(n_in, n_in + n_added))
        n_in += n_added
        batch = buffer.take(min(n_taken, len(buffer)), generator)
        assert torch.equal(batch["b"][:, 0], batch["a"][:, 0])
        assert torch.equal(batch["b"][:, 1], -batch["a"][:, 0])
        taken += batch["a"].flatten().int().tolist()
    taken += buffer.take(len(buffer), generator)["a"].flatten().int().tolist()
    assert sorted(taken) == list(range(n_in))
    assert taken != sorted(taken)
    assert len(buffer) == 0


def test_tokens_are_taken_from_everywhere_in_the_buffer():
    generator = torch.Generator().manual_seed(0)
    counts = torch.zeros(10)
    for _ in range(400):
        buffer = ShuffleBuffer(10)
        buffer.add(numbered(0, 10))
        counts[buffer.take(3, generator)["a"].flatten().long()] += 1
    # 120 expected, with a standard deviation of 9.
    assert counts.min() > 80
    assert counts.max() < 160
