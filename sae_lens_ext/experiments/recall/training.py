"""Training a model on MQAR, and the share of questions that a model answers."""

import math
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from jaxtyping import Int
from torch import Tensor
from torch.nn import functional as F

from sae_lens_ext import _arguments as arguments
from sae_lens_ext.based.model import BasedForCausalLM
from sae_lens_ext.errors import InvalidArgument
from sae_lens_ext.experiments.checks import check_instance, check_tensors
from sae_lens_ext.experiments.recall.batches import batches, held_out
from sae_lens_ext.experiments.recall.recipe import Outcome, Recipe, build_model
from sae_lens_ext.experiments.recall.task import MQAR, UNLABELLED

# A test that finds more than this ends training, as published.
_ENOUGH = 0.99
# The accuracy from which on a task counts as solved.
_SOLVED = 0.9
# Memory for activations and logits does not grow with the length of sequences.
_TOKENS_AT_A_TIME = 65_536


class _Test(NamedTuple):
    """A test during training."""

    step: int
    accuracy: float
    diverged: bool


def train_mqar(
    recipe: Recipe,
    task: MQAR,
    *,
    device: torch.device | str = "cpu",
    on_test: Callable[[int, float], object] | None = None,
) -> tuple[BasedForCausalLM, Outcome]:
    """Train a model on the task.

    Training ends early once a test finds more than 99 %, as published, and where the
    loss is no longer finite. The test's sequences are the same for every recipe of a
    task. Torch's own random numbers stay as they were.

    Args:
        recipe: the model, and how to train it.
        task: the task to learn.
        device: where to train.
        on_test: called with the step and the accuracy of every test.

    Returns:
        The model, in evaluation mode, and the outcome.

    Raises:
        InvalidArgument: ``device`` cannot be used here, or the recipe does not fit the
            task (see ``training_tasks``).
    """
    check_instance(recipe, Recipe, "recipe")
    check_instance(task, MQAR, "task")
    arguments.device(device)
    # Checks that the recipe fits the task, before a model is made.
    training_batches = batches(recipe, task)
    start = time.perf_counter()

    cuda_devices = [device] if torch.device(device).type == "cuda" else []
    with torch.random.fork_rng(devices=cuda_devices):
        torch.manual_seed(recipe.seed)
        model: Any = build_model(recipe, task)
        model.to(device).train()
        test_tokens, test_labels = held_out(recipe, task)
        test_tokens = test_tokens.to(device)
        test_labels = test_labels.to(device)

        optimizer = torch.optim.AdamW(
            model.parameters(),
            lr=recipe.lr,
            weight_decay=recipe.weight_decay,
            fused=True,
        )
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, recipe.steps)
        steps_per_test = math.ceil(recipe.steps / recipe.evaluations)
        tests: list[_Test] = []

        for step, (tokens, labels) in enumerate(training_batches, start=1):
            logits, answers = _labelled_logits(
                model, tokens.to(device), labels.to(device)
            )
            loss = F.cross_entropy(logits.float(), answers)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()

            if step % steps_per_test and step < recipe.steps:
                continue

            # The loss is read only here, because a GPU would have to be waited for;
            # once weights are not finite, no later loss is.
            diverged = not math.isfinite(loss.item())
            share = 0.0 if diverged else accuracy(model, test_tokens, test_labels)
            tests.append(_Test(step, share, diverged))
            if on_test is not None:
                on_test(step, share)
            if diverged or share > _ENOUGH:
                break

    return model.eval(), _outcome(tests, time.perf_counter() - start)


def _outcome(tests: list[_Test], seconds: float) -> Outcome:
    solved = [test.step for test in tests if test.accuracy >= _SOLVED]
    return Outcome(
        accuracy=max(test.accuracy for test in tests),
        last_accuracy=tests[-1].accuracy,
        solved_at=solved[0] if solved else -1,
        seconds=seconds,
        diverged=tests[-1].diverged,
    )


def accuracy(
    model: BasedForCausalLM,
    tokens: Int[Tensor, "n pos"],
    labels: Int[Tensor, "n pos"],
    batch_size: int | None = None,
) -> float:
    """The share of labelled positions where the model's likeliest token is the label.

    Args:
        model: the model to ask; whether it is in training mode stays as it was.
        tokens: sequences.
        labels: the answers, ``UNLABELLED`` where nothing is asked.
        batch_size: sequences at a time; None for as many as have 65,536 tokens
            together, so that memory does not grow with their length.

    Raises:
        InvalidArgument: the model is not a ``BasedForCausalLM``, tokens and labels are
            not tensors or differ in shape, no position has a label, or
            ``batch_size`` is not a positive integer.
    """
    check_tensors(tokens=tokens, labels=labels)
    if not hasattr(model, "lm_head"):
        check_instance(model, BasedForCausalLM, "model")
    if tokens.shape != labels.shape or tokens.ndim != 2:
        raise InvalidArgument(
            "tokens and labels must both have the shape [n, pos]; "
            f"got {list(tokens.shape)} and {list(labels.shape)}"
        )
    if batch_size is None:
        batch_size = max(1, _TOKENS_AT_A_TIME // tokens.shape[1])
    batch_size = arguments.positive_int(batch_size, "batch_size")
    if not bool((labels != UNLABELLED).any()):
        raise InvalidArgument(
            f"labels must hold at least one answer; all of them are {UNLABELLED}; give "
            "tokens and labels of MQAR.sample"
        )

    was_training = model.training
    model.eval()
    n_right = 0
    n_questions = 0
    try:
        with torch.no_grad():
            for batch_tokens, batch_labels in zip(
                tokens.split(batch_size), labels.split(batch_size), strict=True
            ):
                logits, answers = _labelled_logits(model, batch_tokens, batch_labels)
                n_right += int((logits.argmax(-1) == answers).sum())
                n_questions += len(answers)
    finally:
        model.train(was_training)
    return n_right / n_questions


def _labelled_logits(
    model: BasedForCausalLM, tokens: Tensor, labels: Tensor
) -> tuple[Tensor, Tensor]:
    """Logits at the labelled positions, [question, vocab], and the labels there.

    The head is applied to these alone: most of its work would be for the others.
    """
    is_labelled = labels != UNLABELLED
    hidden = model.model(tokens, use_cache=False).last_hidden_state
    return model.lm_head(hidden[is_labelled]), labels[is_labelled]
