"""The options of ``sae-lens-ext train``, and the configs and streams they stand for."""

import ast
import contextlib
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

from sae_lens_ext import _arguments as arguments
from sae_lens_ext._fields import FieldChecks
from sae_lens_ext.cli.inputs import LanguageModel, RequiredModelOptions, TextOptions
from sae_lens_ext.cli.metric_options import MetricOptions
from sae_lens_ext.cli.parsing import check_unused, fields_of
from sae_lens_ext.errors import FormatError, InvalidArgument, SaeLensExtError
from sae_lens_ext.objectives import AuxK, Objective, objective_named
from sae_lens_ext.publishing import repository_name
from sae_lens_ext.training import (
    ActivationCache,
    CacheStream,
    ModelStream,
    RunConfig,
    TrainConfig,
    cache_activations,
)
from sae_lens_ext.training.parallel.launched import n_processes

_TEXTS = {
    "hook_name": "The site to train on, such as blocks.12.hook_resid_post.",
    "hook_name_out": "The site whose activations a transcoder computes from those of "
    "hook_name; None trains an SAE.",
    "n_tokens": "Tokens to train on; the text is read again where it has fewer. By "
    "default all of a cache once.",
    "dead_after": "Tokens without being active after which a feature counts as dead; "
    "by default 10 million (Gao et al. 2024), or a tenth of the training if that is "
    "less.",
}


# Stands in for an objective that is invalid, so that the other settings are checked.
_PLACEHOLDER = objective_named("topk")


@dataclass(frozen=True, kw_only=True)
class JobOptions:
    """What the command reads and writes."""

    out: Path = Path("runs/train")
    """Folder of the run, from which the same command goes on."""
    config: Path | None = None
    """YAML file of options; those that are typed count more."""
    progress: bool = True
    """Show progress bars."""
    start: str | None = None
    """SAE to start from: a folder, or a hub repository with the folder inside of it."""
    eval_rows: int = 64
    """Held-out rows on which the model's predictions are measured at the end."""
    push_to_hub: str | None = None
    """Repository of the Hugging Face hub to upload the SAE to, owner/name."""
    private: bool = False
    """Whether a new repository is private."""
    license: str | None = None
    """License of the uploaded SAE, such as apache-2.0."""

    def check(self) -> None:
        """Check what would otherwise be an error after the training.

        Raises:
            InvalidArgument: an invalid option.
        """
        arguments.positive_int(self.eval_rows, "eval_rows")
        if self.push_to_hub is not None:
            repository_name(self.push_to_hub, "push_to_hub")


@dataclass(frozen=True, kw_only=True)
class ObjectiveOptions:
    """What is minimised."""

    objective: str | None = None
    """hierarchical, topk, multitopk, batchtopk, matryoshka, jumprelu or relu; by
    default hierarchical with weights=half_on_largest."""
    objective_options: tuple[str, ...] = ()
    """Its options as name=value pairs, such as weights=inverse stride=8."""
    auxk: float | None = None
    """Weight of the loss that revives dead features (Gao et al. 2024 use 0.03125); None
    leaves it out."""

    def chosen(self) -> Objective:
        """The objective.

        Raises:
            InvalidArgument: no such objective or option, or an invalid value.
        """
        options = dict(map(_name_and_value, self.objective_options))
        if self.objective is None:
            options = {"weights": "half_on_largest", **options}
        objective = objective_named(self.objective or "hierarchical", **options)
        if self.auxk is None:
            return objective
        coefficient = arguments.finite(self.auxk, "auxk", at_least=0)
        return AuxK(objective, coefficient=coefficient)


