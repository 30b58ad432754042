"""Text for language models: documents, a fixed split of them, rows of token ids."""

from sae_lens_ext.text.documents import documents
from sae_lens_ext.text.packing import Packer, pack
from sae_lens_ext.text.readers import DocumentReader, document_reader
from sae_lens_ext.text.resumable import Resumable
from sae_lens_ext.text.rows import TextRows
from sae_lens_ext.text.split import is_held_out, split_documents
from sae_lens_ext.text.standard_library import default_documents, docstrings

__all__ = [
    "DocumentReader",
    "Packer",
    "Resumable",
    "TextRows",
    "default_documents",
    "docstrings",
    "document_reader",
    "documents",
    "is_held_out",
    "pack",
    "split_documents",
]
