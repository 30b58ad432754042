"""A training that begins with the weights of another SAE.

That SAE computes on activations as they are, or with constants of its own; a training
computes on activations that are centred and scaled by the constants of its stream. Both
changes of units are exact in the biases and thresholds of an SAE, and in the encoder of
a transcoder too, so that the first step sees the same function:

================== ================ =====================================
the SAE            is trained as    the same before the first step
================== ================ =====================================
of any kind        the same kind    all of it, at every k
jumprelu,          batchtopk,       all of it, at every k
batchtopk          jumprelu
any other          another kind     pre-activations and decoder; where both
                                    kinds have thresholds, those too
================== ================ =====================================

Decoder rows are not scaled to unit norm, which would change the order of the features;
``train_step`` keeps them at the norms that they have.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from sae_lens_ext._fields import FieldChecks
from sae_lens_ext.errors import NonFinite
from sae_lens_ext.sae import SAE, SAEConfig
from sae_lens_ext.sae.folding import fold, unfold
from sae_lens_ext.training.normalization import Normalization, unfolded_transcoder

# They describe a training that is not the last one any more.
_OF_THE_TRAINING = (
    "average_k",
    "training_architecture",
    "training_architecture_details",
)


def check_start(start: SAE, config: SAEConfig) -> None:
    """Check that an SAE can be trained on as one with another config.

    Args:
        start: the SAE to begin with.
        config: what the training would give a new SAE.

    Raises:
        InvalidArgument: it cannot; the error names all reasons.
        NonFinite: its weights hold NaN or infinity.
    """
    theirs = start.config
    with FieldChecks(theirs) as check:
        check.that(
            theirs.token_norm == "none",
            f"the start SAE normalises every token (token_norm={theirs.token_norm!r}), "
            "which no constants of a training replace; start with another SAE",
        )
        check.that(
            theirs.d_sae == config.d_sae,
            f"the start SAE has d_sae={theirs.d_sae} features and the config asks for "
            f"d_sae={config.d_sae}; a dictionary is neither grown nor shrunk, so set "
            f"d_sae={theirs.d_sae}",
        )
        check.that(
            theirs.d_model == config.d_model,
            f"the start SAE reads width d_model={theirs.d_model} and activations of "
            f"{config.hook_name} have {config.d_model}; is it of another model or "
            "site?",
        )
        _check_output(check, theirs, config)
        for name in ("hook_name", "hook_name_out", "model_name"):
            _check_name(check, name, getattr(theirs, name), getattr(config, name))

    for name, tensor in start.state_dict().items():
        n_bad = int((~torch.isfinite(tensor)).sum())
        if n_bad:
            raise NonFinite(
                f"{n_bad} numbers of {name} of the start SAE are NaN or infinite"
            )


def _check_output(check: FieldChecks, theirs: SAEConfig, config: SAEConfig) -> None:
    """Check that both are SAEs, or transcoders that write the same width."""
    check.that(
        config.is_transcoder or not theirs.is_transcoder,
        "the start is a transcoder; name the site of its output with hook_name_out",
    )
    check.that(
        theirs.is_transcoder or not config.is_transcoder,
        "the start is an SAE, not a transcoder; leave hook_name_out out",
    )
    both = theirs.is_transcoder and config.is_transcoder
    check.that(
        not both or theirs.d_out == config.d_out,
        f"the start writes width d_out={theirs.d_out} and activations of "
        f"{config.hook_name_out} have {config.d_out}",
    )
    # The other way round, the new connection starts at zero.
    check.that(
        not both or config.skip_connection or not theirs.skip_connection,
        "the start has a skip connection; set skip_connection=True",
    )


def _check_name(
    check: FieldChecks, name: str, theirs: str | None, ours: str | None
) -> None:
    """Check that two names, where there are two, are of one model or site."""
    check.that(
        theirs is None
        or ours is None
        or _without_owner(theirs) == _without_owner(ours),
        f"the start SAE has {name}={theirs!r} and the training {ours!r}; if these are "
        f"two names of one, start with sae.with_config({name}={ours!r})",
    )


def _without_owner(name: str) -> str:
    """A model's name without the owner of its repository, which is often left out."""
    return name.rsplit("/", 1)[-1].lower()


