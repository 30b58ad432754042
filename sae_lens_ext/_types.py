"""Names that the package's annotations share.

Words in shape annotations:

========= ==================================================================
batch     rows of a batch of sequences
pos       positions in a sequence (tokens)
d_model   width of the activation that an SAE reads
d_out     width of what it writes: d_model, except for a transcoder
d_sae     number of features of the SAE
k         active features per token, strongest first
levels    values of k that an objective or a sweep evaluates
*batch    any number of leading axes, possibly zero
========= ==================================================================
"""

from typing import Literal

Backend = Literal["reference", "cpu", "gpu"]
"""An implementation of a kernel: its definition, a fast one on a CPU, one in Triton."""

Kind = Literal["topk", "jumprelu", "batchtopk", "relu"]
"""How an SAE chooses its active features, among those with positive pre-activations:
the k largest of every token, those above a threshold per feature, those above one
threshold (BatchTopK at inference), or all.
"""

TokenNorm = Literal["none", "layer_norm", "unit_norm"]
"""How an SAE normalises the activation of every token before it encodes it: not at all;
to mean 0 and standard deviation 1; to a norm of sqrt(d_model).
"""
