"""Multi-query associative recall: does a model find what it was told earlier?

A sequence names keys and their values, and asks for them later (k: key, v: value, 0: filler)::

    position   0   1   2   3   4   5  |  6   7   8   9  10  11  12  13
    input     k1  v1  k2  v2  k3  v3  | k2   0  k1   0   0   0  k3   0
    label      .   .   .   .   .   .  | v2   .  v1   .   .   .  v3   .

Only the labelled positions count. Every second place after the context can hold a question, and early ones tend to: the r-th is drawn
with a probability proportional to r^(a - 1), for the first key first. In a model of two layers the expected circuit is a convolution that
writes each key onto its value's position, and attention that finds the key there and copies the value.

Source: Arora et al. 2023, "Zoology" (arXiv 2312.04927); the settings of Aksenov et al. 2024 (arXiv 2402.10644).
"""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor
from torch.nn import functional as F

from sae_lens_ext import _arguments as arguments
from sae_lens_ext._arguments import as_integer, as_real
from sae_lens_ext.based.config import ATTENTION, FEATURE_MAPS, BasedConfig, LayerType
from sae_lens_ext.based.model import BasedForCausalLM
from sae_lens_ext.errors import InvalidArgument

# Different streams of random numbers, so that no seed of a recipe trains on what it is tested on.
_TRAINED_ON, _TESTED_ON, _ORDER = (42, 1), (52, 2), 3

UNLABELLED = -100
"""The label of a position that does not count."""


