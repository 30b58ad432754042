"""What a training is: the settings that decide about the weights.

The sentence under a field is the help of its option on the command line.
"""

from dataclasses import dataclass, field
from typing import Any

from sae_lens_ext import _arguments as arguments
from sae_lens_ext._described import described
from sae_lens_ext._fields import FieldChecks
from sae_lens_ext.errors import InvalidArgument
from sae_lens_ext.objectives import HierarchicalTopK, Objective
from sae_lens_ext.sae import SAE
from sae_lens_ext.training.schedules import active_features, learning_rate

# The range that torch accepts for a seed.
_LARGEST_SEED = (1 << 63) - 1
# Gao et al. 2024, Appendix A.2.
_DEAD_AFTER = 10_000_000


def _recipe() -> Objective:
    """HierarchicalTopK with the weights that were best; see ``docs/recipe.md``."""
    return HierarchicalTopK(weights="half_on_largest")


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """The size of an SAE and how it is trained.

    The defaults are the recipe of ``docs/recipe.md``. How a run is saved, evaluated and
    logged is in ``RunConfig``.

    Raises:
        InvalidArgument: one or more fields are invalid; the message names them all.
    """

    d_sae: int
    """Number of features."""

    k: int
    """Active features per token, the largest k that the SAE is trained for."""

    objective: Objective = field(default_factory=_recipe)
    """The loss to minimise; by default HierarchicalTopK with half of the weight on the
    largest level."""

    n_tokens: int | None = None
    """Tokens to train on; by default all that a stream has."""

    epochs: int | None = None
    """Passes over activations in memory; by default 3, or as many as ``n_tokens``
    takes. A stream says itself how often it is read."""

    batch_size: int = 512
    """Tokens per step. In a long training of a large dictionary, more are as good, and
    the optimizer takes a smaller share of the time (Gao et al. 2024 use 131,072)."""

    lr: float = 8e-3
    """Peak learning rate of Adam. The default is for some hundreds to thousands of
    steps; longer trainings want less, such as 8e-4 for 100,000."""

    encoder_lr: float | None = None
    """Peak learning rate of the encoder and the thresholds; None for ``lr``. With 0
    they stay as they are."""

    warmup: float = 0.05
    """Share of the steps, at the start, over which the learning rate rises from 0."""

    decay: float = 0.8
    """Share of the steps, at the end, over which the learning rate falls to 0."""

    betas: tuple[float, float] = (0.9, 0.99)
    """Decay rates of Adam's two averages (Kingma and Ba 2015; Gao et al. 2024 use 0.9
    and 0.999)."""

    clip: float | None = None
    """Largest norm of the gradient of all weights together; None for no limit. Gao et
    al. 2024 use 1.0."""

    k_start: int | None = None
    """k of the first step, from which it goes linearly to ``k``; None starts at ``k``.
    The SAE's own config has ``k`` either way. More features at first let more of them
    learn (sparsify and dictionary_learning offer it too)."""

    k_decay: float = 0.1
    """Share of the steps, at the start, over which k changes from ``k_start``."""

    dtype: str = "float32"
    """float32, or bfloat16 for the encoder's product (the weights, the loss and the
    optimizer stay float32). Twice as fast where the hardware multiplies bfloat16, and
    several times slower on a CPU that does not."""

    eight_bit: bool = False
    """Whether Adam keeps its two averages in 8 bits, by torchao: a quarter of the
    memory (Dettmers et al. 2022)."""

    dead_after: int | None = None
    """Tokens without being active after which a feature counts as dead; None takes one
    pass over activations in memory. For a stream it takes 10 million tokens (Gao et al.
    2024), or a tenth of the training if that is less."""

    revive_every: int | None = None
    """Steps between two revivals of dead features, which point them to tokens that are
    reconstructed badly (Bricken et al. 2023); None for no revival. There is none while
    the learning rate falls."""

    freeze_decoder: bool = False
    """Whether the decoder's rows keep the directions of the SAE that the training
    starts from, so that features keep their numbers and meanings. The norms of the rows
    and everything else are trained."""

    hook_name: str | None = None
    """The site of a stream to train on; not needed where it has one."""

    hook_name_out: str | None = None
    """The site of a stream whose activations a transcoder computes from those of
    ``hook_name``; None trains an SAE."""

    skip_connection: bool = False
    """Whether the transcoder has a linear skip connection (Paulo et al. 2025)."""

    apply_b_dec_to_input: bool | None = None
    """Whether ``b_dec`` is subtracted before encoding (a pre-bias, Bricken et al.
    2023). None has none; with a start, it keeps the start's. The function that a start
    computes stays the same in all cases."""

    seed: int = 0
    """Seed of the initial weights and of the order of activations in memory."""

    @classmethod
    def retrofit(cls, start: SAE, k: int, **changes: Any) -> "TrainConfig":
        """Settings that make an SAE, or transcoder, better at every k up to one.

        ::

            config = TrainConfig.retrofit(published, k=64, n_tokens=5_000_000)
            trained = sle.train(stream, config, folder, start=published)

        Its features keep their numbers and directions. The norms of the decoder's rows
        and ``b_dec`` learn fast; the encoder learns slowly, so that features go on
        being active where they were. ``docs/training.md`` has measurements.

        Args:
            start: the SAE to begin with.
            k: the largest k to train for.
            **changes: any other fields, or other values of those that this sets.

        Raises:
            InvalidArgument: an invalid field.
        """
        if not isinstance(start, SAE):
            raise InvalidArgument(
                "start must be an SAE, such as SAE.from_pretrained(folder); got an "
                f"object of type {type(start).__name__}"
            )
        settings: dict[str, Any] = {
            "d_sae": start.config.d_sae,
            "k": k,
            "objective": HierarchicalTopK(),
            "batch_size": 512,
            "lr": 5e-3,
            "encoder_lr": 3e-5,
            "decay": 0.8,
            "betas": (0.9, 0.999),
            "freeze_decoder": True,
            "hook_name": start.config.hook_name,
            "hook_name_out": start.config.hook_name_out,
            "skip_connection": start.config.skip_connection,
        }
        return cls(**{**settings, **changes})

    def __post_init__(self) -> None:
        """Check every field, then the relations between them."""
        with FieldChecks(self) as check:
            check(arguments.positive_int, "d_sae", "k", "batch_size")
            check(
                arguments.positive_int,
                "epochs",
                "dead_after",
                "n_tokens",
                "k_start",
                "revive_every",
                optional=True,
            )
            check(arguments.integer, "seed", at_least=0, at_most=_LARGEST_SEED)
            check(_objective, "objective")
            check(arguments.finite, "lr", above=0)
            check(arguments.finite, "encoder_lr", at_least=0, optional=True)
            check(arguments.fraction, "warmup", "decay", "k_decay")
            check(_betas, "betas")
            check(arguments.finite, "clip", above=0, optional=True)
            check(arguments.choice, "dtype", choices=("float32", "bfloat16"))
            check(arguments.flag, "eight_bit", "freeze_decoder", "skip_connection")
            check(arguments.flag, "apply_b_dec_to_input", optional=True)
            check(arguments.string, "hook_name", "hook_name_out", optional=True)
        with FieldChecks(self) as check:
            self._check_relations(check)

    def _check_relations(self, check: FieldChecks) -> None:
        check.that(
            self.k <= self.d_sae,
            f"k must be at most d_sae={self.d_sae}; got {self.k}",
        )
        check.that(
            self.k_start is None or self.k <= self.k_start <= self.d_sae,
            f"k_start must be from k={self.k} to d_sae={self.d_sae}; "
            f"got {self.k_start}",
        )
        check.that(
            self.hook_name_out is not None or not self.skip_connection,
            "skip_connection=True is for a transcoder; give its hook_name_out too",
        )
        check.that(
            self.hook_name is None or self.hook_name != self.hook_name_out,
            f"hook_name and hook_name_out must differ; got {self.hook_name!r} twice",
        )
        check.that(
            self.revive_every is None or not self.eight_bit,
            "revive_every needs averages of Adam that can be set to 0 feature by "
            "feature, which eight_bit=True does not have; leave one of them out",
        )
        check.that(
            self.hook_name_out is None or not self.apply_b_dec_to_input,
            "apply_b_dec_to_input=True is for an SAE, whose input is what b_dec is "
            "added to; a transcoder is trained without it",
        )
        check.that(
            not self.freeze_decoder or not self.apply_b_dec_to_input,
            "apply_b_dec_to_input=True moves activations with b_dec, which "
            "freeze_decoder=True trains freely; leave one of them out",
        )
        check.that(
            self.revive_every is None or not self.freeze_decoder,
            "revive_every gives features other directions, which freeze_decoder=True "
            "keeps; leave one of them out",
        )

    def lr_at(self, step: int, n_steps: int) -> float:
        """The learning rate of a step, counted from 0; see ``learning_rate``."""
        return learning_rate(
            step,
            n_steps,
            peak=self.lr,
            warmup=self.warmup,
            decay=self.decay,
        )

    def k_at(self, step: int, n_steps: int) -> int:
        """The k of a step, counted from 0; see ``active_features``."""
        if self.k_start is None:
            return self.k
        return active_features(
            step,
            n_steps,
            first=self.k_start,
            last=self.k,
            share=self.k_decay,
        )

    def dead_after_of(self, n_tokens: int) -> int:
        """``dead_after`` in a training on a stream of so many tokens."""
        if self.dead_after is not None:
            return self.dead_after
        return max(1, min(_DEAD_AFTER, n_tokens // 10))


def _objective(value: Any, name: str) -> Objective:
    # The class itself passes isinstance of a runtime-checkable protocol.
    if not isinstance(value, Objective) or isinstance(value, type):
        raise InvalidArgument(
            f"{name} must be an objective such as HierarchicalTopK(); "
            f"got {described(value)}"
        )
    return value


def _betas(value: Any, name: str) -> tuple[float, float]:
    numbers = arguments.finite_numbers(value, name, at_least=0)
    if len(numbers) != 2 or max(numbers) >= 1:
        raise InvalidArgument(
            f"{name} must be two numbers, from 0 and below 1; got {described(value)}"
        )
    first, second = numbers
    return first, second
