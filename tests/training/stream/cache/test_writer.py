"""A cache holds every token once, and goes on after a kill as if nothing had been."""

import subprocess
import sys
from contextlib import nullcontext

import interrupted_cache
import pytest
import tiny
import torch
from full_disk import full_disk
from interrupted_cache import SITES, text, write
from paths import REPOSITORY
from safetensors.torch import load_file
from toy import OTHER_SITE, SITE, Toy, ids_of, rows

import sae_lens_ext as sle
from sae_lens_ext.training import (
    ActivationCache,
    TextRows,
    cache_activations,
    collect_activations,
)
from sae_lens_ext.training.stream.cache import writer
from sae_lens_ext.training.stream.cache.lock import writing
from sae_lens_ext.training.stream.cache.shards import write_shard


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def values_of(cache, site=SITE):
    return torch.cat(
        [load_file(cache.folder / shard.name)[site] for shard in cache.shards]
    )


def cached(folder, tokens=None, sites=SITE, model=None, **options):
    options = {"batch_size": 2, "shard_tokens": 60, "progress": False, **options}
    tokens = rows() if tokens is None else tokens
    return cache_activations(model or Toy(), tokens, sites, folder, **options)


def test_holds_every_token_once_in_the_order_of_the_text(tmp_path):
    model = Toy()
    cache = cached(tmp_path / "c", sites=[OTHER_SITE, SITE], model=model)
    assert ids_of(values_of(cache)) == list(range(3, 363))
    assert torch.equal(values_of(cache, OTHER_SITE)[:, 0], 2 * values_of(cache)[:, 0])
    assert model.n_passes == 20
    assert cache.sites == (OTHER_SITE, SITE)
    assert cache.n_tokens == 360
    assert [shard.n_tokens for shard in cache.shards] == [72] * 5
    assert cache.counts == {"special": 40, "outliers": 0}
    assert cache.is_complete
    assert "360 tokens of twice, embed" in repr(cache)


def test_constants_are_those_of_the_first_shard_and_outliers_are_shrunk(tmp_path):
    model = Toy()
    with torch.no_grad():
        model.embed.weight[:, 0] = 1
        model.embed.weight[5] = 1e5
        model.embed.weight[300] = 1e5
    cache = cached(tmp_path / "c", model=model)
    first = collect_activations(model, rows()[:8], SITE, progress=False)
    clipped = first.outliers_clipped()
    mean, scale = clipped.mean_and_scale()
    constants = cache.statistics()[SITE]
    torch.testing.assert_close(constants.mean, mean)
    torch.testing.assert_close(constants.scale, scale)
    torch.testing.assert_close(values_of(cache)[:72], clipped.values)
    assert cache.counts["outliers"] == 2
    assert values_of(cache).norm(dim=1).max() < constants.largest_norm * 1.001


def test_what_was_written_before_a_disk_was_full_is_kept(tmp_path, monkeypatch):
    cached(tmp_path / "whole")
    folder = tmp_path / "full"
    n_written = 0

    def write_while_there_is_room(*args):
        nonlocal n_written
        n_written += 1
        with full_disk(100) if n_written == 3 else nullcontext():
            return write_shard(*args)

    monkeypatch.setattr(writer, "write_shard", write_while_there_is_room)
    kept = "144 tokens are kept there: make room, and call again to go on"
    with pytest.raises(OSError, match=rf"full cannot be written \(.*; {kept}"):
        cached(folder)

    assert ActivationCache(folder).n_tokens == 144
    cached(folder)
    assert contents(folder) == contents(tmp_path / "whole")


def test_killed_at_any_moment_and_resumed_it_is_the_undisturbed_cache(tmp_path):
    write(tmp_path / "whole")
    folder = tmp_path / "killed"
    # Six for a shard: file, name and folder, and the same for the index.
    moments = ["1", "2", "4", "5", "9", "6", "13", "17"]
    command = [sys.executable, interrupted_cache.__file__, str(folder), *moments]
    path = f"{REPOSITORY}:{REPOSITORY / 'tests'}"
    subprocess.run(command, check=True, env={"PYTHONPATH": path, "PATH": "/usr/bin"})
    assert contents(folder) == contents(tmp_path / "whole")


def test_a_cache_that_is_there_is_not_made_again(tmp_path):
    folder = tmp_path / "c"
    cached(folder)
    before = contents(folder)
    model = Toy()
    cached(folder, model=model)
    assert contents(folder) == before
    assert model.n_passes == 0


