"""Ways to run part of a model, written once for every host.

A sweep over k runs the same tokens many times. It changes nothing before its first site
and scores only some of the positions, so most of a whole run would be wasted:

- ``capture`` stops as soon as it has the activations that were asked for,
- ``resume`` skips the blocks whose result is known,
- ``next_token_logits`` unembeds only the positions that count.

(TransformerLens' own ``start_at_layer`` still runs the blocks it skips on a
TransformerBridge, and the unembedding of Gemma 3 270M costs twice as much as its
blocks.)
"""

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from jaxtyping import Float, Int, Shaped
from torch import Tensor, nn

from sae_lens_ext.errors import UnknownSite, UnsupportedHost
from sae_lens_ext.hosts.base import Host, Site, SiteFunction
from sae_lens_ext.hosts.batch import TokenBatch, as_batch


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


def _in_columns(batch: TokenBatch, right: TokenBatch, activation: Tensor) -> Tensor:
    """An activation of a batch padded on the right, in the columns of the batch."""
    # An activation of another shape is for its reader to reject.
    if activation.ndim < 2 or activation.shape[:2] != right.shape:
        return activation
    return activation if batch is right else batch.in_columns(activation)


@contextmanager
def resume(
    host: Host, n_blocks: int, residual: Float[Tensor, "batch pos d_model"]
) -> Iterator[None]:
    """While active, the first ``n_blocks`` blocks are skipped.

    ``residual`` is the residual stream after them. Run the model with tokens of the
    same shape, which still choose positions and masks.
    """
    with ExitStack() as stack:
        for index, block in enumerate(host.blocks[:n_blocks]):
            is_last = index == n_blocks - 1
            output = residual if is_last else None
            stack.enter_context(_forward_replaced(block, output))
        yield


@contextmanager
def _forward_replaced(block: nn.Module, output: Tensor | None) -> Iterator[None]:
    """While active, ``block`` returns ``output``, or its input without one."""

    def forward(hidden_states: Tensor, *_: Any, **__: Any) -> Tensor:
        return hidden_states if output is None else output

    # Through __dict__, because a bridge's blocks pass attributes that are set on them
    # to the module they wrap.
    before = block.__dict__.get("forward")
    block.__dict__["forward"] = forward
    try:
        yield
    finally:
        if before is None:
            del block.__dict__["forward"]
        else:
            block.__dict__["forward"] = before


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

    def select_positions(_: nn.Module, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
        hidden, *rest = arguments
        return (hidden[:, positions], *rest)

    # Before the unembedding and after the last norm, which acts on each position alone.
    handle = host.unembed.register_forward_pre_hook(select_positions)
    try:
        return host.logits(tokens)
    finally:
        handle.remove()
