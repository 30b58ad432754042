"""Looking at a text while the model runs: the dial of a notebook.

``DialState`` runs the model and says what is to be seen; ``dial`` shows it by the
widget of ``viz``.
"""

from sae_lens_ext.explore.dial import dial
from sae_lens_ext.explore.state import DialState

__all__ = ["DialState", "dial"]