@dataclass(frozen=True)
class MQAR:
    """The task.

    >>> tokens, labels = MQAR(seq_len=12, pairs=3, vocab_size=64).sample(2, np.random.default_rng(0))
    >>> tokens.shape, int((labels != UNLABELLED).sum())
    (torch.Size([2, 12]), 6)

    Attributes:
        seq_len: how many tokens a sequence has; even, and at least four for every pair.
        pairs: how many keys it names; each is asked for once.
        vocab_size: of keys, values and the filler 0. Keys are from the lower half, values from the upper; each half has room for all pairs.
            The published generator wants more tokens than a sequence is long, which nothing here depends on.
        power_a: a, above; the smaller, the earlier the questions.
        random_non_queries: fill the places where nothing is asked with any tokens instead of 0.
    """

    seq_len: int = 256
    pairs: int = 32
    vocab_size: int = 8192
    power_a: float = 0.01
    random_non_queries: bool = False

    def __post_init__(self) -> None:
        """Refuse a task that cannot be laid out."""
        for name in ("seq_len", "pairs", "vocab_size"):
            _whole(self, name)
        _real(self, "power_a", -math.inf)
        _truth(self, "random_non_queries")
        if self.seq_len % 2 or self.pairs < 1 or 4 * self.pairs > self.seq_len:
            raise InvalidArgument(
                f"seq_len must be even and at least 4 for each of the pairs; got seq_len={self.seq_len}, pairs={self.pairs}"
            )
        if self.vocab_size < (least := 2 * self.pairs + 2):
            raise InvalidArgument(
                f"vocab_size must be at least {least}, for {self.pairs} keys, as many values and the filler; got {self.vocab_size}"
            )

    def sample(
        self, n: int, generator: np.random.Generator
    ) -> tuple[Int[Tensor, "n pos"], Int[Tensor, "n pos"]]:
        """Sequences and their labels, ``UNLABELLED`` where nothing is asked."""
        half, context = self.vocab_size // 2, 2 * self.pairs
        keys = 1 + _distinct(generator, n, half - 1, self.pairs)
        values = half + _distinct(generator, n, self.vocab_size - half, self.pairs)
        slots = np.arange(1, (self.seq_len - context) // 2 + 1)
        # Numbers with Gumbel noise on the logarithms of their probabilities, largest first, are draws one after the other.
        weights = (self.power_a - 1) * np.log(slots) + generator.gumbel(
            size=(n, len(slots))
        )
        places = context + 2 * np.argsort(-weights, axis=1)[:, : self.pairs]
        tokens, labels = (
            np.zeros((n, self.seq_len), dtype=np.int64),
            np.full((n, self.seq_len), UNLABELLED, dtype=np.int64),
        )
        if self.random_non_queries:
            tokens[:, context:] = generator.integers(
                self.vocab_size, size=(n, self.seq_len - context)
            )
        tokens[:, 0:context:2], tokens[:, 1:context:2] = keys, values
        np.put_along_axis(tokens, places, keys, axis=1)
        np.put_along_axis(labels, places, values, axis=1)
        return torch.from_numpy(tokens), torch.from_numpy(labels)


@dataclass(frozen=True)
class Recipe:
    """A model for the task and how it is trained.

    Attributes:
        kernel: of linear attention (see ``FEATURE_MAPS``), or "attention": softmax attention after the same convolution, which is how far
            one can get.
        d_model: width of the residual stream.
        heads: of linear attention; softmax attention has one.
        feature_dim: of linear attention.
        learned_positions: whether the model has them, as ReBased's has; Zoology's has none.
        init_std: standard deviation of the weights before training. Small models leave the start much sooner with more than the
            published 0.02.
        lr: the highest learning rate; it falls to 0 along half a cosine.
        seed: of the weights and of the order of the examples; of the examples themselves where every step has new ones.
        steps: of the optimizer, AdamW with weight decay on everything.
        batch_size: in sequences.
        weight_decay: of it.
        fewest_pairs: train on sequences of as few pairs too, of twice as many, and so on up to those of the task, each batch of one number
            of pairs, drawn anew: who can tell few pairs apart soon can tell many. None trains on the task alone. Tests are of the task.
        train_seq_len: train on sequences of so many tokens instead of the task's; None for those. Without learned positions a model can be
            asked about longer texts than it has seen.
        train_examples: how many different sequences there are, of each number of pairs; None makes new ones for every step.
        test_examples: how many others it is tested on.
        evaluations: how often it is tested; the best counts, as published.
    """

    kernel: str = "rebased"
    d_model: int = 64
    heads: int = 12
    feature_dim: int = 16
    learned_positions: bool = True
    init_std: float = 0.02
    lr: float = 3e-3
    seed: int = 42
    steps: int = 12500
    batch_size: int = 512
    weight_decay: float = 0.1
    fewest_pairs: int | None = None
    train_seq_len: int | None = None
    train_examples: int | None = 100_000
    test_examples: int = 3000
    evaluations: int = 64

    def __post_init__(self) -> None:
        """Refuse what is no recipe."""
        if self.kernel not in (*FEATURE_MAPS, ATTENTION):
            raise InvalidArgument(
                f"kernel must be one of {', '.join((*FEATURE_MAPS, ATTENTION))}; got {self.kernel!r}"
            )
        for name in (
            "d_model",
            "heads",
            "feature_dim",
            "steps",
            "batch_size",
            "test_examples",
            "evaluations",
        ):
            _whole(self, name)
        for name in ("fewest_pairs", "train_seq_len", "train_examples"):
            if getattr(self, name) is not None:
                _whole(self, name)
        _whole(self, "seed", least=0)
        if self.seed >= 1 << 63:
            raise InvalidArgument(f"seed must be below 2**63; got {self.seed}")
        _real(self, "init_std", 0.0)
        _real(self, "lr", 0.0)
        _real(self, "weight_decay", 0.0, is_least_allowed=True)
        _truth(self, "learned_positions")
        if self.d_model < self.heads:
            raise InvalidArgument(
                f"d_model={self.d_model} leaves no value for each of {self.heads} heads; give fewer heads"
            )
        if self.train_examples is not None and self.train_examples < self.batch_size:
            raise InvalidArgument(
                f"train_examples={self.train_examples} are fewer than one batch of batch_size={self.batch_size}; "
                "give more, or none at all for new ones in every step"
            )


@dataclass(frozen=True)
class Outcome:
    """What came of a recipe.

    Attributes:
        accuracy: the best share of questions answered, over all tests during training.
        last_accuracy: in the last test.
        solved_at: the first step after which a test found at least 90 %, -1 if none did.
        seconds: it took.
        diverged: whether it ended because the loss was no longer finite; what such a model answers is not counted as right.
    """

    accuracy: float
    last_accuracy: float
    solved_at: int
    seconds: float
    diverged: bool = False


def model_for(recipe: Recipe, task: MQAR) -> BasedForCausalLM:
    """A convolution, then attention; learned positions, LayerNorm, and no MLP: the models of the papers' synthetic tasks."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        return _new_model(recipe, task)


def _new_model(recipe: Recipe, task: MQAR) -> BasedForCausalLM:
    is_softmax = recipe.kernel == ATTENTION
    layers: list[LayerType] = [
        "conv",
        "full_attention" if is_softmax else "linear_attention",
    ]
    config = BasedConfig(
        kernel="based" if is_softmax else recipe.kernel,  # pyright: ignore[reportArgumentType] - checked by Recipe
        vocab_size=task.vocab_size,
        hidden_size=recipe.d_model,
        num_hidden_layers=2,
        num_attention_heads=1 if is_softmax else recipe.heads,
        feature_dim=recipe.feature_dim,
        layer_types=layers,
        conv_form="base",
        mlp="identity",
        norm="layer",
        use_rope=False,
        max_position_embeddings=task.seq_len if recipe.learned_positions else None,
        embedding_dropout=0.1,
        initializer_range=recipe.init_std,
        rescale_prenorm_residual=False,
    )
    return BasedForCausalLM(config)


def trained_on(recipe: Recipe, task: MQAR) -> list[MQAR]:
    """The tasks that batches are of: with the fewest pairs first, and as many as ``task`` has last.

    Raises:
        InvalidArgument: the fewest pairs are more than those of the task, training is on other lengths than there are learned positions
            for, or the task cannot be laid out in the length that is trained on.
    """
    if recipe.train_seq_len not in (None, task.seq_len):
        if recipe.learned_positions:
            raise InvalidArgument(
                f"train_seq_len={recipe.train_seq_len} is not the task's seq_len={task.seq_len}, and positions that are not trained on are "
                "not learned; give learned_positions=False"
            )
        try:
            task = replace(task, seq_len=recipe.train_seq_len)
        except InvalidArgument as error:
            raise InvalidArgument(
                f"train_seq_len={recipe.train_seq_len} cannot be trained on: {error}"
            ) from error
    found, pairs = [task], recipe.fewest_pairs or task.pairs
    if pairs > task.pairs:
        raise InvalidArgument(
            f"fewest_pairs={pairs} are more than the task's pairs={task.pairs}; give fewer, or none"
        )
    while pairs < task.pairs:
        found.insert(-1, replace(task, pairs=pairs))
        pairs *= 2
    return found


def accuracy(
    model: BasedForCausalLM,
    tokens: Int[Tensor, "n pos"],
    labels: Int[Tensor, "n pos"],
    batch_size: int | None = None,
) -> float:
    """The share of labelled positions at which the model's first choice, among all tokens, is the label.

    Args:
        model: which is asked.
        tokens: sequences.
        labels: what is right, ``UNLABELLED`` where nothing is asked.
        batch_size: in sequences; None for as many as have 65,536 tokens together, so that memory does not grow with their length.

    Raises:
        InvalidArgument: no position has a label, tokens and labels differ in shape, or ``batch_size`` is none.
    """
    if tokens.shape != labels.shape or tokens.ndim != 2:
        raise InvalidArgument(
            f"tokens and labels must both be [n, pos]; got {tuple(tokens.shape)} and {tuple(labels.shape)}"
        )
    if batch_size is None:
        batch_size = max(1, 65_536 // tokens.shape[1])
    elif (as_integer(batch_size) or 0) < 1:
        raise InvalidArgument(
            f"batch_size must be a whole number from 1 on; got {batch_size!r}"
        )
    if not bool((labels != UNLABELLED).any()):
        raise InvalidArgument(
            f"there is nothing to answer: every label is {UNLABELLED}; give tokens and labels of MQAR.sample"
        )
    was_training = model.training
    model.eval()
    right = total = 0
    try:
        with torch.no_grad():
            for some_tokens, some_labels in zip(
                tokens.split(batch_size), labels.split(batch_size), strict=True
            ):
                logits, wanted = _labelled_logits(model, some_tokens, some_labels)
                right, total = (
                    right + int((logits.argmax(-1) == wanted).sum()),
                    total + len(wanted),
                )
    finally:
        model.train(was_training)
    return right / total


def train_mqar(
    recipe: Recipe,
    task: MQAR,
    *,
    device: torch.device | str = "cpu",
    on_test: Callable[[int, float], object] | None = None,
) -> tuple[BasedForCausalLM, Outcome]:
    """Train a model; stops early once a test finds more than 99 %, as published, and where the loss is no longer finite.

    The test's sequences are the same for every recipe of a task. Random numbers are the recipe's own: those that come next elsewhere in
    the process stay what they were.

    Args:
        recipe: which model, and how.
        task: what it learns.
        device: where.
        on_test: told the step and the accuracy of every test.

    Raises:
        InvalidArgument: models cannot be trained on ``device``, or the recipe is none for this task (see ``trained_on``).
    """
    arguments.device(device)
    batches = _batches(recipe, task)
    start = time.perf_counter()
    with torch.random.fork_rng(
        devices=[device] if torch.device(device).type == "cuda" else []
    ):
        torch.manual_seed(recipe.seed)
        model: Any = _new_model(recipe, task)
        model.to(device).train()
        test_tokens, test_labels = (
            one.to(device)
            for one in task.sample(
                recipe.test_examples, np.random.default_rng(_TESTED_ON)
            )
        )
        optimizer = torch.optim.AdamW(
            model.parameters(),
            lr=recipe.lr,
            weight_decay=recipe.weight_decay,
            fused=True,
        )
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, recipe.steps)
        found: list[tuple[int, float]] = []
        every, diverged = math.ceil(recipe.steps / recipe.evaluations), False
        for step, (tokens, labels) in enumerate(batches, start=1):
            logits, wanted = _labelled_logits(
                model, tokens.to(device), labels.to(device)
            )
            loss = F.cross_entropy(logits.float(), wanted)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            if step % every and step < recipe.steps:
                continue
            # Asked only here, because a GPU would have to be waited for; once weights are not finite, no later loss is.
            diverged = not math.isfinite(loss.item())
            found.append(
                (step, 0.0 if diverged else accuracy(model, test_tokens, test_labels))
            )
            if on_test is not None:
                on_test(*found[-1])
            if diverged or found[-1][1] > 0.99:
                break
    solved = next((step for step, share in found if share >= 0.9), -1)
    best = max(share for _, share in found)
    return model.eval(), Outcome(
        best, found[-1][1], solved, time.perf_counter() - start, diverged
    )


# What is given becomes Python's own number, so that equal tasks and recipes are written the same way.


def _whole(given: object, name: str, least: int = 1) -> None:
    number = as_integer(value := getattr(given, name))
    if number is None or number < least:
        raise InvalidArgument(
            f"{name} must be a whole number from {least} on; got {value!r}"
        )
    object.__setattr__(given, name, number)


def _real(
    given: object, name: str, least: float, *, is_least_allowed: bool = False
) -> None:
    number = as_real(value := getattr(given, name))
    if (
        not math.isfinite(number)
        or number < least
        or (number == least and not is_least_allowed)
    ):
        wanted = (
            "finite number"
            if math.isinf(least)
            else f"number {'from' if is_least_allowed else 'above'} {least:g}"
        )
        raise InvalidArgument(
            f"{name} must be a {wanted}{' on' * is_least_allowed}; got {value!r}"
        )
    object.__setattr__(given, name, number)


def _truth(given: object, name: str) -> None:
    if not isinstance(value := getattr(given, name), bool | np.bool_):
        raise InvalidArgument(f"{name} must be True or False; got {value!r}")
    object.__setattr__(given, name, bool(value))


def _labelled_logits(
    model: BasedForCausalLM, tokens: Tensor, labels: Tensor
) -> tuple[Tensor, Tensor]:
    """Logits where something is asked, and what is right there: most of the work of the head is for the others."""
    is_labelled = labels != UNLABELLED
    hidden = model.model(tokens, use_cache=False).last_hidden_state
    return model.lm_head(hidden[is_labelled]), labels[is_labelled]


def _batches(recipe: Recipe, task: MQAR) -> Iterator[tuple[Tensor, Tensor]]:
    generator, tasks = (
        np.random.default_rng((recipe.seed, _ORDER)),
        trained_on(recipe, task),
    )
    make = _new if recipe.train_examples is None else _shuffled
    endless = [make(recipe, one, generator) for one in tasks]
    return (next(endless[generator.integers(len(tasks))]) for _ in range(recipe.steps))


def _new(
    recipe: Recipe, task: MQAR, generator: np.random.Generator
) -> Iterator[tuple[Tensor, Tensor]]:
    """Other examples every time."""
    while True:
        yield task.sample(recipe.batch_size, generator)


def _shuffled(
    recipe: Recipe, task: MQAR, generator: np.random.Generator
) -> Iterator[tuple[Tensor, Tensor]]:
    """The same examples again and again, in another order each time."""
    tokens, labels = task.sample(
        recipe.train_examples or 0, np.random.default_rng(_TRAINED_ON)
    )
    while True:
        for some in torch.from_numpy(generator.permutation(len(tokens))).split(
            recipe.batch_size
        ):
            if len(some) == recipe.batch_size:
                yield tokens[some], labels[some]


def _distinct(generator: np.random.Generator, n: int, below: int, count: int) -> Any:
    """[n, count], numbers from 0 to below - 1, no two of a row alike, every order as likely."""
    found = generator.integers(below, size=(n, count))
    while True:
        ordered = np.sort(found, axis=1)
        again = (ordered[:, 1:] == ordered[:, :-1]).any(axis=1)
        if not again.any():
            return found
        if count * count > below:
            # So many would be drawn again that shuffling is faster; of a few rows at a time, because all numbers below take part.
            rows = max(1, (1 << 22) // below)
            shuffled = (
                generator.random((len(some), below))
                for some in np.array_split(found, math.ceil(n / rows))
            )
            return np.concatenate(
                [np.argsort(some, axis=1)[:, :count].copy() for some in shuffled]
            )
        found[again] = generator.integers(below, size=(int(again.sum()), count))
