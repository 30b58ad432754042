"""Multi-query associative recall (MQAR): does a model find what it read earlier?

A sequence first names keys and their values, and later asks for the values of those
keys (k: key, v: value, 0: filler)::

    position   0   1   2   3   4   5  |  6   7   8   9  10  11  12  13
    input     k1  v1  k2  v2  k3  v3  | k2   0  k1   0   0   0  k3   0
    label      .   .   .   .   .   .  | v2   .  v1   .   .   .  v3   .

Only the labelled positions count. Every second position after the context is a slot
that can hold a question, and early slots are likelier: the keys draw their slots in the
order in which they are named, without replacement, the r-th slot with a probability
proportional to r^(a - 1); a is ``power_a``.

In a model of two layers the expected circuit is a convolution that writes each key onto
the position of its value, and attention that finds the key there and copies the value.

Source: Arora et al. 2023, "Zoology" (arXiv 2312.04927); the settings of Aksenov et al.
2024 (arXiv 2402.10644).
"""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Int
from torch import Tensor

from sae_lens_ext import _arguments as arguments
from sae_lens_ext._fields import FieldChecks
from sae_lens_ext.errors import InvalidArgument

UNLABELLED = -100
"""The label of a position that does not count."""


@dataclass(frozen=True)
class MQAR:
    """The task: how long its sequences are, what they hold, and where they ask.

    >>> task = MQAR(seq_len=12, pairs=3, vocab_size=64)
    >>> tokens, labels = task.sample(2, np.random.default_rng(0))
    >>> tokens.shape, int((labels != UNLABELLED).sum())
    (torch.Size([2, 12]), 6)

    The published generator requires a vocabulary larger than a sequence is long;
    nothing here depends on that, and each half of the vocabulary only needs room for
    all pairs.

    Raises:
        InvalidArgument: a field is out of range, or the sequence has no room for the
            pairs.
    """

    seq_len: int = 256
    """Tokens in a sequence, an even number and at least four per pair."""
    pairs: int = 32
    """Keys that a sequence names; each is asked for once."""
    vocab_size: int = 8192
    """Number of tokens; keys are in the lower half, values in the upper, 0 fills."""
    power_a: float = 0.01
    """Exponent of where questions are; 1 is anywhere, and the smaller, the earlier."""
    random_non_queries: bool = False
    """Fill the positions where nothing is asked with random tokens instead of 0."""

    def __post_init__(self) -> None:
        """Check the fields, then that sequence and vocabulary have room for pairs."""
        with FieldChecks(self) as check:
            check(arguments.positive_int, "seq_len", "pairs", "vocab_size")
            check(arguments.finite, "power_a")
            check(arguments.flag, "random_non_queries")

        # A pair is two tokens, and has a slot of two positions for its question. The
        # vocabulary also has the filler, and halves of equal size.
        smallest_vocabulary = 2 * self.pairs + 2
        shortest = 4 * self.pairs
        is_even = self.seq_len % 2 == 0
        has_room = is_even and self.seq_len >= shortest
        has_tokens = self.vocab_size >= smallest_vocabulary
        with FieldChecks(self) as check:
            check.that(
                has_room,
                "seq_len must be even and at least 4 * pairs; "
                f"got seq_len={self.seq_len}, pairs={self.pairs}",
            )
            check.that(
                has_tokens,
                f"vocab_size must be at least {smallest_vocabulary} for {self.pairs} "
                f"keys, {self.pairs} values and the filler; got {self.vocab_size}",
            )

    def sample(
        self,
        n: int,
        generator: np.random.Generator,
    ) -> tuple[Int[Tensor, "n pos"], Int[Tensor, "n pos"]]:
        """Draw ``n`` sequences and their labels.

        Args:
            n: number of sequences.
            generator: of numpy, such as ``numpy.random.default_rng(0)``.

        Returns:
            The tokens, and the labels, ``UNLABELLED`` where nothing is asked.

        Raises:
            InvalidArgument: ``n`` is not a non-negative integer, or ``generator`` is
                not one of numpy.
        """
        n = arguments.integer(n, "n", at_least=0)
        if not isinstance(generator, np.random.Generator):
            kind = type(generator)
            raise InvalidArgument(
                "generator must be a numpy.random.Generator, such as "
                "numpy.random.default_rng(0); got an object of type "
                f"{kind.__module__}.{kind.__name__}"
            )
        context = 2 * self.pairs
        tail = self.seq_len - context

        first_value = self.vocab_size // 2
        n_values = self.vocab_size - first_value

        # Keys start at 1, because 0 is the filler. The order of the draws is part of
        # what a seed means.
        n_keys = first_value - 1
        keys = 1 + _distinct(generator, n, n_keys, self.pairs)
        values = first_value + _distinct(generator, n, n_values, self.pairs)
        slots = self._slots(n, generator)
        questions = context + 2 * slots

        shape = (n, self.seq_len)
        tokens = np.zeros(shape, dtype=np.int64)
        if self.random_non_queries:
            fillers = generator.integers(self.vocab_size, size=(n, tail))
            tokens[:, context:] = fillers
        tokens[:, 0:context:2] = keys
        tokens[:, 1:context:2] = values
        # After the fillers, which may be random.
        np.put_along_axis(tokens, questions, keys, axis=1)

        labels = np.full(shape, UNLABELLED, dtype=np.int64)
        np.put_along_axis(labels, questions, values, axis=1)
        return torch.from_numpy(tokens), torch.from_numpy(labels)

    def _slots(self, n: int, generator: np.random.Generator) -> npt.NDArray[np.integer]:
        """Draw a slot for each key, [n, pairs]; slot 0 is the first after the context.

        Adding Gumbel noise to the logarithms of the probabilities and taking the
        largest sums is the same as drawing one slot after the other without
        replacement.
        """
        tail = self.seq_len - 2 * self.pairs
        n_slots = tail // 2
        ranks = np.arange(1, n_slots + 1)
        exponent = self.power_a - 1
        log_probabilities = exponent * np.log(ranks)

        noise = generator.gumbel(size=(n, n_slots))
        sums = log_probabilities + noise
        order = np.argsort(-sums, axis=1)
        return order[:, : self.pairs]


