"""Guarded runs: k is chosen per token by what it does to the prediction.

``until_kl`` is the bound, ``Guard`` chooses before every run of a splice, and
``ChosenK`` says what was chosen. Before a run of some columns of a text,

1. the columns are read one spliced column at a time, as rows of one batch: the
   reference, and the same rows again at every candidate k (``worlds``); columns where
   nothing is spliced are read at once, without candidates,
2. a row takes the smallest k whose next-token distribution is close enough to the
   reference's (``search``),
3. the keys and values of that one are kept, and all candidates of the next column go on
   from them (``text``).

The run itself is then one with these numbers as k per position. What the search needs
of the text is kept in a cache of its own, so the caches of users hold their run alone.
``Splice.generate`` does without the run: it takes the next token from the search.
"""

from sae_lens_ext.interventions.guard.chosen import ChosenK
from sae_lens_ext.interventions.guard.guard import Guard, NextToken

__all__ = ["ChosenK", "Guard", "NextToken"]
