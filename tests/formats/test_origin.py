"""Names lead to what layouts keep nowhere else."""

from pathlib import Path

from sae_lens_ext.formats.origin import number_in, origin


def test_the_cache_of_the_hub_looks_like_a_folder_of_the_repository():
    cached = Path("/c/models--Qwen--SAE-Res-X-W32K-L0_50/snapshots/0a/layer0.sae.pt")
    assert "/Qwen/SAE-Res-X-W32K-L0_50/" in origin(cached)
    assert origin(Path("relative")) == (Path.cwd() / "relative").as_posix()


def test_the_last_number_counts():
    assert number_in(r"layer_(\d+)", "layer_1/x/layer_22") == 22
    assert number_in(r"layer_(\d+)", "layers") is None
    assert number_in(r"layer_(\d+)", "layer_" + "9" * 5000) is None
