"""Ways to run part of a model, written once for every host.

A sweep over k runs the same tokens many times. It changes nothing before its first site
and scores only some of the positions, so most of a whole run would be wasted:

- ``capture`` stops as soon as it has the activations that were asked for,
- ``run_to`` stops at a site,
- ``unembedding_input`` stops where the logits would be made,
- ``next_token_logits`` unembeds only the positions that count,
- ``skipping`` leaves out the blocks whose result is known.

(TransformerLens' own ``start_at_layer`` still runs the blocks it skips on a
TransformerBridge, and the unembedding of Gemma 3 270M costs twice as much as its
blocks.)
"""

from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from typing import Any

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor, nn

from sae_lens_ext.errors import ShapeMismatch, UnknownSite, UnsupportedHost
from sae_lens_ext.hosts.base import Host, Site, SiteFunction
from sae_lens_ext.hosts.batch import TokenBatch, as_batch
from sae_lens_ext.hosts.hooks import has_hooks
from sae_lens_ext.hosts.modules import replaced_input
from sae_lens_ext.hosts.skipping import reading


class _Stop(BaseException):
    """Leaves a forward pass early.

    A BaseException, so that no ``except Exception`` on the way out catches it.
    """


def capture(
    host: Host,
    tokens: TokenBatch | Int[Tensor, "batch pos"],
    sites: Iterable[Site],
) -> dict[Site, Shaped[Tensor, "batch pos *rest"]]:
    """The activations at ``sites``, in the order in which the model computes them.

    The run ends at the last of them. Activations are in the columns of the batch, with
    zeros at padding.

    Raises:
        UnknownSite: the run ended before it reached a site, whose name therefore exists
            without ever firing.
        ShapeMismatch: an activation has other rows or positions than the tokens.
    """
    sites = set(sites)
    batch = as_batch(tokens)
    right = batch if batch.is_right_padded else batch.right_padded()
    activations: dict[Site, Tensor] = {}

    def keeper(site: Site) -> SiteFunction:
        def keep(activation: Tensor) -> None:
            # A later module may write into the tensor.
            activations[site] = activation.clone()
            if len(activations) == len(sites):
                raise _Stop

        return keep

    with ExitStack() as stack:
        for site in sites:
            stack.callback(host.attach(site, keeper(site)))
        try:
            host.logits(right)
        except _Stop:
            for site, activation in activations.items():
                _check_axes(site, activation, right.shape)
            return {
                site: _in_columns(batch, right, activation)
                for site, activation in activations.items()
            }

    # The run came to its end, so at least one site was not reached.
    silent = sorted(site.name for site in sites if site not in activations)
    raise UnknownSite(
        f"{', '.join(silent)} did not fire when the model ran; choose a site that this "
        "model computes"
    )


def run_to(
    host: Host,
    tokens: TokenBatch,
    functions: Mapping[Site, SiteFunction],
    last: Site,
) -> None:
    """Run the model up to one of some sites, with a function at each of them.

    Args:
        host: the model.
        tokens: rows padded on the right.
        functions: by site.
        last: one of the sites; the run ends there.

    Raises:
        UnknownSite: the run ended before it reached that site.
    """

    def ending(activation: Tensor) -> None:
        functions[last](activation)
        raise _Stop

    with ExitStack() as stack:
        for site, function in functions.items():
            hook = ending if site == last else function
            stack.callback(host.attach(site, hook))
        try:
            host.logits(tokens)
        except _Stop:
            return
    raise UnknownSite(
        f"{last.name} did not fire when the model ran; choose a site that this model "
        "computes"
    )


def _in_columns(batch: TokenBatch, right: TokenBatch, activation: Tensor) -> Tensor:
    """An activation of a batch padded on the right, in the columns of the batch."""
    # An activation of another shape is for its reader to reject.
    if activation.ndim < 2 or activation.shape[:2] != right.shape:
        return activation
    return activation if batch is right else batch.in_columns(activation)


def _check_axes(site: Site, activation: Tensor, shape: torch.Size) -> None:
    # One of fewer or more axes is rejected by whoever reads it.
    if activation.ndim == 3 and activation.shape[:2] != shape:
        raise ShapeMismatch(
            f"the activation at {site.name} is {list(activation.shape)}, and the model "
            f"ran on {shape[0]} rows of {shape[1]} tokens; choose a site whose "
            "activations are [batch, pos, d]"
        )


def unembedding_input(
    host: Host,
    tokens: TokenBatch | Int[Tensor, "batch pos"],
) -> Float[Tensor, "batch pos d_model"] | None:
    """What the unembedding receives, at every position; the run ends there.

    None where the run does not come to it.
    """
    hidden: list[Tensor] = []

    def stop(_: nn.Module, arguments: tuple[Any, ...], keywords: Any) -> None:
        reading(arguments, keywords, hidden.append)
        raise _Stop

    if host.unembed is None:
        return None
    handle = host.unembed.register_forward_pre_hook(stop, with_kwargs=True)
    try:
        host.logits(tokens)
    except _Stop:
        return hidden[0]
    finally:
        handle.remove()
    return None


def next_token_logits(
    host: Host,
    tokens: TokenBatch | Int[Tensor, "batch pos"],
    positions: Int[Tensor, " scored"],
) -> Float[Tensor, "batch scored d_vocab"]:
    """Logits at some positions only; the unembedding is not computed elsewhere.

    Positions are those of the text: columns of a batch that is padded on the right.

    Raises:
        UnsupportedHost: it is not known which module makes the logits.
    """
    if host.unembed is None:
        raise UnsupportedHost(
            f"cannot tell which module of a {type(host.model).__name__} makes the "
            "logits; give a language model"
        )
    # Hooks on the logits would see fewer positions than in other runs. Those before the
    # unembedding come before the one below.
    parts = host.unembed.children()
    if host.unembed._forward_hooks or any(has_hooks(part) for part in parts):
        logits = host.logits(tokens)
        return logits[:, positions.to(logits.device)]

    is_narrowed = False

    def select(hidden: Tensor) -> Tensor | None:
        nonlocal is_narrowed
        # Some models unembed all rows and positions as one list of tokens.
        if hidden.ndim != 3:
            return None
        is_narrowed = True
        return hidden[:, positions.to(hidden.device)]

    # Before the unembedding and after the last norm, which acts on each position alone.
    handle = host.unembed.register_forward_pre_hook(
        lambda _, arguments, keywords: replaced_input(arguments, keywords, select),
        with_kwargs=True,
    )
    try:
        logits = host.logits(tokens)
    finally:
        handle.remove()
    return logits if is_narrowed else logits[:, positions.to(logits.device)]
