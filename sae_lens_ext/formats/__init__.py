"""Bytes on disk <-> a plain description and tensors.

Nothing here knows what an SAE, or a model, computes.

==================== ============================================== ================
module               layout                                         direction
==================== ============================================== ================
saelens              SAELens 3 to 6, and this package's own         reads and writes
sparsify             sparsify                                       reads
gemma_scope          Gemma Scope (Gemma 2)                          reads
gemma_scope_2        Gemma Scope 2 (Gemma 3)                        reads
qwen_scope           Qwen-Scope                                     reads
dictionary_learning  dictionary_learning                            reads
llama_scope          Llama Scope and Llama Scope R1                 reads
openai               OpenAI's SAEs of GPT-2                         reads
circuit_tracer       sets of transcoders                            reads and writes
state_dicts          other single files of torch                    reads
weights              a model's safetensors, or ``.bin``             reads
==================== ============================================== ================

``detect`` chooses among them by the names of the files, ``locate`` finds or downloads
these, and ``assemble`` checks what comes out. No pickle is written; of one that is
read, only tensors and plain values are accepted (see ``pickles``). Every file is
written under a temporary name and renamed when it is complete, and several files of a
folder are replaced as one (see ``folder``).
"""

from sae_lens_ext.formats.checkpoint import SAECheckpoint
from sae_lens_ext.formats.circuit_tracer_write import write_circuit_tracer
from sae_lens_ext.formats.detect import read_sae
from sae_lens_ext.formats.locate import locate
from sae_lens_ext.formats.saelens import (
    checkpoint_from_saelens,
    saelens_extension,
    write_saelens,
)

__all__ = [
    "SAECheckpoint",
    "checkpoint_from_saelens",
    "locate",
    "read_sae",
    "saelens_extension",
    "write_circuit_tracer",
    "write_saelens",
]
