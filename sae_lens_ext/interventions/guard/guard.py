"""Chooses k before every run of a splice, and knows which text the run goes on with."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from threading import get_ident
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sae_lens_ext.errors import InvalidArgument
from sae_lens_ext.hosts import (
    Arguments,
    CacheMemory,
    CallFacts,
    Host,
    Seen,
    TokenBatch,
    text_positions,
)
from sae_lens_ext.interventions.controls import Controls
from sae_lens_ext.interventions.edits import Ablate
from sae_lens_ext.interventions.guard.chosen import ChosenK
from sae_lens_ext.interventions.guard.search import KSearch
from sae_lens_ext.interventions.guard.text import GuardedText, is_empty
from sae_lens_ext.interventions.guard.worlds import Worlds
from sae_lens_ext.interventions.positions import Window
from sae_lens_ext.interventions.site_splice import SiteSettings
from sae_lens_ext.interventions.sites import Placement
from sae_lens_ext.interventions.until_kl import UntilKL
from sae_lens_ext.kernels import holds_numbers

# Tensors among a run's arguments that a search hands on, or does without.
_KNOWN = (
    "input_ids",
    "attention_mask",
    "position_ids",
    "cache_position",
    "labels",
    "logits_to_keep",
)

NextToken = Callable[[Float[Tensor, "batch d_vocab"]], Int[Tensor, " batch"]]
"""Chooses the next token of every row."""

# Who is searching, by thread. (A context variable would say the same, and could not be
# sent to an nnsight server with a splice.)
_SEARCHING: dict[int, "Guard"] = {}


class Guard:
    """Chooses the k of a splice's runs, where the splice has a bound for it."""

    def __init__(
        self,
        placed: Mapping[str, Placement],
        controls: Controls,
        seen: CacheMemory[Seen],
    ) -> None:
        """Guard the runs of a splice.

        Args:
            placed: its sites and SAEs.
            controls: its controls.
            seen: what its runs put into caches.
        """
        self._placed = placed
        self._controls = controls
        self._seen = seen
        self._texts: CacheMemory[GuardedText] = CacheMemory()
        self._next: GuardedText | None = None
        self._current: GuardedText | None = None
        self.chosen: ChosenK | None = None

    @property
    def is_searching(self) -> bool:
        """Whether the run in progress is one of the search."""
        return _SEARCHING.get(get_ident()) is self

    def before_run(self, host: Host, arguments: Arguments) -> None:
        """Choose the k of a run that is about to begin; see ``Host.before_runs``."""
        if self.is_searching:
            return
        self._next = None
        self.chosen = None
        until_kl = self._controls.until_kl
        if until_kl is None:
            return
        self._check_edits()
        named = arguments()
        ids = _checked_ids(named)

        facts = CallFacts()
        facts.read(named)
        seen = self._seen.recall(facts.cache)
        window = Window(text_positions(facts, ids.shape[0], ids.shape[1], seen))
        text = self._text_before(facts, ids)
        text.extend(window.positions)
        _check_rows(text)
        position_ids = facts.position_ids
        if position_ids is not None and position_ids.shape[1] != ids.shape[1]:
            position_ids = None
        search = KSearch(host, text, self._placed)
        with self._searching(), search.attached():
            search.run(self._worlds(window, ids), until_kl, ids, position_ids)
        self._next = text
        self.chosen = _chosen(text, until_kl)

    def generate(
        self, host: Host, batch: TokenBatch, max_new_tokens: int, next_token: NextToken
    ) -> Int[Tensor, "batch pos"]:
        """Continue texts by runs of the search alone; see ``Splice.generate``.

        Args:
            host: the model.
            batch: the texts, padded on the left.
            max_new_tokens: how many tokens to add.
            next_token: the ids of the next tokens, of their logits.

        Returns:
            The columns of the batch and those that were added.

        Raises:
            InvalidArgument: there is no bound, an edit that needs the whole run, or
                ``next_token`` returns something else than ids.
        """
        until_kl = self._controls.until_kl
        if until_kl is None:
            raise InvalidArgument(
                "generate is for splices whose k is until_kl(...), which chooses k by "
                "runs of its own; with other k, call the model's own generate while "
                "the splice is active"
            )
        self._check_edits()
        self.chosen = None
        text = GuardedText(len(batch), batch.ids.device)
        ids, columns, mask = batch.ids, batch.ids, batch.mask
        search = KSearch(host, text, self._placed)
        with self._searching(), search.attached():
            for _ in range(max_new_tokens):
                facts = CallFacts(attention_mask=mask, cached=text.shape[1])
                width = columns.shape[1]
                window = Window(text_positions(facts, len(ids), width))
                text.extend(window.positions)
                position_ids = None
                if batch.is_padded:
                    position_ids = window.positions.clamp(min=0)
                worlds = self._worlds(window, columns)
                logits = search.run(worlds, until_kl, columns, position_ids)
                columns = _checked_next(next_token(logits), columns, host.d_vocab)
                ids = torch.cat([ids, columns], dim=1)
                mask = torch.cat([mask, torch.ones_like(columns, dtype=mask.dtype)], 1)
        self.chosen = _chosen(text, until_kl)
        return ids

    def settings(self) -> dict[str, SiteSettings]:
        """What a run that begins now does at every site.

        Raises:
            InvalidArgument: there is a bound, and nothing was chosen for this run.
        """
        # In a search the splice stands aside.
        if self.is_searching:
            return {}
        self._current, self._next = self._next, None
        chosen = None
        if self._current is not None:
            ks = self._current.by_position(self._current.ks)
            # Where nothing is spliced, any k will do.
            chosen = ks.clamp(min=1)
        elif self._controls.until_kl is not None:
            raise InvalidArgument(
                f"k={self._controls.until_kl!r} is chosen before a run of the whole "
                "model begins, and this is a run of a part of it, on a server, or "
                "apply() inside of one; open the splice around a run of the model "
                "itself, or give a number"
            )
        return {name: self._settings_at(name, chosen) for name in self._placed}

    def remember(self, caches: list[Any]) -> None:
        """The run that is over used or made these caches."""
        text, self._current = self._current, None
        if text is None or self.is_searching:
            return
        for cache in caches:
            self._texts.remember(cache, text)

    def _settings_at(self, name: str, chosen: Tensor | None) -> SiteSettings:
        settings = SiteSettings.of(self._controls, name)
        if chosen is None or settings.sae is None:
            return settings
        if not isinstance(settings.k, UntilKL):
            return settings
        config = settings.sae.config
        return replace(settings, k=chosen.clamp(max=config.k or config.d_sae))

    def _worlds(self, window: Window, ids: Int[Tensor, "batch pos"]) -> Worlds:
        settings = {
            name: SiteSettings.of(self._controls, name) for name in self._placed
        }
        guarded = frozenset(
            name for name, site in settings.items() if isinstance(site.k, UntilKL)
        )
        return Worlds(settings, guarded, window, ids)

    @contextmanager
    def _searching(self) -> Iterator[None]:
        thread = get_ident()
        if thread in _SEARCHING:
            raise InvalidArgument(
                "two splices with until_kl are active on this model, and each would "
                "choose its k by runs of the other; put their SAEs into one splice"
            )
        _SEARCHING[thread] = self
        try:
            yield
        finally:
            del _SEARCHING[thread]

    def _text_before(self, facts: CallFacts, ids: Tensor) -> GuardedText:
        """The text that a run goes on with, which is a new one without a cache.

        Raises:
            InvalidArgument: the run's cache holds something else.
        """
        text = self._texts.recall(facts.cache)
        if text is None and not facts.cached and is_empty(facts.cache):
            return GuardedText(len(ids), ids.device)
        if text is None:
            raise InvalidArgument(
                "the cache holds tokens that this splice has not seen with until_kl, "
                "so the bare model's past is not known; run the prompt inside the "
                "splice, too"
            )
        n_rows, n_columns = text.shape
        is_same = (
            n_rows == len(ids)
            and facts.cached in (None, n_columns)
            and text.is_held_by(facts.cache)
        )
        if not is_same:
            raise InvalidArgument(
                "the cache was cut, or its rows were moved, since this splice filled "
                "it, and until_kl cannot follow; generate without beams and without an "
                "assistant model"
            )
        return text

    def _check_edits(self) -> None:
        for name in self._placed:
            for edit in self._controls.edits_at(name):
                if isinstance(edit, Ablate) and edit.to == "mean":
                    raise InvalidArgument(
                        "the mean over a run's tokens is not known while until_kl "
                        "chooses their k one by one; give numbers, such as "
                        "Ablate(features, to=run.mean_activations(site, features))"
                    )

    def __getstate__(self) -> dict[str, Any]:
        """The state without texts: on another machine there are other caches."""
        return {**self.__dict__, "_next": None, "_current": None, "chosen": None}


