"""The file of metrics goes on where its checkpoint says."""

import pytest

from sae_lens_ext.training.logging import MetricsFile


def test_lines_after_the_checkpoint_are_cut_off(tmp_path):
    path = tmp_path / "metrics.jsonl"
    file = MetricsFile(path)
    file.write({"step": 1})
    size = file.synced_size()
    file.write({"step": 2, "loss": 0.5})
    file.close()

    file = MetricsFile(path, size)
    file.write({"step": 2, "loss": 0.25})
    file.close()
    assert path.read_text() == '{"step": 1}\n{"step": 2, "loss": 0.25}\n'


def test_a_line_is_there_once_it_is_written(tmp_path):
    path = tmp_path / "metrics.jsonl"
    file = MetricsFile(path)
    file.write({"step": 1})
    assert path.read_text() == '{"step": 1}\n'
    file.close()


def test_missing_lines_are_warned_of(tmp_path):
    path = tmp_path / "metrics.jsonl"
    with pytest.warns(UserWarning, match="was 100 bytes long .* and is 0 now"):
        MetricsFile(path, 100).close()
