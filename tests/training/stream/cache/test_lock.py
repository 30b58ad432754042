"""The lock of a folder tells whether it is being written, and ends with its holder."""

from sae_lens_ext.training.stream.cache.lock import is_being_written, writing


def test_a_folder_is_being_written_as_long_as_the_block_lasts(tmp_path):
    folder = tmp_path / "new"
    assert not is_being_written(folder)
    with writing(folder):
        assert is_being_written(folder)
        assert is_being_written(folder)
    assert not is_being_written(folder)
    with writing(folder):
        assert is_being_written(folder)
