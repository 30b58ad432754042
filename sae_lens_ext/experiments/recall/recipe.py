"""A model for MQAR and how it is trained, as values that can be compared and saved."""

from dataclasses import dataclass

import torch

from sae_lens_ext import _arguments as arguments
from sae_lens_ext._fields import FieldChecks
from sae_lens_ext.based.config import ATTENTION, FEATURE_MAPS, BasedConfig, LayerType
from sae_lens_ext.based.model import BasedForCausalLM
from sae_lens_ext.experiments.checks import check_instance
from sae_lens_ext.experiments.recall.task import MQAR


@dataclass(frozen=True)
class Recipe:
    """A model for the task and how it is trained. The defaults are as published.

    ``kernel="attention"`` puts softmax attention after the same convolution, which
    shows how well a model of this size can do.

    Small models leave the start much sooner with an ``init_std`` above the published
    0.02, and with ``fewest_pairs``: a model that can tell few pairs apart soon can tell
    many. Each batch then has one number of pairs, drawn at random. Without learned
    positions a model can be asked about longer texts than it was trained on, which is
    what ``train_seq_len`` is for. Tests are always of the task itself.

    Raises:
        InvalidArgument: a field is out of range, ``d_model`` is smaller than ``heads``,
            or there are fewer training examples than one batch takes.
    """

    kernel: str = "rebased"
    """Feature map of linear attention, or "attention" for softmax attention."""
    d_model: int = 64
    """Width of the residual stream."""
    heads: int = 12
    """Heads of linear attention; softmax attention has one."""
    feature_dim: int = 16
    """Width of a query and a key of one head of linear attention."""
    learned_positions: bool = True
    """Whether positions are learned, as in ReBased's models; Zoology's have none."""
    init_std: float = 0.02
    """Standard deviation of the weights before training."""
    lr: float = 3e-3
    """Highest learning rate; it falls to 0 along half a cosine."""
    seed: int = 42
    """Seed of the weights, of the order of examples, and of examples drawn anew."""
    steps: int = 12500
    """Optimizer steps, at most; training ends once a test finds more than 99 %."""
    batch_size: int = 512
    """Sequences per step."""
    weight_decay: float = 0.1
    """Weight decay of AdamW, applied to every parameter."""
    fewest_pairs: int | None = None
    """Train on as few pairs too, twice as many, and so on; by default only on all."""
    train_seq_len: int | None = None
    """Tokens in a training sequence; by default as many as in the task."""
    train_examples: int | None = 100_000
    """Training sequences of each number of pairs; None draws new ones every step."""
    test_examples: int = 3000
    """Sequences to test on, none of which are trained on."""
    evaluations: int = 64
    """Number of tests during training; the best one counts, as published."""

    def __post_init__(self) -> None:
        """Check the fields, then the relations between them."""
        with FieldChecks(self) as check:
            check(arguments.choice, "kernel", choices=(*FEATURE_MAPS, ATTENTION))
            check(
                arguments.positive_int,
                "d_model",
                "heads",
                "feature_dim",
                "steps",
                "batch_size",
                "test_examples",
                "evaluations",
            )
            check(
                arguments.positive_int,
                "fewest_pairs",
                "train_seq_len",
                "train_examples",
                optional=True,
            )
            # A table of results holds seeds as signed 64-bit integers.
            check(arguments.integer, "seed", at_least=0, at_most=(1 << 63) - 1)
            check(arguments.finite, "init_std", "lr", above=0.0)
            check(arguments.finite, "weight_decay", at_least=0.0)
            check(arguments.flag, "learned_positions")

        with FieldChecks(self) as check:
            check.that(
                self.d_model >= self.heads,
                f"d_model={self.d_model} must be at least heads={self.heads}, so that "
                "every head has a value; use fewer heads",
            )
            check.that(
                self.train_examples is None or self.train_examples >= self.batch_size,
                f"train_examples={self.train_examples} must be at least "
                f"batch_size={self.batch_size}; use more, or None to draw new examples "
                "in every step",
            )


@dataclass(frozen=True)
class Outcome:
    """The result of training by a recipe."""

    accuracy: float
    """Best share of questions answered, over all tests during training."""
    last_accuracy: float
    """Share of questions answered in the last test."""
    solved_at: int
    """First step after which a test found at least 90 %; -1 if there was none."""
    seconds: float
    """Duration of the training."""
    diverged: bool = False
    """Whether training ended because the loss was not finite; that test counts as 0."""


def model_for(recipe: Recipe, task: MQAR) -> BasedForCausalLM:
    """Create the untrained model of a recipe.

    It is that of the papers' synthetic tasks: a convolution, then attention, with
    learned positions and LayerNorm, and without an MLP. The weights depend on the
    recipe's seed, and torch's own random numbers stay as they were.

    Raises:
        InvalidArgument: arguments of other classes.
    """
    check_instance(recipe, Recipe, "recipe")
    check_instance(task, MQAR, "task")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        return build_model(recipe, task)


def build_model(recipe: Recipe, task: MQAR) -> BasedForCausalLM:
    """Create the model with weights from torch's random numbers as they stand."""
    if recipe.kernel == ATTENTION:
        layers: list[LayerType] = ["conv", "full_attention"]
        heads = 1
        # A name that every config has to hold; full attention does not use it.
        feature_map = "based"
    else:
        layers = ["conv", "linear_attention"]
        heads = recipe.heads
        feature_map = recipe.kernel

    # As the papers' models for synthetic tasks: without an MLP, and without smaller
    # initial weights where layers write into the residual stream.
    config = BasedConfig(
        kernel=feature_map,  # pyright: ignore[reportArgumentType] - checked by Recipe
        vocab_size=task.vocab_size,
        hidden_size=recipe.d_model,
        num_hidden_layers=2,
        num_attention_heads=heads,
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