def _chosen(text: GuardedText, until_kl: UntilKL) -> ChosenK:
    return ChosenK(
        text.by_position(text.ks), text.by_position(text.kls), until_kl.bound
    )


def _checked_next(
    ids: Any, before: Int[Tensor, "batch pos"], d_vocab: int | None
) -> Tensor:
    """The next column, from what a user's function returned.

    Raises:
        InvalidArgument: it is not an id of the vocabulary for every row.
    """
    n_rows = len(before)
    is_ids = isinstance(ids, Tensor) and ids.dtype in (torch.int64, torch.int32)
    if not is_ids or ids.shape not in ((n_rows,), (n_rows, 1)):
        got = f"an object of type {type(ids).__name__}"
        if isinstance(ids, Tensor):
            got = f"a {ids.dtype} tensor {list(ids.shape)}"
        raise InvalidArgument(
            f"next_token must return a tensor of token ids [{n_rows}], one for every "
            f"row; it returned {got}"
        )
    ids = ids.reshape(n_rows, 1).to(before)
    if int(ids.min()) < 0 or (d_vocab is not None and int(ids.max()) >= d_vocab):
        most = "" if d_vocab is None else f" to {d_vocab - 1}"
        raise InvalidArgument(
            f"next_token must return token ids from 0{most}; it returned "
            f"{ids.flatten().tolist()}"
        )
    return ids