@dataclass(frozen=True, kw_only=True)
class StreamOptions:
    """How activations are collected."""

    rows_per_pass: int = 8
    """Rows of tokens per forward pass of the model."""
    buffer_tokens: int = 1 << 16
    """Tokens that wait in the shuffle buffer."""
    activation_dtype: str = "float32"
    """float32 or bfloat16, of the activations in the buffer or the cache."""
    cache: Path | None = None
    """Folder of a cache on disk: the model reads the text once, and the SAE is trained
    from there."""
    cache_tokens: int | None = None
    """Tokens to collect into the cache; by default all of the text."""
    cache_bytes: int | None = None
    """Largest size of the cache."""

    def check(self) -> None:
        """Check the options by their own names; a stream knows some by others.

        Raises:
            InvalidArgument: one or more options are invalid.
        """
        copy = replace(self)
        with FieldChecks(copy) as check:
            check(arguments.positive_int, "rows_per_pass", "buffer_tokens")
            check(arguments.positive_int, "cache_tokens", "cache_bytes", optional=True)
            dtypes = ("float32", "bfloat16")
            check(arguments.choice, "activation_dtype", choices=dtypes)
        if self.cache is None:
            check_unused(self, ("cache_tokens", "cache_bytes"), "cache")

    def stream(
        self,
        language_model: LanguageModel,
        text: TextOptions,
        config: TrainConfig,
        *,
        progress: bool,
    ) -> ModelStream | CacheStream:
        """The activations to train on; a cache is filled first.

        Raises: as ``ModelStream`` and ``cache_activations``.
        """
        model, tokenizer, name, _ = language_model
        rows = text.rows(tokenizer, held_out=False)
        sites = sites_of(config)
        if self.cache is None:
            return ModelStream(
                model,
                rows,
                sites,
                batch_size=self.rows_per_pass,
                dtype=self.activation_dtype,
                buffer_tokens=self.buffer_tokens,
                seed=config.seed,
                n_tokens=config.n_tokens,
                model_name=name,
            )

        if n_processes() > 1:
            cache = _filled_cache(self.cache)
            return CacheStream(cache, sites, n_tokens=config.n_tokens, seed=config.seed)
        cache = cache_activations(
            model,
            rows,
            sites,
            self.cache,
            n_tokens=self.cache_tokens,
            max_bytes=self.cache_bytes,
            batch_size=self.rows_per_pass,
            dtype=self.activation_dtype,
            model_name=name,
            progress=progress,
        )
        return CacheStream(cache, sites, n_tokens=config.n_tokens, seed=config.seed)


@dataclass(frozen=True, kw_only=True)
class TrainOptions:
    """The options of the command."""

    job: JobOptions = field(default_factory=JobOptions)
    model: RequiredModelOptions
    text: TextOptions
    stream: StreamOptions = field(default_factory=StreamOptions)
    objective: ObjectiveOptions = field(default_factory=ObjectiveOptions)
    metric: MetricOptions = field(default_factory=MetricOptions)
    sae: Annotated[
        Any,
        fields_of(
            TrainConfig,
            without=("objective", "epochs"),
            required=("hook_name",),
            texts=_TEXTS,
        ),
    ]
    """The SAE and its training."""
    run: Annotated[Any, fields_of(RunConfig)]
    """How the run is saved, evaluated and logged."""

    def configs(self) -> tuple[TrainConfig, RunConfig]:
        """The configs, checked.

        Raises:
            InvalidArgument: one or more settings are impossible; all are named.
        """
        problems: list[str] = []
        results: list[Any] = []
        for make in (
            self.objective.chosen,
            lambda: TrainConfig(**vars(self.sae), objective=_PLACEHOLDER),
            lambda: RunConfig(**vars(self.run)),
            self.job.check,
            self.stream.check,
            self.metric.check,
        ):
            try:
                results.append(make())
            except SaeLensExtError as error:
                problems.append(str(error))
        if self.sae.n_tokens is None and self.stream.cache is None:
            problems.append("n_tokens must say how long to train, without a cache")
        if problems:
            raise InvalidArgument("; ".join(problems))

        objective, train_config, run_config, *_ = results
        return replace(train_config, objective=objective), run_config


def _filled_cache(folder: Path) -> ActivationCache:
    """A cache that several processes can read.

    Raises:
        InvalidArgument: it is not there, or not complete: one process fills it.
    """
    with contextlib.suppress(FormatError):
        cache = ActivationCache(folder)
        if cache.is_complete:
            return cache
    raise InvalidArgument(
        f"the cache {folder} has to be filled by one process: begin with the same "
        "command without torchrun, interrupt it when the training has begun, and go "
        "on with several processes"
    )


def sites_of(config: TrainConfig) -> list[str]:
    """The sites that a config names: of the input, and of a transcoder's output."""
    return [site for site in (config.hook_name, config.hook_name_out) if site]


def _name_and_value(pair: str) -> tuple[str, Any]:
    """The two sides of ``name=value``.

    >>> _name_and_value("stride=8"), _name_and_value("weights=inverse")
    (('stride', 8), ('weights', 'inverse'))

    Raises:
        InvalidArgument: there is no ``=``.
    """
    name, equals, text = pair.partition("=")
    if not equals:
        raise InvalidArgument(
            "objective_options must be name=value pairs, such as stride=8; "
            f"got {pair!r}"
        )
    try:
        return name, ast.literal_eval(text)
    # A word, which needs no quotes here.
    except (ValueError, SyntaxError):
        return name, text
