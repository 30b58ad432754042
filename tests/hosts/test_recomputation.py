"""The run that a backward pass repeats is known by the tensor that is read again."""

import gc

import pytest
import torch

from sae_lens_ext.hosts.recomputation import RunsByInput, in_backward


class _AtBackward(torch.autograd.Function):
    """Calls a function in the backward pass, as a checkpoint does."""

    @staticmethod
    def forward(context, x, function):
        context.function = function
        return x.clone()

    @staticmethod
    def backward(context, gradient):
        context.function()
        return gradient, None


def _in_backward_pass(*functions):
    x = torch.ones(1, requires_grad=True)
    for function in functions:
        x = _AtBackward.apply(x, function)
    x.sum().backward()


@pytest.fixture
def runs():
    return RunsByInput()


def test_knows_whether_a_backward_pass_is_in_progress():
    seen = []
    _in_backward_pass(lambda: seen.append(in_backward()))
    assert seen == [True]
    assert not in_backward()


def test_a_run_is_recalled_by_its_storage(runs):
    x = torch.ones(2, requires_grad=True)
    runs.record(x, "first")
    other = torch.ones(2, requires_grad=True)
    runs.record(other, "second")
    recalled = []
    _in_backward_pass(lambda: recalled.append(runs.recall(x.detach(), "module")))
    assert recalled == ["first"]
    assert runs.repeated is None, "the backward pass is over"


def test_modules_in_the_middle_belong_to_the_run_that_is_repeated(runs):
    x = torch.ones(2, requires_grad=True)
    runs.record(x, "run")

    def repeat():
        assert runs.recall(torch.ones(2), "unknown") is None
        assert runs.recall(x, "block") == "run"
        assert runs.recall(torch.ones(2), "next block") == "run"
        assert runs.repeated == "run"

    _in_backward_pass(repeat)


def test_runs_that_read_one_tensor_are_repeated_in_reverse(runs):
    x = torch.ones(2, requires_grad=True)
    for run in ("first", "second", "third"):
        runs.record(x, run)
    recalled = []

    def repeat():
        recalled.append(runs.recall(x, "block"))
        # A second module that reads the same tensor is in the same repetition.
        assert runs.recall(x, "another") == recalled[-1]

    block = repeat
    _in_backward_pass(block, block, block)
    assert recalled == ["third", "second", "first"]


def test_runs_are_forgotten_with_their_tensors(runs):
    x = torch.ones(2, requires_grad=True)
    runs.record(x, "run")
    del x
    gc.collect()
    other = torch.ones(2, requires_grad=True)
    runs.record(other, "next")
    runs.forget_the_dead()
    assert len(runs._runs) == 1


def test_nothing_is_kept_without_gradients(runs):
    with torch.no_grad():
        runs.record(torch.ones(2), "run")
        assert not runs._runs
        # A reentrant checkpoint runs without gradients, from tensors with them.
        x = torch.ones(2, requires_grad=True)
        runs.record(x, "run")
    assert len(runs._runs) == 1


def test_tensors_without_storage_are_left_alone(runs):
    torch.func.vmap(lambda x: runs.record(x, "run") or x)(torch.ones(3, 2))
    runs.record(torch.ones(2, device="meta", requires_grad=True), "run")
    assert not runs._runs