@torch.no_grad()
def started(
    start: SAE,
    config: SAEConfig,
    normalization: Normalization,
    *,
    is_frozen: bool = False,
    pre_bias: bool | None = None,
) -> SAE:
    """An SAE to train that begins with the weights of another one.

    It computes on centred and scaled activations, in float32, on the CPU. A threshold
    that the other one does not have is 0, and so is a skip connection.

    Args:
        start: the SAE to begin with; not changed.
        config: of the SAE to train, as that of a new one.
        normalization: the constants of the sites.
        is_frozen: whether features keep their directions, and with them the facts that
            a publisher says about them.
        pre_bias: whether the SAE to train subtracts ``b_dec`` before encoding; None
            for what the start does. A transcoder does not.

    Raises:
        InvalidArgument: it cannot be trained on as an SAE with this config.
        NonFinite: its weights hold NaN or infinity.
    """
    check_start(start, config)
    # In float64, because means of residual streams are large.
    tensors = {
        name: tensor.detach().to("cpu", torch.float64)
        for name, tensor in start.state_dict().items()
    }
    has_pre_bias = bool(start.config.apply_b_dec_to_input)
    if config.is_transcoder:
        # Its constants are 0 and 1. It is trained without a pre-bias.
        del tensors["activation_mean"], tensors["activation_scale"]
        tensors = _without_pre_bias(tensors) if has_pre_bias else tensors
        has_pre_bias = False
    if normalization.metric is not None:
        tensors = normalization.metric.applied(tensors)

    if config.is_transcoder:
        weights = unfolded_transcoder(tensors, *normalization.statistics.values())
    else:
        mean = tensors.pop("activation_mean")
        scale = tensors.pop("activation_scale")
        weights = fold(tensors, mean, scale, has_pre_bias=has_pre_bias)
        (site,) = normalization.statistics.values()
        mean, scale = site.mean.to(mean), site.scale.to(mean)
        weights = unfold(weights, mean, scale, has_pre_bias=has_pre_bias)
        del weights["activation_mean"], weights["activation_scale"]
        if pre_bias is not None and pre_bias != has_pre_bias:
            change = _with_pre_bias if pre_bias else _without_pre_bias
            weights = change(weights)
            has_pre_bias = pre_bias

    metadata: Mapping[str, Any] = {}
    if is_frozen:
        metadata = {
            name: value
            for name, value in start.config.metadata.items()
            if name not in _OF_THE_TRAINING
        }
    config = replace(config, apply_b_dec_to_input=has_pre_bias, metadata=metadata)
    in_float32 = {
        name: tensor.float() for name, tensor in _of_kind(weights, config).items()
    }
    return normalization.installed(SAE.from_tensors(config, **in_float32))


def _without_pre_bias(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same function for an encoder that reads its input as it is."""
    b_enc = weights["b_enc"] - weights["b_dec"] @ weights["W_enc"]
    return {**weights, "b_enc": b_enc}


def _with_pre_bias(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same function for an encoder that subtracts ``b_dec`` from its input."""
    b_enc = weights["b_enc"] + weights["b_dec"] @ weights["W_enc"]
    return {**weights, "b_enc": b_enc}


def _of_kind(weights: Mapping[str, Tensor], config: SAEConfig) -> dict[str, Tensor]:
    """The weights that an SAE with a config has; zeros for those that are missing."""
    kept = dict(weights)
    if not config.has_threshold:
        kept.pop("threshold", None)
    elif "threshold" not in kept:
        kept["threshold"] = torch.zeros_like(kept["b_enc"])
    if config.skip_connection and "W_skip" not in kept:
        kept["W_skip"] = kept["W_enc"].new_zeros(config.d_model, config.output_width)
    return kept


@torch.no_grad()
def decoder_norms(sae: SAE) -> Float[Tensor, " d_sae"]:
    """The norms at which training keeps the decoder's rows; 1 for a row of zeros."""
    norms = torch.linalg.vector_norm(sae.W_dec, dim=1)
    return torch.where(norms > 0, norms, 1)


def digest(sae: SAE) -> str:
    """What tells an SAE from others: its kind, its size and a digest of all of it."""
    config = sae.config
    hashed = hashlib.sha256(f"pre-bias: {config.apply_b_dec_to_input}".encode())
    for name, tensor in sae.state_dict().items():
        stored = tensor.detach().cpu()
        # The encoder is stored feature by feature.
        stored = stored.T if name == "W_enc" else stored
        hashed.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        hashed.update(stored.contiguous().view(-1).view(torch.uint8).numpy())
    return f"{config.kind} of {config.d_sae} features, {hashed.hexdigest()}"
