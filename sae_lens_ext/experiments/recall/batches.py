"""The sequences that a recipe trains on and is tested on."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from sae_lens_ext.errors import InvalidArgument
from sae_lens_ext.experiments.recall.recipe import Recipe
from sae_lens_ext.experiments.recall.task import MQAR

# Separate streams of random numbers, so that training with any recipe's seed draws
# other sequences than those of the test.
_TRAINING_SEED = (42, 1)
_TEST_SEED = (52, 2)
_ORDER = 3


def training_tasks(recipe: Recipe, task: MQAR) -> list[MQAR]:
    """The tasks that training batches are drawn from.

    The first has ``fewest_pairs``, each next one twice as many, and the last as many as
    ``task``. All have the length of the training sequences.

    Raises:
        InvalidArgument: ``fewest_pairs`` exceeds the pairs of the task, training is on
            another length although positions are learned, or the task does not fit in
            that length.
    """
    if recipe.train_seq_len not in (None, task.seq_len):
        if recipe.learned_positions:
            raise InvalidArgument(
                f"train_seq_len must be the task's seq_len={task.seq_len} where "
                "positions are learned, so that all of them are trained; "
                f"got {recipe.train_seq_len}; give learned_positions=False"
            )

        # Shorter texts may have no room for the pairs of the task.
        try:
            task = replace(task, seq_len=recipe.train_seq_len)
        except InvalidArgument as error:
            raise InvalidArgument(
                f"train_seq_len={recipe.train_seq_len} does not fit the task: {error}"
            ) from error

    pairs = recipe.fewest_pairs or task.pairs
    if pairs > task.pairs:
        raise InvalidArgument(
            f"fewest_pairs must not exceed the task's pairs={task.pairs}; got {pairs}"
        )

    tasks = []
    while pairs < task.pairs:
        tasks.append(replace(task, pairs=pairs))
        pairs *= 2
    return [*tasks, task]


def batches(recipe: Recipe, task: MQAR) -> Iterator[tuple[Tensor, Tensor]]:
    """Tokens and labels, [batch, pos], for every step.

    Each batch is of one of the ``training_tasks``, drawn at random.

    Raises:
        InvalidArgument: the recipe does not fit the task; see ``training_tasks``.
    """
    generator = np.random.default_rng((recipe.seed, _ORDER))
    tasks = training_tasks(recipe, task)

    # All streams draw from one generator, so that the order of their draws is fixed.
    n_examples = recipe.train_examples
    batch_size = recipe.batch_size
    if n_examples is None:
        streams = [_new_examples(part, batch_size, generator) for part in tasks]
    else:
        streams = [
            _fixed_examples(part, n_examples, batch_size, generator) for part in tasks
        ]
    return (next(streams[generator.integers(len(tasks))]) for _ in range(recipe.steps))


def held_out(
    recipe: Recipe, task: MQAR
) -> tuple[Int[Tensor, "n pos"], Int[Tensor, "n pos"]]:
    """Tokens and labels of the test, the same for every recipe of a task."""
    generator = np.random.default_rng(_TEST_SEED)
    return task.sample(recipe.test_examples, generator)


def _new_examples(
    task: MQAR, batch_size: int, generator: np.random.Generator
) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches of new sequences, without end."""
    while True:
        yield task.sample(batch_size, generator)


def _fixed_examples(
    task: MQAR,
    n_examples: int,
    batch_size: int,
    generator: np.random.Generator,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches of the same sequences, without end, in a new order in every epoch.

    Sequences at the end of an epoch that do not fill a batch wait for another epoch.
    """
    training_generator = np.random.default_rng(_TRAINING_SEED)
    tokens, labels = task.sample(n_examples, training_generator)

    while True:
        # The tensor shares the memory of the permutation.
        permutation = generator.permutation(n_examples)
        order = torch.from_numpy(permutation)
        for rows in order.split(batch_size):
            if len(rows) == batch_size:
                yield tokens[rows], labels[rows]
