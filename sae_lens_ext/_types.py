"""The words that shape annotations use, in one place.

========= =====================================================================
batch     rows of a batch of sequences
pos       positions in a sequence (tokens)
d_model   width of the activation an SAE reads and writes
d_sae     number of features of the SAE
k         active features per token, strongest first
levels    values of k that an objective or a sweep looks at
*batch    any number of leading axes, possibly none
========= =====================================================================
"""

from typing import Literal

Backend = Literal["reference", "cpu", "gpu"]
"""Which implementation of a kernel runs: the definition, the fast one without a GPU, the Triton one."""
