"""A training before its first step: sites, length, first weights."""

import copy
import math
from collections.abc import Mapping

import torch

from sae_lens_ext.errors import InvalidArgument, ShapeMismatch
from sae_lens_ext.objectives import Shareable
from sae_lens_ext.sae import SAE, SAEConfig
from sae_lens_ext.training.activity import FeatureActivity
from sae_lens_ext.training.cleaning import mean_and_scale
from sae_lens_ext.training.config import TrainConfig
from sae_lens_ext.training.frozen import freeze_directions
from sae_lens_ext.training.losses import Losses
from sae_lens_ext.training.metric import ErrorMetric
from sae_lens_ext.training.normalization import Normalization
from sae_lens_ext.training.optimizer import new_optimizer
from sae_lens_ext.training.parallel import ALONE, Ranks
from sae_lens_ext.training.start import decoder_norms, started
from sae_lens_ext.training.state import TrainState
from sae_lens_ext.training.stream import (
    ActivationStream,
    RemembersFirst,
    SiteStatistics,
)
from sae_lens_ext.training.stream.checks import checked_statistics
from sae_lens_ext.training.trainer import Trainer


def sites_of(stream: ActivationStream, config: TrainConfig) -> tuple[str, ...]:
    """The sites to train on: of the input, and of a transcoder's output.

    Raises:
        InvalidArgument: the stream has several and the config names none, or it lacks
            one that the config names.
    """
    hook_name = config.hook_name
    if hook_name is None:
        others = [site for site in stream.sites if site != config.hook_name_out]
        if len(others) != 1:
            raise InvalidArgument(
                f"hook_name must name the site to train on, one of "
                f"{', '.join(stream.sites)}"
            )
        hook_name = others[0]

    sites = (hook_name,)
    if config.hook_name_out is not None:
        sites = (hook_name, config.hook_name_out)
    for site in sites:
        if site not in stream.sites:
            raise InvalidArgument(
                f"the stream has no activations of {site}; it has those of "
                f"{', '.join(stream.sites)}"
            )
    return sites


def check_metric(
    metric: ErrorMetric, stream: ActivationStream, sites: tuple[str, ...]
) -> None:
    """Check that a metric is of what a training reconstructs.

    Args:
        metric: of the errors.
        stream: the activations.
        sites: of the input, and of a transcoder's output.

    Raises:
        InvalidArgument: it is of another site, or the stream cannot say what its
            constants are of.
        ShapeMismatch: it is of another width.
    """
    target = sites[-1]
    if metric.hook_name != target:
        what = "the SAE" if len(sites) == 1 else "the transcoder"
        raise InvalidArgument(
            f"metric is of {metric.hook_name}, and {what} reconstructs activations of "
            f"{target}; give a metric of that site, such as fisher_metric(model, "
            f"tokens, {target!r})"
        )
    if metric.d_model != stream.width(target):
        raise ShapeMismatch(
            f"metric is of width {metric.d_model}, and the activations of {target} "
            f"have {stream.width(target)}"
        )
    if not isinstance(stream, RemembersFirst):
        raise InvalidArgument(
            f"metric needs the first tokens of the stream; give "
            f"{type(stream).__name__} the method first_tokens of "
            "sae_lens_ext.training.RemembersFirst"
        )


def length_of(stream: ActivationStream, config: TrainConfig) -> tuple[int, int]:
    """Tokens and steps of the whole training.

    Raises:
        InvalidArgument: neither the config nor the stream has a number of tokens, or
            the stream has too few.
    """
    available = stream.n_tokens
    n_tokens = available if config.n_tokens is None else config.n_tokens
    if n_tokens is None:
        raise InvalidArgument(
            "n_tokens must say how long to train: the stream does not know how many "
            "tokens it has"
        )
    if available is not None and n_tokens > available:
        raise InvalidArgument(
            f"n_tokens must be at most the {available} tokens of the stream; "
            f"got {n_tokens}"
        )
    if not n_tokens:
        raise InvalidArgument(
            "there are no activations to train on: the stream is empty"
        )
    return n_tokens, math.ceil(n_tokens / config.batch_size)


