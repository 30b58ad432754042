"""Names that the package's annotations share.

Words in shape annotations:

========= ==================================================================
batch     rows of a batch of sequences
pos       positions in a sequence (tokens)
d_model   width of the activation that an SAE reads and writes
d_sae     number of features of the SAE
k         active features per token, strongest first
levels    values of k that an objective or a sweep evaluates
*batch    any number of leading axes, possibly zero
========= ==================================================================
"""

from typing import Literal

Backend = Literal["reference", "cpu", "gpu"]
"""An implementation of a kernel: its definition, a fast one on a CPU, one in Triton."""
