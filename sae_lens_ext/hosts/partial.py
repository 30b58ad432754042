"""Ways to run part of a model, written once for every host.

A sweep over k runs the same tokens many times and changes nothing before its first site, and scores only some positions. So:
``capture`` stops as soon as it has what was asked for, ``resume`` skips the blocks whose result is known, and
``next_token_logits`` unembeds only the positions that count. (TransformerLens' own ``start_at_layer`` still runs the blocks it
skips on a TransformerBridge, and the unembedding of Gemma 3 270M costs twice its blocks.)
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from sae_lens_ext.errors import InvalidArgument, UnknownSite, UnsupportedHost
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


def token_rows(host: Host, tokens: Any) -> Int[Tensor, "batch pos"]:
    """Token ids as ``[batch, pos]`` on the model's device, from a tensor, an array, lists of ids, a text or texts of one length.

    Raises:
        InvalidArgument: anything else, no row at all, or texts of different lengths (padding would be counted as text).
    """
    if isinstance(tokens, str) or (
        isinstance(tokens, list | tuple)
        and tokens
        and all(isinstance(text, str) for text in tokens)
    ):
        rows = [
            host.to_tokens(text)
            for text in ([tokens] if isinstance(tokens, str) else tokens)
        ]
        if len({row.shape[1] for row in rows}) > 1:
            lengths = ", ".join(str(row.shape[1]) for row in rows)
            raise InvalidArgument(
                f"the texts have different lengths ({lengths} tokens); give one at a time, or rows of one length"
            )
        ids = torch.cat(rows)
    else:
        try:
            ids = torch.as_tensor(tokens)
        except (TypeError, ValueError, RuntimeError) as error:
            raise InvalidArgument(
                f"tokens must be ids [batch, pos] or text; got a {type(tokens).__name__} ({error})"
            ) from error
    ids = ids.unsqueeze(0) if ids.ndim == 1 else ids
    if (
        ids.ndim != 2
        or ids.is_floating_point()
        or ids.dtype == torch.bool
        or 0 in ids.shape
    ):
        raise InvalidArgument(
            f"tokens must be ids [batch, pos], at least one of each; got {ids.dtype} {list(ids.shape)}"
        )
    if host.d_vocab is not None and not (
        int(ids.min()) >= 0 and int(ids.max()) < host.d_vocab
    ):
        raise InvalidArgument(
            f"token ids must be from 0 to {host.d_vocab - 1} for this model; they run from {int(ids.min())} to {int(ids.max())}"
        )
    device = next(
        (parameter.device for parameter in host.model.parameters()), ids.device
    )
    return ids.to(device, torch.int64)


class RunWatch:
    """Knows the token ids and the positions of the run in progress, so that a function at a site can choose among them.

    Attributes:
        tokens: ids of the run in progress, ``[batch, pos]``; in cached generation those of the current step. None when the
            model was not given tokens.
        start: how many positions came before this run's, in a cache.
    """

    def __init__(
        self, at_start: Callable[[], object], at_end: Callable[[], object]
    ) -> None:
        """Know nothing yet; ``at_start`` is called whenever a run begins, ``at_end`` when it is whole."""
        self.tokens: Tensor | None = None
        self.start = 0
        self._at_start, self._at_end = at_start, at_end

    def begin(self, start: int) -> None:
        """A run begins, behind ``start`` positions in a cache."""
        # Otherwise a run that starts from activations would be masked by the tokens of the run before it.
        self.tokens, self.start = None, start
        self._at_start()

    def keep(self, tokens: Tensor) -> None:
        """These are its tokens."""
        self.tokens = tokens

    def end(self, whole: bool) -> None:
        """The run is over; ``whole`` unless it was cut short."""
        # What is run next without its beginning being seen, such as a part of the model, has nothing of this run's.
        self.tokens, self.start = None, 0
        if whole:
            self._at_end()
