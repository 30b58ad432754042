"""Documents that are not texts are named before a tokenizer or a hash meets them."""

import pytest
import tiny

import sae_lens_ext as sle
from sae_lens_ext.text import is_held_out, pack, split_documents

pytestmark = pytest.mark.usefixtures("without_shape_checks")

NOT_DOCUMENTS = [
    (None, "documents must be a list or another iterable of texts; got None"),
    ("one text", "got an object of type str; put a single text into a list"),
    (b"bytes", "got an object of type bytes"),
    (5, "got an object of type int"),
    (["w1", None], r"documents\[1\] must be a string; got None"),
    ([["w1"]], r"documents\[0\] must be a string; got an object of type list"),
]


@pytest.mark.parametrize(("documents", "message"), NOT_DOCUMENTS)
def test_rejects_documents_that_are_not_texts(documents, message):
    with pytest.raises(sle.InvalidArgument, match=message):
        pack(documents, tiny.tokenizer(), n_rows=1, context=99)
    with pytest.raises(sle.InvalidArgument, match=message):
        list(split_documents(documents, held_out=True))


def test_rejects_text_that_is_not_a_string():
    with pytest.raises(sle.InvalidArgument, match="text must be a string; got None"):
        is_held_out(None)
