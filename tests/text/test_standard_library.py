"""The default text is a lot of prose in a fixed order."""

import itertools

from sae_lens_ext.text import default_documents


def test_default_documents_are_prose_in_a_fixed_order():
    first = list(itertools.islice(default_documents(), 60))
    again = list(itertools.islice(default_documents(), 60))
    assert first == again
    assert len(set(first)) == 60
    assert sum(map(len, first)) > 100_000
