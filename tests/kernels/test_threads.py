"""Parts run on threads of torch, or on new ones, each once, and errors come back."""

import threading

import pytest
import torch

from sae_lens_ext.kernels import _threads


@pytest.fixture(params=["torch's threads", "new threads"])
def run(request, monkeypatch):
    if request.param == "new threads":
        monkeypatch.setattr(_threads, "_parallel_region", lambda: None)
    elif _threads._parallel_region() is None:
        pytest.skip("torch has no OpenMP with GNU's entry points here")
    return _threads.run


@pytest.mark.parametrize("n_parts", [1, 2, 5])
def test_every_part_runs_once(run, n_parts):
    parts = []
    run(parts.append, n_parts)
    assert sorted(parts) == list(range(n_parts))


def test_parts_run_at_the_same_time(run):
    # Each waits for the other: one after the other they would never end.
    barrier = threading.Barrier(2, timeout=30)
    run(lambda part: barrier.wait(), 2)


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_error_is_raised_after_the_other_parts_have_ended(run, error):
    ended = []

    def work(part):
        if part == 0:
            raise error("in part 0")
        ended.append(part)

    with pytest.raises(error, match="in part 0"):
        run(work, 3)
    assert sorted(ended) == [1, 2]


def test_torch_works_on_all_its_threads_afterwards(run):
    run(lambda part: None, 2)
    large = torch.randn(1 << 18)
    assert torch.allclose(large.exp().log(), large, atol=1e-4)


@pytest.mark.parametrize("n_rows", [0, 1, 7, 8])
def test_pieces_cover_all_rows_evenly(n_rows):
    pieces = _threads.pieces(n_rows, 3)
    rows = [row for piece in pieces for row in range(n_rows)[piece]]
    sizes = [piece.stop - piece.start for piece in pieces]
    assert rows == list(range(n_rows))
    assert max(sizes) - min(sizes) <= 1