def new_trainer(
    stream: ActivationStream,
    config: TrainConfig,
    generator: torch.Generator,
    device: torch.device,
    statistics: Mapping[str, SiteStatistics] | None = None,
    start: SAE | None = None,
    ranks: Ranks = ALONE,
    metric: ErrorMetric | None = None,
) -> Trainer:
    """A training before its first step.

    Args:
        stream: the activations.
        config: the settings.
        generator: draws the first weights.
        device: where to train.
        statistics: the constants of the sites; None takes the stream's.
        start: the SAE to begin with; None begins with random weights.
        ranks: the processes that share the training.
        metric: of the errors; None for their squares.

    Raises:
        InvalidArgument: the config does not fit the stream, or the start neither.
        InvalidK: the objective's levels do not fit k.
    """
    # A copy, because an objective may have a state, and a config has none.
    objective = copy.deepcopy(config.objective)
    if isinstance(objective, Shareable):
        objective.use_batch(ranks.batch)
    levels = objective.levels_at(config.k)
    if config.k_start is not None:
        objective.levels_at(config.k_start)
    sites = sites_of(stream, config)
    n_tokens, n_steps = length_of(stream, config)

    if statistics is None:
        statistics = _statistics(stream, sites, metric, ranks)
    hook_name, *outputs = sites
    hook_name_out = outputs[0] if outputs else None
    normalization = Normalization(
        hook_name, hook_name_out, {site: statistics[site] for site in sites}, metric
    )

    sae_config = SAEConfig(
        d_model=stream.width(hook_name),
        d_sae=config.d_sae,
        kind=objective.kind,
        k=config.k if objective.kind == "topk" else None,
        levels=levels,
        d_out=None if hook_name_out is None else stream.width(hook_name_out),
        skip_connection=config.skip_connection,
        apply_b_dec_to_input=bool(config.apply_b_dec_to_input),
        hook_name=hook_name,
        hook_name_out=hook_name_out,
        model_name=stream.model_name,
        exclude_special_tokens=stream.excludes_special_tokens,
    )
    norms = None
    if start is None:
        sae = normalization.installed(SAE(sae_config, generator=generator))
    else:
        is_frozen = config.freeze_decoder
        pre_bias = False if is_frozen else config.apply_b_dec_to_input
        sae = started(
            start,
            sae_config,
            normalization,
            is_frozen=is_frozen,
            pre_bias=pre_bias,
        )
        norms = decoder_norms(sae)[ranks.features(config.d_sae)].to(device)
        if is_frozen:
            freeze_directions(sae)
    sae = ranks.divided(sae, device)
    advice = f" of {n_steps}; try a smaller lr than {config.lr}"
    state = TrainState(
        sae=sae,
        optimizer=new_optimizer(sae, config),
        objective=objective,
        activity=FeatureActivity(config.d_sae, config.dead_after_of(n_tokens), device),
        losses=Losses(advice=advice, device=device),
        generator=torch.Generator().manual_seed(config.seed),
    )
    return Trainer(
        stream,
        config,
        normalization,
        state,
        n_tokens=n_tokens,
        n_steps=n_steps,
        decoder_norms=norms,
        ranks=ranks,
    )


def _statistics(
    stream: ActivationStream,
    sites: tuple[str, ...],
    metric: ErrorMetric | None,
    ranks: Ranks,
) -> dict[str, SiteStatistics]:
    """The constants of these sites; those of the first process, for all.

    Those of the metric's site are of the same tokens in its coordinates.
    """
    widths = {site: stream.width(site) for site in sites}
    statistics = checked_statistics(stream.statistics(), widths)
    if metric is not None:
        assert isinstance(stream, RemembersFirst)
        site = metric.hook_name
        mean, scale = mean_and_scale(
            stream.first_tokens(site), lambda part: metric.apply(part.float())
        )
        statistics[site] = statistics[site]._replace(mean=mean.cpu(), scale=scale.cpu())
    for site, constants in statistics.items():
        tensors = ranks.tensors_from_first(constants._asdict())
        statistics[site] = SiteStatistics(**tensors)
    return statistics
