"""The features of an SAE on a text: an index, made once, of what each is about.

=============== =====================================================================
build           ``index``: makes one, and goes on where it was interrupted
feature_index   ``FeatureIndex``: pages, search, dashboards of one that is open
labels          ``labels``: from a file, or from Neuronpedia (neuronpedia)
--------------- ---------------------------------------------------------------------
reader          a model reads a text, and the SAE encodes it
state           what is held of the text so far
entries         the active features of a batch, and the tokens around each
best            the n best entries of every feature
sampling        a uniform sample of them
counts          how strongly, at which rank
--------------- ---------------------------------------------------------------------
logit_effects   the tokens that features promote; final_norm: what is before them
neighbours      the features that write nearly the same
--------------- ---------------------------------------------------------------------
folder          the files
page            from the numbers to a page, which ``viz.pages`` shows
search          the features of a text
token_strings   the text of tokens
identity        what tells one SAE from another
=============== =====================================================================
"""

from sae_lens_ext.features.build import index
from sae_lens_ext.features.feature_index import FeatureIndex
from sae_lens_ext.features.labels import labels

open = FeatureIndex.open

__all__ = ["FeatureIndex", "index", "labels", "open"]
