"""Folders are locked across processes, and a lock ends with its process."""

import multiprocessing
import sys
import time
from pathlib import Path

import pytest

from sae_lens_ext.formats.locks import locked, locked_or_busy

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no fcntl")


def hold(folder: Path, held):
    with locked(folder):
        held.set()
        time.sleep(60)


@pytest.fixture
def holder(tmp_path):
    """A process that has locked the folder."""
    context = multiprocessing.get_context("fork")
    held = context.Event()
    process = context.Process(target=hold, args=(tmp_path, held))
    process.start()
    assert held.wait(10)
    yield process
    process.kill()
    process.join()


def test_a_lock_ends_with_its_process(tmp_path, holder):
    holder.kill()
    holder.join()
    start = time.monotonic()
    with locked(tmp_path):
        assert time.monotonic() - start < 10
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_another_process_has_locked_is_busy(tmp_path, holder):
    with locked_or_busy(tmp_path) as is_locked:
        assert not is_locked
    holder.kill()
    holder.join()
    with locked_or_busy(tmp_path) as is_locked:
        assert is_locked
