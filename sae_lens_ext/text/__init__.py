"""Text for language models: documents from wherever they are, a fixed split of them, rows of token ids."""

from sae_lens_ext.text.documents import default_documents, documents
from sae_lens_ext.text.tokens import is_held_out, pack, split_documents

__all__ = ["default_documents", "documents", "is_held_out", "pack", "split_documents"]