def test_ends_with_the_batch_that_reaches_n_tokens_and_can_go_on(tmp_path):
    folder = tmp_path / "c"
    part = cached(folder, n_tokens=100)
    assert part.n_tokens == 108
    assert part.is_complete
    model = Toy()
    assert cached(folder, model=model, n_tokens=50).n_tokens == 108
    assert model.n_passes == 0
    whole = cached(folder, model=model)
    assert ids_of(values_of(whole)) == list(range(3, 363))
    assert model.n_passes == 14


def test_stays_below_max_bytes(tmp_path):
    folder = tmp_path / "c"
    # Two of 1,800 bytes, and as much as a header may take.
    limit = 8000
    cache = cached(folder, max_bytes=limit)
    assert len(cache.shards) == 2
    assert cache.n_bytes <= limit
    model = Toy()
    cached(folder, model=model, max_bytes=limit)
    assert model.n_passes == 0
    assert len(cached(folder).shards) == 5
    with pytest.raises(sle.InvalidArgument, match="max_bytes is less than the first"):
        cached(tmp_path / "d", max_bytes=100)


def test_another_batch_size_may_go_on(tmp_path):
    cached(tmp_path / "c", n_tokens=100)
    assert cached(tmp_path / "c", batch_size=5).n_tokens == 360


@pytest.mark.parametrize(
    ("options", "change"),
    [
        ({"sites": OTHER_SITE}, r"sites is \['embed'\] there and \['twice'\] here"),
        ({"dtype": "bfloat16"}, "dtype is 'float32' there and 'bfloat16' here"),
        ({"model": Toy(500)}, "model: parameters is"),
        ({"tokens": rows(39)}, "text: ids is"),
        ({"positions": "all"}, "positions is 'None' there and \"'all'\" here"),
    ],
)
def test_rejects_other_settings_with_the_differences(tmp_path, options, change):
    folder = tmp_path / "c"
    cached(folder)
    before = contents(folder)
    with pytest.raises(sle.InvalidArgument, match=f"other settings: .*{change}"):
        cached(folder, **options)
    assert contents(folder) == before


def test_rejects_another_text_or_another_cut_of_it(tmp_path):
    folder = tmp_path / "c"
    write(folder)
    for tokens in (
        TextRows(["5 6 7 8 9"], interrupted_cache.toy.WordTokenizer(), context=5),
        rows(60),
    ):
        with pytest.raises(sle.InvalidArgument, match="other settings: .*context"):
            cached(folder, tokens, sites=SITES)


def test_leaves_a_folder_of_something_else_alone(tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(sle.InvalidArgument, match="is not empty and holds no cache"):
        cached(tmp_path)
    with pytest.raises(sle.InvalidArgument, match="thesis.txt cannot be written to"):
        cached(tmp_path / "thesis.txt")
    assert (tmp_path / "thesis.txt").read_text() == "years of work"


def test_only_one_process_writes(tmp_path):
    folder = tmp_path / "c"
    with (
        writing(folder),
        pytest.raises(sle.InvalidArgument, match="another process is writing"),
    ):
        cached(folder)


@pytest.mark.usefixtures("without_shape_checks")
@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"sites": "nowhere"}, sle.UnknownSite, "nowhere"),
        ({"dtype": "float16"}, sle.InvalidArgument, "float16 overflows on models"),
        ({"shard_tokens": 0}, sle.InvalidArgument, "shard_tokens must be a positive"),
        ({"n_tokens": 0}, sle.InvalidArgument, "n_tokens must be a positive"),
        ({"max_bytes": 0}, sle.InvalidArgument, "max_bytes must be a positive"),
        ({"tokens": torch.full((3, 4), 2)}, sle.InvalidArgument, "no activations to"),
    ],
)
def test_rejects_invalid_arguments(tmp_path, options, error, message):
    with pytest.raises(error, match=message):
        cached(tmp_path / "c", **options)


def test_numbers_that_are_not_finite_keep_what_was_written(tmp_path):
    model = Toy()
    with torch.no_grad():
        model.embed.weight[200, 1] = torch.nan
    with pytest.raises(sle.NonFinite, match="at embed are NaN"):
        cached(tmp_path / "c", model=model)
    assert ActivationCache(tmp_path / "c").n_tokens == 144


def test_serves_models_of_a_library(tmp_path, gpt2):
    site = "blocks.1.hook_resid_post"
    tokens = tiny.tokens(rows=6, length=7)
    cache = cached(tmp_path / "c", tokens, site, gpt2, dtype="bfloat16")
    collected = collect_activations(gpt2, tokens, site, progress=False)
    values = values_of(cache, site)
    assert values.dtype == torch.bfloat16
    torch.testing.assert_close(values.float(), collected.values, rtol=1e-2, atol=1e-2)
    assert text().context == 10
