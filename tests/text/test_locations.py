"""A source is a path that exists, or the name of a dataset, or an error."""

import pytest

import sae_lens_ext as sle
from sae_lens_ext.text.locations import local_path, reading_dataset


@pytest.mark.usefixtures("without_shape_checks")
def test_tells_paths_from_names_of_datasets(tmp_path):
    assert local_path(tmp_path) == tmp_path
    assert local_path(str(tmp_path)) == tmp_path
    assert local_path("owner/name") is None
    for missing in ("notes.txt", "a/b/c", tmp_path / "nothing", "a*"):
        with pytest.raises(sle.FormatError, match="no file or folder"):
            local_path(missing)
    for invalid in ("", None, 3):
        with pytest.raises(sle.FormatError, match="source must be a file"):
            local_path(invalid)


def test_errors_of_a_reader_name_the_dataset():
    with (
        pytest.raises(sle.FormatError, match=r"owner/name cannot .* \(KeyError: 'x'\)"),
        reading_dataset("owner/name"),
    ):
        raise KeyError("x")
