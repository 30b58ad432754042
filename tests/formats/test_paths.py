"""Paths that users choose."""

import errno
from pathlib import Path

import pytest

from sae_lens_ext.errors import InvalidArgument
from sae_lens_ext.formats.paths import checked_path, writing_to


def test_a_path_is_text_or_a_path_object():
    assert checked_path("~/runs", "folder") == Path.home() / "runs"
    assert checked_path(Path("runs"), "folder") == Path("runs")
    for value in (None, 5, "", ["runs"]):
        with pytest.raises(InvalidArgument, match="folder must be a path; got"):
            checked_path(value, "folder")


def test_errors_of_a_path_are_ours_and_a_full_disk_is_not():
    with (
        pytest.raises(InvalidArgument, match=r"a/b cannot be .* \(no\); give another"),
        writing_to(Path("a/b"), "file"),
    ):
        raise OSError(errno.EROFS, "no")
    with pytest.raises(OSError, match="full"), writing_to(Path("a/b"), "file"):
        raise OSError(errno.ENOSPC, "full")
