"""The search for the smallest k of every token of a run that is close enough."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from copy import deepcopy
from functools import partial

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sae_lens_ext.errors import NonFinite, UnsupportedHost
from sae_lens_ext.hosts import Host, evaluating
from sae_lens_ext.interventions.guard.text import GuardedText
from sae_lens_ext.interventions.guard.worlds import Worlds
from sae_lens_ext.interventions.sites import Placement
from sae_lens_ext.interventions.until_kl import UntilKL


class KSearch:
    """Chooses the k of the columns that a run adds to a text."""

    def __init__(
        self,
        host: Host,
        text: GuardedText,
        placed: Mapping[str, Placement],
    ) -> None:
        """Keep what the choice depends on.

        Args:
            host: the model.
            text: the text, whose last columns are those of the run.
            placed: the sites and their SAEs.
        """
        self._host = host
        self._text = text
        self._placed = placed
        self._n_below = _blocks_below(placed)
        self._worlds: Worlds | None = None

    @contextmanager
    def attached(self) -> Iterator[None]:
        """While active, the model can be searched by ``run``."""
        with ExitStack() as stack:
            stack.enter_context(torch.no_grad())
            stack.enter_context(evaluating(self._host.model))
            for name, place in self._placed.items():
                if place.source is not None:
                    read = partial(self._read, name)
                    stack.callback(self._host.attach(place.source, read))
                replace = partial(self._replace, name)
                stack.callback(self._host.attach(place.site, replace))
            yield

    def run(
        self,
        worlds: Worlds,
        bound: UntilKL,
        ids: Int[Tensor, "batch pos"],
        position_ids: Int[Tensor, "rows pos"] | None,
    ) -> Float[Tensor, "batch d_vocab"]:
        """Choose the k of the columns of a run, and write them into the text.

        Args:
            worlds: what happens at the sites.
            bound: of the divergence, with the values of k to choose from.
            ids: the token ids of the run.
            position_ids: those that the run was called with, if it was.

        Returns:
            The next-token logits after the last column, at the k that were chosen.
        """
        self._worlds = worlds
        device = self._text.ks.device
        candidates = torch.tensor(bound.candidates(worlds.largest_k), device=device)
        is_chosen = worlds.is_chosen().to(device)
        logits = torch.empty(0)
        for columns in _steps(is_chosen):
            is_chosen_here = is_chosen[:, columns.stop - 1]
            if not is_chosen_here.any():
                both = self._step(columns, candidates[-1:], ids, position_ids)
                _, logits = both.chunk(2)
                continue
            all_logits = self._step(columns, candidates, ids, position_ids)
            column = columns.stop - 1 - ids.shape[1]
            kls = divergences(all_logits, len(candidates)).to(self._text.kls)
            own_rows = self._choose(
                column, kls, candidates, bound.bound, is_chosen_here
            )
            logits = all_logits[len(ids) + own_rows]
        self._worlds = None
        return logits

    def _read(self, name: str, source: Tensor) -> None:
        if self._worlds is not None:
            self._worlds.read(name, source)

    def _replace(self, name: str, x: Tensor) -> Tensor | None:
        # Between two runs, who chooses the next token may run the model as well.
        return None if self._worlds is None else self._worlds(name, x)

    def _step(
        self,
        columns: slice,
        candidates: Int[Tensor, " candidate"],
        ids: Int[Tensor, "batch pos"],
        position_ids: Int[Tensor, "rows pos"] | None,
    ) -> Float[Tensor, "worlds_batch d_vocab"]:
        """Next-token logits after some columns, of the reference and candidates."""
        text = self._text
        n_before = text.shape[1] - ids.shape[1]
        if text.cache is None and n_before:
            raise UnsupportedHost(
                "until_kl keeps the bare model's past in a cache of transformers, and "
                f"a {type(self._host.model).__name__} has none; generate without a "
                "cache (use_cache=False or use_past_kv_cache=False)"
            )
        if text.cache is None:
            # From the beginning, because nothing remembers the columns before.
            columns = slice(0, columns.stop)

        options = {}
        seen = text.is_text[:, : n_before + columns.stop]
        if not seen.all():
            options["attention_mask"] = seen.long().to(ids.device)
        if position_ids is not None:
            options["position_ids"] = position_ids.expand(len(ids), -1)[:, columns]
        ks = self._ks(columns, candidates, n_before)

        def step() -> Float[Tensor, "worlds_batch d_vocab"]:
            assert self._worlds is not None
            self._worlds.begin(columns, ks)
            text.repeat_spliced(len(candidates))
            n_copies = 1 if text.n_shared else 1 + len(candidates)
            logits, text.cache = self._host.step(
                ids[:, columns].repeat(n_copies, 1),
                text.cache,
                **{name: part.repeat(n_copies, 1) for name, part in options.items()},
            )
            return logits

        if text.n_shared is not None or text.cache is None:
            return step()
        return self._first_shared(step)

    def _first_shared(self, step: Callable[[], Tensor]) -> Tensor:
        """A step that runs the blocks below the sites on one row, where it can be done.

        Whether later blocks take more rows is found by trying: a model may have made
        something of the size of its first batch, such as the biases of ALiBi.
        """
        text = self._text
        n_below = self._n_below
        layers = getattr(text.cache, "layers", None) or ()
        can_share = (
            len(text.positions) == 1
            and n_below > 0
            and len(layers) == len(self._host.blocks)
            and bool(text.is_text.all())
        )
        if not can_share:
            text.n_shared = 0
            return step()

        before = deepcopy(text.cache)
        text.share(n_below)
        try:
            return step()
        except RuntimeError:
            text.cache = before
            text.n_shared = 0
            return step()

    def _ks(
        self, columns: slice, candidates: Int[Tensor, " candidate"], n_before: int
    ) -> Int[Tensor, "candidates_batch pos"]:
        """The k of every candidate: what was chosen, and at the last column its own."""
        first = n_before + columns.start
        chosen = self._text.ks[:, first : n_before + columns.stop]
        ks = chosen.repeat(len(candidates), 1)
        ks[:, -1] = candidates.repeat_interleave(len(chosen))
        return ks

    def _choose(
        self,
        column: int,
        kls: Float[Tensor, "candidates batch"],
        candidates: Int[Tensor, " candidate"],
        bound: float,
        is_chosen: Bool[Tensor, " batch"],
    ) -> Int[Tensor, " batch"]:
        """Take the smallest k that is enough in every row, or else the closest.

        Args:
            column: of the text, counted from its end.
            kls: divergences at all candidates.
            candidates: the values of k to choose from.
            bound: the largest divergence.
            is_chosen: the rows that have a k here.

        Returns:
            The rows of the k that were taken, counted from the first candidate's.
        """
        if kls[:, is_chosen].isnan().any():
            raise NonFinite(
                "until_kl compares next-token distributions, and the logits of the "
                "model hold NaN or infinity"
            )
        is_enough = kls <= bound
        # argmax finds the first True, and argmin the first of the least.
        index = is_enough.byte().argmax(0)
        index = torch.where(is_enough.any(0), index, kls.argmin(0))

        rows = torch.arange(len(index), device=index.device)
        own_rows = index * len(rows) + rows
        assert self._worlds is not None
        ks = self._worlds.kept(candidates[index], own_rows)
        # Where nothing is spliced, all candidates are the same.
        self._text.ks[:, column] = ks.where(is_chosen, 0)
        kl = kls.gather(0, index.unsqueeze(0)).squeeze(0)
        self._text.kls[:, column] = kl.where(is_chosen, 0)

        self._text.keep(torch.cat([rows, len(rows) + own_rows]))
        return own_rows


def _blocks_below(placed: Mapping[str, Placement]) -> int:
    """How many blocks come before all sites; 0 where the first is inside of one."""
    sites = [place.site for place in placed.values()]
    sites += [place.source for place in placed.values() if place.source is not None]
    if any(site.when is None for site in sites):
        return 0
    first = min(sites, key=lambda site: site.when or ())
    return first.blocks_before if first.is_residual else 0


def divergences(
    logits: Float[Tensor, "worlds_batch d_vocab"], n_candidates: int
) -> Float[Tensor, "candidates batch"]:
    """KL(reference || candidate) of next-token distributions, in nats.

    Args:
        logits: rows of the reference, then of every candidate.
        n_candidates: the number of candidates.
    """
    wide = torch.promote_types(logits.dtype, torch.float32)
    n_rows = len(logits) // (1 + n_candidates)
    reference, *candidates = logits.split(n_rows)
    reference = reference.to(wide).log_softmax(-1)
    probs = reference.exp()
    kls = []
    # One after the other: all together would take several times the memory of the
    # logits, which for a batch of rows is much.
    for candidate in candidates:
        log_ratio = reference - candidate.to(wide).log_softmax(-1)
        kl = torch.linalg.vecdot(probs, log_ratio)
        if kl.isnan().any():
            # What the reference excludes counts nothing, also where it is excluded on
            # both sides, and infinity was taken from infinity.
            log_ratio.masked_fill_(probs == 0, 0)
            kl = torch.linalg.vecdot(probs, log_ratio)
        kls.append(kl)
    # Not below 0 by rounding.
    return torch.stack(kls).clamp(min=0)


def _steps(is_chosen: Bool[Tensor, "batch pos"]) -> Iterator[slice]:
    """Columns that can be run at once: one where k is chosen, or all up to the next."""
    n_columns = is_chosen.shape[1]
    begin = 0
    for column in is_chosen.any(0).nonzero().flatten().tolist():
        if begin < column:
            yield slice(begin, column)
        yield slice(column, column + 1)
        begin = column + 1
    if begin < n_columns:
        yield slice(begin, n_columns)
