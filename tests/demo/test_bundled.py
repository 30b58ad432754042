"""How a bundled model is kept: whole, prepared once, made again where damaged.

That it is the right model is tested in ``tests/claims/test_real_model.py``.
"""

import pytest

import sae_lens_ext as sle
from sae_lens_ext.demo import bundled


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SAE_LENS_EXT_CACHE", str(tmp_path))
    monkeypatch.setattr(bundled, "_check_free_space", lambda *_: None)
    return tmp_path


@pytest.fixture
def conversions(cache, monkeypatch):
    """The folders that were converted to, by a conversion that takes no time."""
    folders = []

    def convert(package, gguf, folder, progress):
        folders.append(folder.name)
        folder.mkdir(parents=True)
        (folder / "model.safetensors").write_bytes(b"weights")

    monkeypatch.setattr(bundled, "convert", convert)
    return folders


def test_prepares_once(cache, conversions):
    folder = bundled.prepare_bundled(progress=False)
    assert bundled.prepare_bundled(progress=False) == folder
    assert len(conversions) == 1
    assert folder.is_relative_to(cache)


def test_an_interrupted_first_use_leaves_nothing_and_the_next_one_succeeds(
    cache, conversions, monkeypatch
):
    def interrupted(package, gguf, folder, progress):
        folder.mkdir(parents=True)
        (folder / "model.safetensors").write_bytes(b"wei")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(bundled, "convert", interrupted)
        with pytest.raises(KeyboardInterrupt):
            bundled.prepare_bundled(progress=False)
    folders = [path for path in (cache / "models").iterdir() if path.suffix != ".lock"]
    assert folders == []

    folder = bundled.prepare_bundled(progress=False)
    assert (folder / "model.safetensors").read_bytes() == b"weights"


@pytest.mark.usefixtures("conversions")
def test_cleans_up_after_a_process_that_was_killed(cache):
    partial = cache / "models" / f".gemma-3-270m-v{bundled._LAYOUT}.partial"
    partial.mkdir(parents=True)
    (partial / "model.safetensors").write_bytes(b"wei")
    bundled.prepare_bundled(progress=False)
    assert not partial.exists()


@pytest.mark.parametrize("damage", ["cut", "gone", "manifest"])
def test_makes_a_damaged_folder_again(conversions, damage):
    folder = bundled.prepare_bundled(progress=False)
    if damage == "cut":
        (folder / "model.safetensors").write_bytes(b"wei")
    elif damage == "gone":
        (folder / "model.safetensors").unlink()
    else:
        (folder / "manifest.json").write_text("{")
    bundled.prepare_bundled(progress=False)
    assert len(conversions) == 2
    assert (folder / "model.safetensors").read_bytes() == b"weights"


def test_reports_too_little_space_before_anything_is_written(tmp_path, monkeypatch):
    monkeypatch.setenv("SAE_LENS_EXT_CACHE", str(tmp_path))
    usage = type("Usage", (), {"free": 10**9})
    monkeypatch.setattr(bundled.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(
        sle.InvalidArgument,
        match=r"needs 2.6 GB in .* and 1.0 GB are free; make room, or name another "
        "folder in SAE_LENS_EXT_CACHE",
    ):
        bundled.prepare_bundled(progress=False)


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(
        sle.InvalidArgument, match="no bundled model 'gemma-3'; there is: gemma-3-270m"
    ):
        bundled.prepare_bundled("gemma-3")


@pytest.mark.usefixtures("without_shape_checks")
def test_rejects_an_unknown_library():
    with pytest.raises(
        sle.InvalidArgument,
        match="library must be one of transformer-lens, nnsight, torch; got 'jax'",
    ):
        bundled.load_bundled(library="jax")


def test_the_cache_is_where_the_environment_says(tmp_path, monkeypatch):
    monkeypatch.setenv("SAE_LENS_EXT_CACHE", str(tmp_path))
    assert bundled.cache_folder() == tmp_path
    monkeypatch.delenv("SAE_LENS_EXT_CACHE")
    assert bundled.cache_folder().name == "sae-lens-ext"
