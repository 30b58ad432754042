"""A model reads a text up to one site, and the SAE there encodes it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from sae_lens_ext.errors import InvalidArgument
from sae_lens_ext.features.identity import sae_facts
from sae_lens_ext.features.state import IndexedBatch
from sae_lens_ext.hosts import Host, by_position, host_for
from sae_lens_ext.interventions.positions import (
    Positions,
    SplicedPositions,
    frozen_positions,
)
from sae_lens_ext.interventions.sites import Placement, SAEs, placements
from sae_lens_ext.sae import SAE, SparseCode
from sae_lens_ext.training.cleaning import check_finite
from sae_lens_ext.training.collecting import Collector
from sae_lens_ext.training.stream.fingerprint import model_facts
from sae_lens_ext.training.stream.rows import row_source

# Of a path that a system takes.
_LONGEST_NAME = 256


def only_place(host: Host, sae: SAEs) -> Placement:
    """The place of a single SAE in a model.

    Raises:
        InvalidArgument: several SAEs.
        UnknownSite, ShapeMismatch: as in ``splice``.
    """
    placed = placements(host, sae)
    if len(placed) > 1:
        raise InvalidArgument(
            f"an index is of one SAE; got {len(placed)}, at {', '.join(placed)}: make "
            "an index of each, in a folder of its own"
        )
    (place,) = placed.values()
    return place


class Reader:
    """The codes of a text, batch by batch.

    Attributes:
        place: the SAE at its site.
        sae: the SAE.
        k: features per token; None for every active one.
        facts: what tells this text, model and SAE from others, as JSON values.
        n_tokens: tokens of the text that count, if that is known.
    """

    def __init__(
        self,
        model: Any,
        sae: SAEs,
        documents: Any,
        *,
        k: int | None,
        extrapolate: bool = False,
        positions: Positions,
        batch_size: int,
    ) -> None:
        """Find the site and the text; nothing runs yet.

        Args: as in ``index``.

        Raises:
            UnknownSite, ShapeMismatch, InvalidK, InvalidArgument: as in ``index``.
        """
        _check_documents(documents)
        host = host_for(model).plain()
        self.host = host
        self.place = only_place(host, sae)
        assert self.place.sae is not None
        self.sae: SAE = self.place.sae
        self.k = self.sae.config.checked_k(k, extrapolate=extrapolate)
        self._batch_size = batch_size
        self._site = self.place.reads.name
        # The tokens are chosen below, as in a splice.
        self._collector = Collector(model, self._site, positions="all")
        self._where = SplicedPositions.of(host, self.sae, positions)
        self._rows = row_source(documents, self._collector, None)
        self.n_tokens = self._rows.tokens_per_epoch
        self.facts: Mapping[str, Any] = {
            "site": self.place.site.name,
            "reads": self._site,
            "k": self.k,
            "positions": _described(positions),
            "left_alone": list(self._where.left_alone),
            "model": model_facts(host),
            "sae": sae_facts(self.sae),
            "text": self._rows.facts,
        }

    def start(self) -> None:
        """Go to the first row of the text."""
        self._rows.start(0)

    def state(self) -> Mapping[str, Any]:
        """Where the next row is; JSON values."""
        return self._rows.state()

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a state."""
        self._rows.restore(state)

    def next_batch(self) -> tuple[SparseCode | None, IndexedBatch] | None:
        """The next rows with the code of their tokens; None at the end of the text.

        There is no code where no token of the rows counts.

        Raises:
            NonFinite: the model produced NaN or infinity.
        """
        rows = self._rows.next_rows(self._batch_size)
        if rows is None:
            return None
        tokens = self._collector.batch(rows)
        mask = self._where.mask_of(tokens)
        right = tokens.right_padded()
        device = self.sae.W_enc.device
        batch = IndexedBatch(
            right.ids.to(device),
            right.mask.to(device),
            by_position(mask, tokens.mask).to(device),
        )
        if not batch.mask.any():
            return None, batch

        activations: Tensor = self._collector.collect(tokens, mask)[self._site]
        check_finite(self._site, activations)
        return self.sae.encode(activations.to(device), self.k, extrapolate=True), batch


def _check_documents(documents: Any) -> None:
    """Check that a path is not taken for the text to index."""
    is_path = isinstance(documents, Path)
    # An empty text would be the current folder.
    if isinstance(documents, str) and 0 < len(documents) < _LONGEST_NAME:
        is_path = Path(documents).exists()
    if is_path:
        raise InvalidArgument(
            f"{documents} is a file or folder; give its rows of tokens, "
            f"TextRows({str(documents)!r}, tokenizer), with TextRows from "
            "sae_lens_ext.training"
        )


def _described(positions: Positions) -> str:
    """A choice of positions as a string that another choice does not have."""
    # "all" and None are frozen to the same.
    if positions is None or isinstance(positions, str):
        return repr(positions)
    return repr(frozen_positions(positions))