def _checked_ids(arguments: Mapping[str, Any]) -> Int[Tensor, "batch pos"]:
    """The token ids of a run.

    Raises:
        InvalidArgument: it has none, or more than text.
    """
    ids = arguments.get("input_ids")
    if not (
        isinstance(ids, Tensor)
        and ids.ndim == 2
        and ids.numel() > 0
        and not ids.is_floating_point()
        and holds_numbers(ids)
    ):
        raise InvalidArgument(
            "until_kl runs the model on the same tokens beforehand, and this run was "
            "not given token ids [batch, pos] (input_ids); give it those"
        )
    others = [
        name
        for name, value in arguments.items()
        if isinstance(value, Tensor) and name not in _KNOWN
    ]
    if others:
        raise InvalidArgument(
            "until_kl runs the model on the same tokens beforehand, and cannot hand on "
            f"{', '.join(others)}; leave it out, or give a number for k"
        )
    return ids


def _check_rows(text: GuardedText) -> None:
    """Check that every row is one text.

    Raises:
        InvalidArgument: several texts are packed into one row.
    """
    is_text = text.is_text
    follows = is_text[:, 1:] & is_text[:, :-1]
    if (follows & (text.positions.diff(dim=1) != 1)).any():
        raise InvalidArgument(
            "several texts are packed into one row (position_ids begin again), and "
            "until_kl chooses k for one text per row; give them rows of their own"
        )
