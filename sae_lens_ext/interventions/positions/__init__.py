"""The positions of a run that an intervention acts on.

Positions count from the beginning of the text. ``selection`` reads them as users write
them, ``Window`` is the part of the text that the run in progress covers, and
``SplicedPositions`` are the positions that a splice acts on.
"""

from sae_lens_ext.interventions.positions.selection import (
    Positions,
    checked_slice,
    frozen_positions,
    frozen_rows,
    positions_from_json,
    positions_to_json,
)
from sae_lens_ext.interventions.positions.spliced import SplicedPositions
from sae_lens_ext.interventions.positions.window import Window

__all__ = [
    "Positions",
    "SplicedPositions",
    "Window",
    "checked_slice",
    "frozen_positions",
    "frozen_rows",
    "positions_from_json",
    "positions_to_json",
]
