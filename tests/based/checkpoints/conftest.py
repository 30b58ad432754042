"""What tests of loading share."""

import pytest

import sae_lens_ext as sle
from sae_lens_ext.based import load_checkpoint


@pytest.fixture
def refusal():
    """The message of the ``FormatError`` that loading a folder raises."""

    def message(folder):
        with pytest.raises(sle.FormatError) as caught:
            load_checkpoint(folder)
        return str(caught.value)

    return message
