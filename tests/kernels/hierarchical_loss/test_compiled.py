"""The compiled walk agrees with that in torch, by pieces and by rows."""

import pytest
import torch
from kernels.cases import Case

from sae_lens_ext.kernels.hierarchical_loss import chunked, compiled
from sae_lens_ext.kernels.hierarchical_loss.task import Task

OFTEN = Case(200, 150, 32, 3)
SELDOM = Case(20, 150, 64, 3)


@pytest.mark.parametrize("n_threads", [1, 2, 3])
@pytest.mark.parametrize(
    ("case", "name"),
    [(OFTEN, "_walk_pieces"), (SELDOM, "_walk_rows")],
    ids=["often", "seldom"],
)
def test_it_agrees_with_torch_for_any_number_of_threads(
    case, name, n_threads, monkeypatch
):
    code = case.code()
    bias_error = code["b_dec"] - code["target"]
    weights = torch.rand(case.k, dtype=torch.float64)
    task = Task([1, 2, 3], weights.tolist(), [True] * 4, True, False)
    tensors = (code["values"], code["indices"], code["W_dec"], bias_error, weights)

    threads = []
    walk_part = getattr(compiled, name)

    def recording(*args):
        threads.append(args[-2])
        walk_part(*args)

    monkeypatch.setattr(compiled, name, recording)
    walked = compiled.walk(*tensors, details=True, n_threads=n_threads)
    assert sorted(threads) == list(range(min(n_threads, len(threads))))
    torch.testing.assert_close(tuple(walked), tuple(chunked.walk(*tensors, task)))
