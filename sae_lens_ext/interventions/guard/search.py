"""The search for the smallest k of every token of a run that is close enough."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from functools import partial

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sae_lens_ext.errors import NonFinite, UnsupportedHost
from sae_lens_ext.hosts import Host, evaluating
from sae_lens_ext.interventions.guard.text import GuardedText
from sae_lens_ext.interventions.guard.worlds import Worlds
from sae_lens_ext.interventions.sites import Placement


class KSearch:
    """Chooses the k of the columns that a run adds to a text."""

    def __init__(
        self,
        host: Host,
        text: GuardedText,
        worlds: Worlds,
        *,
        candidates: Sequence[int],
        bound: float,
    ) -> None:
        """Keep what the choice depends on.

        Args:
            host: the model.
            text: the text, whose last columns are those of the run.
            worlds: what happens at the sites.
            candidates: the values of k to choose from, rising.
            bound: the largest divergence.
        """
        self._host = host
        self._text = text
        self._worlds = worlds
        self._candidates = torch.tensor(candidates, device=text.ks.device)
        self._bound = bound

    def run(
        self,
        placed: Mapping[str, Placement],
        ids: Int[Tensor, "batch pos"],
        position_ids: Int[Tensor, "rows pos"] | None,
    ) -> Float[Tensor, "batch d_vocab"]:
        """Choose the k of the columns of a run, and write them into the text.

        Args:
            placed: the sites and their SAEs.
            ids: the token ids of the run.
            position_ids: those that the run was called with, if it was.

        Returns:
            The next-token logits after the last column, at the k that were chosen.
        """
        is_chosen = self._worlds.is_chosen().to(self._text.ks.device)
        with ExitStack() as stack:
            stack.enter_context(torch.no_grad())
            stack.enter_context(evaluating(self._host.model))
            for name, place in placed.items():
                if place.source is not None:
                    read = partial(self._worlds.read, name)
                    stack.callback(self._host.attach(place.source, read))
                replace = partial(self._worlds, name)
                stack.callback(self._host.attach(place.site, replace))

            logits = torch.empty(0)
            for columns in _steps(is_chosen):
                is_chosen_here = is_chosen[:, columns.stop - 1]
                if not is_chosen_here.any():
                    both = self._step(columns, self._candidates[-1:], ids, position_ids)
                    _, logits = both.chunk(2)
                    continue
                all_logits = self._step(columns, self._candidates, ids, position_ids)
                column = columns.stop - 1 - ids.shape[1]
                own_rows = self._choose(column, all_logits, is_chosen_here)
                logits = all_logits[len(ids) + own_rows]
        return logits

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

        self._worlds.begin(columns, self._ks(columns, candidates, n_before))
        text.repeat_spliced(len(candidates))
        n_worlds = 1 + len(candidates)
        options = {}
        seen = text.is_text[:, : n_before + columns.stop]
        if not seen.all():
            options["attention_mask"] = seen.long().repeat(n_worlds, 1).to(ids.device)
        if position_ids is not None:
            own = position_ids.expand(len(ids), -1)[:, columns]
            options["position_ids"] = own.repeat(n_worlds, 1)
        chunk = ids[:, columns].repeat(n_worlds, 1)
        logits, text.cache = self._host.step(chunk, text.cache, **options)
        return logits

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
        logits: Float[Tensor, "worlds_batch d_vocab"],
        is_chosen: Bool[Tensor, " batch"],
    ) -> Int[Tensor, " batch"]:
        """Take the smallest k that is enough in every row, or else the closest.

        Args:
            column: of the text, counted from its end.
            logits: of the reference and all candidates.
            is_chosen: the rows that have a k here.

        Returns:
            The rows of the k that were taken, counted from the first candidate's.
        """
        n_candidates = len(self._candidates)
        kls = divergences(logits, n_candidates).to(self._text.kls)
        if kls[:, is_chosen].isnan().any():
            raise NonFinite(
                "until_kl compares next-token distributions, and the logits of the "
                "model hold NaN or infinity"
            )
        is_enough = kls <= self._bound
        # argmax finds the first True, and argmin the first of the least.
        index = is_enough.byte().argmax(0)
        index = torch.where(is_enough.any(0), index, kls.argmin(0))

        rows = torch.arange(len(index), device=index.device)
        own_rows = index * len(rows) + rows
        ks = self._worlds.kept(self._candidates[index], own_rows)
        # Where nothing is spliced, all candidates are the same.
        self._text.ks[:, column] = ks.where(is_chosen, 0)
        kl = kls.gather(0, index.unsqueeze(0)).squeeze(0)
        self._text.kls[:, column] = kl.where(is_chosen, 0)

        self._text.keep(torch.cat([rows, len(rows) + own_rows]))
        return own_rows


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
    # What the reference excludes counts nothing, also where it is excluded on both
    # sides, and infinity would be taken from infinity.
    excluded = probs == 0

    kls = []
    # One after the other: all together would take several times the memory of the
    # logits, which for a batch of rows is much.
    for candidate in candidates:
        log_ratio = reference - candidate.to(wide).log_softmax(-1)
        log_ratio.masked_fill_(excluded, 0)
        kls.append(torch.linalg.vecdot(probs, log_ratio))
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
