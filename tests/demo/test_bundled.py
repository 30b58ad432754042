"""How the bundled model is kept. That it is the right model is tested in test_real_model.py."""

import json

import pytest

import sae_lens_ext as sle
from sae_lens_ext.demo import bundled


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SAE_LENS_EXT_CACHE", str(tmp_path))
    monkeypatch.setattr(bundled, "_check_room", lambda *_: None)
    return tmp_path


def _fake_prepare(calls):
    def prepare(model, folder, progress):
        calls.append(folder.name)
        folder.mkdir(parents=True)
        (folder / "model.safetensors").write_bytes(b"weights")
        (folder / "manifest.json").write_text(
            json.dumps({"layout": bundled._LAYOUT, "bytes": {"model.safetensors": 7}})
        )

    return prepare


def test_it_is_prepared_once(cache, monkeypatch):
    calls = []
    monkeypatch.setattr(bundled, "_prepare", _fake_prepare(calls))
    folder = bundled.prepare_bundled(progress=False)
    assert bundled.prepare_bundled(progress=False) == folder
    assert len(calls) == 1
    assert folder.is_relative_to(cache)


def test_an_interrupted_first_run_leaves_nothing_and_the_next_one_succeeds(
    cache, monkeypatch
):
    def interrupted(model, folder, progress):
        folder.mkdir(parents=True)
        (folder / "model.safetensors").write_bytes(b"wei")
        raise KeyboardInterrupt

    monkeypatch.setattr(bundled, "_prepare", interrupted)
    with pytest.raises(KeyboardInterrupt):
        bundled.prepare_bundled(progress=False)
    assert [
        path for path in (cache / "models").iterdir() if path.suffix != ".lock"
    ] == []
    monkeypatch.setattr(bundled, "_prepare", _fake_prepare([]))
    assert (
        bundled.prepare_bundled(progress=False) / "model.safetensors"
    ).read_bytes() == b"weights"


def test_a_run_that_was_killed_is_cleaned_up_by_the_next(cache, monkeypatch):
    partial = cache / "models" / f".gemma-3-270m-v{bundled._LAYOUT}.partial"
    partial.mkdir(parents=True)
    (partial / "model.safetensors").write_bytes(b"wei")
    monkeypatch.setattr(bundled, "_prepare", _fake_prepare([]))
    bundled.prepare_bundled(progress=False)
    assert not partial.exists()


@pytest.mark.parametrize("damage", ["cut", "gone", "manifest"])
def test_a_damaged_folder_is_made_again(cache, monkeypatch, damage):
    calls = []
    monkeypatch.setattr(bundled, "_prepare", _fake_prepare(calls))
    folder = bundled.prepare_bundled(progress=False)
    if damage == "cut":
        (folder / "model.safetensors").write_bytes(b"wei")
    elif damage == "gone":
        (folder / "model.safetensors").unlink()
    else:
        (folder / "manifest.json").write_text("{")
    bundled.prepare_bundled(progress=False)
    assert len(calls) == 2
    assert (folder / "model.safetensors").read_bytes() == b"weights"


def test_what_was_written_is_read_back(tmp_path):
    import torch
    from safetensors.torch import save_file

    state = {"a": torch.ones(3), "b": torch.zeros(2)}
    save_file(state, tmp_path / "model.safetensors")
    bundled._check_written(tmp_path, state)
    with pytest.raises(
        sle.FormatError,
        match="does not hold what was written to it .b.; is the disk full",
    ):
        bundled._check_written(tmp_path, {**state, "b": torch.ones(2)})
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(sle.FormatError, match="2 tensors were not written to"):
        bundled._check_written(tmp_path, state)


def test_too_little_room_is_said_before_anything_is_written(tmp_path, monkeypatch):
    monkeypatch.setenv("SAE_LENS_EXT_CACHE", str(tmp_path))
    monkeypatch.setattr(
        bundled.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 10**9})
    )
    with pytest.raises(
        sle.InvalidArgument,
        match=r"needs 2.6 GB in .* and 1.0 GB are free; make room, or name another folder in SAE_LENS_EXT_CACHE",
    ):
        bundled.prepare_bundled(progress=False)


def test_an_unknown_name_lists_what_there_is():
    with pytest.raises(
        sle.InvalidArgument, match="no bundled model 'gemma-3'; there is: gemma-3-270m"
    ):
        bundled.prepare_bundled("gemma-3")