def _distinct(
    generator: np.random.Generator,
    n: int,
    below: int,
    count: int,
) -> npt.NDArray[np.integer]:
    """Draw rows of distinct numbers from 0 to ``below - 1``, [n, count].

    Every order of every choice of numbers is equally likely.
    """
    numbers = generator.integers(below, size=(n, count))
    while True:
        ordered = np.sort(numbers, axis=1)
        repeats = ordered[:, 1:] == ordered[:, :-1]
        has_repeats = repeats.any(axis=1)
        if not has_repeats.any():
            return numbers

        # With this many numbers per row most rows would have to be drawn again, and
        # again; shuffling is faster.
        has_likely_repeats = count * count > below
        if has_likely_repeats:
            return _first_of_shuffled(generator, n, below, count)

        n_repeated = int(has_repeats.sum())
        new_rows = generator.integers(below, size=(n_repeated, count))
        numbers[has_repeats] = new_rows


def _first_of_shuffled(
    generator: np.random.Generator,
    n: int,
    below: int,
    count: int,
) -> npt.NDArray[np.integer]:
    """The first ``count`` of all numbers below ``below``, shuffled anew in each row."""
    # All numbers take part, so a few rows at a time: 5,000 rows of 4,095 numbers and
    # their order would be 328 MB.
    rows_at_a_time = max(1, (1 << 22) // below)
    n_parts = math.ceil(n / rows_at_a_time)
    parts = []
    for rows in np.array_split(np.arange(n), n_parts):
        shape = (len(rows), below)
        # The order of random numbers is a random order of the numbers below ``below``.
        order = np.argsort(generator.random(shape), axis=1)
        # A view would keep the whole order alive.
        first_numbers = order[:, :count].copy()
        parts.append(first_numbers)
    return np.concatenate(parts)
