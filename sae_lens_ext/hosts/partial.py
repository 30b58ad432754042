"""Ways to run part of a model, written once for every host.

A sweep over k runs the same tokens many times and changes nothing before its first site, and scores only some positions. So:
``capture`` stops as soon as it has what was asked for, ``resume`` skips the blocks whose result is known, and
``next_token_logits`` unembeds only the positions that count. (TransformerLens' own ``start_at_layer`` still runs the blocks it
skips on a TransformerBridge, and the unembedding of Gemma 3 270M costs twice its blocks.)
"""

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from jaxtyping import Float, Int
from torch import Tensor, nn

from sae_lens_ext.errors import UnknownSite, UnsupportedHost
from sae_lens_ext.hosts.base import Host, Site, SiteFunction


class _Stop(BaseException):
    """Leaves a forward pass early. A BaseException, so that no ``except Exception`` on the way out keeps it."""


def capture(
    host: Host, tokens: Int[Tensor, "batch pos"], sites: Iterable[Site]
) -> dict[Site, Float[Tensor, "batch pos d_model"]]:
    """The activations at ``sites``, in the order in which the model computes them; the run ends at the last one.

    Raises:
        UnknownSite: the run ended before a site was reached, so its name exists but it never fires.
    """
    wanted, found = set(sites), {}

    def keeper(site: Site) -> SiteFunction:
        def keep(activation: Tensor) -> None:
            found[site] = activation.clone()
            if len(found) == len(wanted):
                raise _Stop

        return keep

    with ExitStack() as stack:
        for site in wanted:
            stack.callback(host.attach(site, keeper(site)))
        try:
            host.logits(tokens)
        except _Stop:
            return found
    silent = sorted(site.name for site in wanted if site not in found)
    raise UnknownSite(
        f"{', '.join(silent)} did not fire when the model ran; choose a site that this model computes"
    )


@contextmanager
def resume(
    host: Host, n_blocks: int, residual: Float[Tensor, "batch pos d_model"]
) -> Iterator[None]:
    """While active, the first ``n_blocks`` blocks do no work: the residual stream after them is ``residual``.

    Run the model with tokens of the same shape; they still choose positions and masks.
    """
    if n_blocks == 0:
        yield
        return
    with ExitStack() as stack:
        for index, block in enumerate(host.blocks[:n_blocks]):
            stack.enter_context(
                _forward_replaced(block, residual if index == n_blocks - 1 else None)
            )
        yield


@contextmanager
def _forward_replaced(block: nn.Module, answer: Tensor | None) -> Iterator[None]:
    """While active, ``block`` returns ``answer``, or its own input when that is None."""

    def forward(hidden_states: Tensor, *_: Any, **__: Any) -> Tensor:
        return hidden_states if answer is None else answer

    # Through __dict__, because a bridge's blocks pass attributes that are set on them to the module they wrap.
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
    host: Host, tokens: Int[Tensor, "batch pos"], positions: Int[Tensor, " scored"]
) -> Float[Tensor, "batch scored d_vocab"]:
    """Logits at some positions only; the unembedding is not computed elsewhere."""

    def narrow(_: nn.Module, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
        hidden, *rest = arguments
        return (hidden[:, positions], *rest)

    if host.unembed is None:
        raise UnsupportedHost(
            f"cannot tell which module of a {type(host.model).__name__} makes the logits; give a language model"
        )
    handle = host.unembed.register_forward_pre_hook(narrow)
    try:
        return host.logits(tokens)
    finally:
        handle.remove()
