"""Runs that record activations, the metric, and its gradient by the activations.

The activation at a site is handed on as it is, bit for bit, and the gradient is taken
by it. So the gradient at a site is a total derivative: it counts every way to the
logits, those through later sites included.

Weights take no gradients meanwhile. Otherwise a run would keep what they need for
theirs: the inputs of every product, and all that comes before the first site.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sae_lens_ext.circuits.measurement import Measurement
from sae_lens_ext.errors import (
    InvalidArgument,
    NonFinite,
    ShapeMismatch,
    UnknownSite,
)
from sae_lens_ext.hosts import Host, Site, TokenBatch


@dataclass(frozen=True, eq=False)
class Recording:
    """What one run has at some sites, and the metric of it.

    Attributes:
        values: the metric.
        logits: those that the metric was computed from.
        activations: in the order in which the run reached them, padding included.
        gradients: of the metric, summed over rows, by each of the activations; none
            where they were not asked for.
    """

    values: Float[Tensor, "*rows"]
    logits: Float[Tensor, "batch scored d_vocab"]
    activations: dict[Site, Float[Tensor, "batch pos d"]]
    gradients: dict[Site, Float[Tensor, "batch pos d"]] = field(default_factory=dict)


def recorded_run(
    host: Host,
    tokens: TokenBatch,
    sites: Iterable[Site],
    measurement: Measurement,
    *,
    during: AbstractContextManager[object] | None = None,
) -> Recording:
    """Run the model without gradients.

    Args:
        host: the model.
        tokens: rows padded on the right.
        sites: where to keep activations.
        measurement: the metric.
        during: a context to run the model in.

    Raises:
        UnknownSite: a site does not fire, or fires more than once.
        ShapeMismatch: an activation has other rows or positions than the tokens.
    """
    activations: dict[Site, Tensor] = {}

    def keep(site: Site, x: Tensor) -> None:
        # A later module may write into the tensor.
        activations[site] = x.detach().clone()

    with torch.no_grad():
        with during or nullcontext(), _attached(host, tokens, sites, keep):
            logits = measurement.logits(tokens)
        values = measurement.values(logits)
    return Recording(values, logits, activations)


def gradient_run(
    host: Host,
    tokens: TokenBatch,
    sites: Iterable[Site],
    measurement: Measurement,
    moved: Callable[[Site, Tensor], Tensor] | None = None,
    *,
    during: AbstractContextManager[object] | None = None,
) -> Recording:
    """Run the model, and take the gradient of the metric by the activations at sites.

    Args:
        host: the model.
        tokens: rows padded on the right.
        sites: where to take the gradient.
        measurement: the metric.
        moved: makes the activation to take the gradient by of that which the run has;
            None leaves it.
        during: a context to run the model in.

    Raises:
        UnknownSite, ShapeMismatch: as in ``recorded_run``.
        InvalidArgument: the metric has no gradient.
        NonFinite: the gradient holds NaN or infinity.
    """
    leaves: dict[Site, Tensor] = {}

    def probe(site: Site, x: Tensor) -> Tensor:
        x = x if moved is None else moved(site, x)
        # Upstream of the first site nothing needs a gradient, nor the memory for it.
        leaf = x.clone() if x.requires_grad else x.detach().clone().requires_grad_()
        leaves[site] = leaf
        # Another copy, because a later module may write into the tensor.
        return leaf.clone()

    # Also where the user has switched gradients off.
    with torch.enable_grad(), weights_held(host.model):
        with during or nullcontext(), _attached(host, tokens, sites, probe):
            logits = measurement.logits(tokens)
        values = measurement.values(logits)
        gradients = _gradients(values, leaves, tokens)
    return Recording(
        values.detach(),
        logits.detach(),
        {site: leaf.detach() for site, leaf in leaves.items()},
        gradients,
    )


def replaced_logits(
    host: Host,
    tokens: TokenBatch,
    replacements: Mapping[Site, Callable[[Tensor], Tensor | None]],
    measurement: Measurement,
    *,
    during: AbstractContextManager[object] | None = None,
    with_gradients: bool = False,
) -> Float[Tensor, "rows scored d_vocab"]:
    """The logits of a run with other activations at sites.

    Args:
        host: the model.
        tokens: rows padded on the right.
        replacements: by site, what makes the new activation of that which the run has;
            it returns None to leave it.
        measurement: the metric that reads the logits.
        during: a context to run the model in.
        with_gradients: whether the logits have a gradient.
    """

    def replace(site: Site, x: Tensor) -> Tensor | None:
        return replacements[site](x)

    with (
        torch.set_grad_enabled(with_gradients),
        weights_held(host.model),
        during or nullcontext(),
        _attached(host, tokens, replacements, replace),
    ):
        return measurement.logits(tokens)


@contextmanager
def weights_held(model: nn.Module) -> Iterator[None]:
    """While active, no weight of a model takes a gradient."""
    trainable = [weight for weight in model.parameters() if weight.requires_grad]
    for weight in trainable:
        weight.requires_grad_(False)
    try:
        yield
    finally:
        for weight in trainable:
            weight.requires_grad_()


def _gradients(
    values: Tensor, leaves: Mapping[Site, Tensor], tokens: TokenBatch
) -> dict[Site, Tensor]:
    gradients: tuple[Tensor | None, ...] = (None,)
    if values.requires_grad:
        gradients = torch.autograd.grad(
            values.sum(), list(leaves.values()), allow_unused=True
        )
    if all(gradient is None for gradient in gradients):
        raise InvalidArgument(
            "the metric has no gradient by the activations at "
            f"{', '.join(site.name for site in leaves)}: either it is not computed "
            "from the logits by differentiable operations (.item(), argmax and "
            "detach() end a gradient), or nothing at these sites reaches it"
        )

    by_site = {}
    for (site, leaf), gradient in zip(leaves.items(), gradients, strict=True):
        # A site that the metric does not depend on.
        by_site[site] = torch.zeros_like(leaf) if gradient is None else gradient
        of_text = by_site[site][tokens.mask.to(leaf.device)]
        if not bool(torch.isfinite(of_text).all()):
            raise NonFinite(
                f"the gradient of the metric at {site.name} holds NaN or infinity; "
                "check the metric, and the weights and dtype of the model"
            )
    return by_site


@contextmanager
def _attached(
    host: Host,
    tokens: TokenBatch,
    sites: Iterable[Site],
    function: Callable[[Site, Tensor], Tensor | None],
) -> Iterator[None]:
    """While active, ``function`` takes part at sites, each of which must fire once."""
    sites = list(dict.fromkeys(sites))
    n_reached = dict.fromkeys(sites, 0)

    def at(site: Site) -> Callable[[Tensor], Tensor | None]:
        def reach(x: Tensor) -> Tensor | None:
            n_reached[site] += 1
            if x.shape[:2] != tokens.shape:
                raise ShapeMismatch(
                    f"the activation at {site.name} is {list(x.shape)}, and the model "
                    f"ran on {len(tokens)} rows of {tokens.shape[1]} tokens; choose a "
                    "site whose activations are [batch, pos, d]"
                )
            return function(site, x)

        return reach

    with ExitStack() as stack:
        for site in sites:
            stack.callback(host.attach(site, at(site)))
        yield

    for site, n_times in n_reached.items():
        if n_times != 1:
            raise UnknownSite(
                f"{site.name} fires {n_times} times in one run of this model, and a "
                "node is an activation that is computed once; choose another site"
            )
