"""Reading a cache is exact, bounded and resumable, also while it is written."""

import threading

import pytest
import torch
from toy import OTHER_SITE, SITE, Toy, drained, ids_of, rows, same

import sae_lens_ext as sle
from sae_lens_ext.training import ActivationStream, CacheStream, cache_activations
from sae_lens_ext.training.stream.cache import folder as cache_folder
from sae_lens_ext.training.stream.cache import writer

SITES = [SITE, OTHER_SITE]


def cached(folder, model=None, **options):
    return cache_activations(
        model or Toy(),
        rows(),
        SITES,
        folder,
        batch_size=2,
        shard_tokens=30,
        progress=False,
        **options,
    )


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """Ten shards of 36 tokens."""
    return cached(tmp_path_factory.mktemp("cache") / "c")


def test_every_pass_gives_every_token_once_in_another_order(cache):
    stream = CacheStream(cache, epochs=3, window=4)
    assert isinstance(stream, ActivationStream)
    assert stream.n_tokens == 1080
    ids = ids_of(torch.cat(drained(stream)))
    passes = [ids[start : start + 360] for start in range(0, 1080, 360)]
    assert all(sorted(part) == list(range(3, 363)) for part in passes)
    assert passes[0] != passes[1] != passes[2]
    assert stream.counts == {"given": 1080, "special": 40, "outliers": 0}
    assert stream.next_batch(3)[SITE].shape == (0, 6)


def test_the_first_pass_follows_the_text_window_by_window(cache):
    ids = ids_of(torch.cat(drained(CacheStream(cache, window=4))))
    windows = [ids[:144], ids[144:288], ids[288:]]
    assert [min(window) for window in windows] == [3, 147, 291]
    assert all(window != sorted(window) for window in windows)

    stream = CacheStream(cache, window=2, epochs=2)
    second_pass = ids_of(torch.cat(drained(stream)))[360:]
    assert min(second_pass[:72]) != 3 or max(second_pass[:72]) != 74


def test_sites_have_the_same_tokens_alone_and_together(cache):
    both = CacheStream(cache).next_batch(40)
    assert torch.equal(both[OTHER_SITE][:, 0], 2 * both[SITE][:, 0])
    alone = CacheStream(cache, OTHER_SITE)
    assert alone.sites == (OTHER_SITE,)
    assert alone.width(OTHER_SITE) == 8
    assert torch.equal(alone.next_batch(40)[OTHER_SITE], both[OTHER_SITE])
    assert set(alone.statistics()) == {OTHER_SITE}


@pytest.mark.parametrize("n_batches", [0, 1, 3, 8, 11, 19])
def test_goes_on_from_any_state_bit_for_bit(cache, n_batches):
    def stream():
        return CacheStream(cache.folder, SITE, epochs=2, window=3, seed=2)

    first = stream()
    for _ in range(n_batches):
        first.next_batch(37)
    second = stream()
    second.restore(first.state())
    assert same(drained(first, 37), drained(second, 37))
    assert first.counts == second.counts


def test_ends_after_n_tokens(cache):
    stream = CacheStream(cache, n_tokens=500)
    assert stream.n_tokens == 500
    assert sum(map(len, drained(stream))) == 500


def test_follows_a_live_writer_and_gives_what_it_gives_later(tmp_path, monkeypatch):
    monkeypatch.setattr(cache_folder, "_SECONDS_BETWEEN", 0.01)
    may_write = threading.Semaphore(4)
    write_shard = writer.write_shard

    def slowly(*arguments):
        assert may_write.acquire(timeout=60)
        return write_shard(*arguments)

    monkeypatch.setattr(writer, "write_shard", slowly)
    thread = threading.Thread(target=cached, args=(tmp_path / "c",))
    thread.start()
    # The writer holds the lock from its beginning on.
    while not cache_folder.is_being_written(tmp_path / "c"):
        pass
    stream = CacheStream(tmp_path / "c", epochs=2, window=2)
    assert stream.n_tokens is None
    batches = [stream.next_batch(50)[SITE]]
    assert len(stream.cache.shards) < 10
    while len(batch := stream.next_batch(50)[SITE]):
        batches.append(batch)
        may_write.release(2)
    thread.join()

    assert stream.n_tokens == 720
    later = CacheStream(tmp_path / "c", epochs=2, window=2)
    assert same(batches, drained(later))


def test_rejects_a_cache_whose_writer_has_died(tmp_path):
    model = Toy()
    with torch.no_grad():
        model.embed.weight[200, 1] = torch.nan
    with pytest.raises(sle.NonFinite):
        cached(tmp_path / "c", model)
    with pytest.raises(sle.FormatError, match="not complete: it holds 180 tokens, and"):
        CacheStream(tmp_path / "c")
    stream = CacheStream(tmp_path / "c", unfinished=True)
    assert stream.n_tokens == 180
    assert sum(map(len, drained(stream))) == 180


def damaged(folder, name, damage):
    path = folder / name
    content = path.read_bytes()
    path.unlink()
    if damage is not None:
        path.write_bytes(damage(content))


@pytest.mark.parametrize(
    ("name", "damage", "message"),
    [
        ("000003.safetensors", None, "000003.safetensors is missing"),
        ("000003.safetensors", lambda data: data[:-1], "000003.safetensors has .* by"),
        (
            "000003.safetensors",
            lambda data: data[:-1] + b"\x7f",
            "000003.safetensors holds other bytes than were written",
        ),
        (
            "statistics.safetensors",
            lambda data: data[:-1],
            "statistics.* holds other",
        ),
        ("index.json", None, "holds no index.json, so it is not a cache"),
        ("index.json", lambda data: data[:-1], "index.json is not JSON"),
        (
            "index.json",
            lambda data: data.replace(b'"version": 1', b'"version": 2'),
            "not the index of a cache of version 1",
        ),
    ],
)
def test_a_damaged_file_is_named(tmp_path, name, damage, message):
    folder = cached(tmp_path / "c").folder
    damaged(folder, name, damage)

    def read():
        stream = CacheStream(folder)
        stream.statistics()
        drained(stream)

    with pytest.raises(sle.FormatError, match=message):
        read()


@pytest.mark.usefixtures("without_shape_checks")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sites": "nowhere"}, "the cache has the sites embed, twice; got 'nowhere'"),
        ({"window": 0}, "window must be a positive integer"),
        ({"seed": -1}, "seed must be a non-negative integer"),
        ({"epochs": 0}, "epochs must be a positive integer"),
    ],
)
def test_rejects_invalid_arguments(cache, options, message):
    with pytest.raises(sle.InvalidArgument, match=message):
        CacheStream(cache, **options)


def test_rejects_missing_folders_and_states_of_other_streams(cache, tmp_path):
    with pytest.raises(sle.FormatError, match="holds no index.json"):
        CacheStream(tmp_path / "nothing")
    state = CacheStream(cache).state()
    with pytest.raises(sle.FormatError, match="window is 8 there and 3 here"):
        CacheStream(cache, window=3).restore(state)
    with pytest.raises(sle.InvalidArgument, match="this stream has the sites twice"):
        CacheStream(cache, OTHER_SITE).width(SITE)
