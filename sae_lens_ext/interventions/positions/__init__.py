"""The positions of a run that an intervention acts on.

Positions count the tokens of a text from its beginning, however it is padded, packed or
cached. ``selection`` reads them as users write them, ``Window`` knows the position of
every column of the run in progress, and ``SplicedPositions`` are the positions that a
splice acts on.
"""

from sae_lens_ext.interventions.positions.selection import (
    Positions,
    checked_slice,
    frozen_positions,
    frozen_rows,
    positions_from_json,
    positions_to_json,
)
from sae_lens_ext.interventions.positions.spliced import (
    SplicedPositions,
    known_special_ids,
)
from sae_lens_ext.interventions.positions.window import Window

__all__ = [
    "Positions",
    "SplicedPositions",
    "Window",
    "checked_slice",
    "frozen_positions",
    "frozen_rows",
    "known_special_ids",
    "positions_from_json",
    "positions_to_json",
]
