"""Features as HTML: one file each, without a network, a server or a script.

========= ========================================================================
data      what a page shows
feature   the page of a feature
charts    its histogram, and its share at every k
contexts  tokens, shaded by activation
text      strings from anywhere as HTML
document  a whole HTML file, with the style
dashboard many pages, and one to search and sort them
========= ========================================================================
"""

from sae_lens_ext.viz.pages.dashboard import write_dashboard
from sae_lens_ext.viz.pages.data import Bin, Context, Neighbour, Quantile
from sae_lens_ext.viz.pages.feature import FeaturePage

__all__ = [
    "Bin",
    "Context",
    "FeaturePage",
    "Neighbour",
    "Quantile",
    "write_dashboard",
]
