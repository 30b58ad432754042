"""An index says of every feature what a look at all activations says.

``SAE_LENS_EXT_KILLS=20`` kills 20 of them at random moments instead of 5.
"""

import os
import random
import signal
import subprocess
import sys
from collections import defaultdict

import interrupted_index
import pytest
import tiny
import torch
from pandas.testing import assert_frame_equal
from paths import REPOSITORY
from safetensors.torch import load_file

import sae_lens_ext as sle
from sae_lens_ext.features import build

SITE = "blocks.1.hook_resid_post"
# As of training runs.
N_KILLS = int(os.environ.get("SAE_LENS_EXT_KILLS", "5"))
K = 6
SIZES = {"contexts": 4, "sample": 9, "window": 3}


def texts():
    """Rows of different lengths; ids of words, behind a BOS."""
    generator = torch.Generator().manual_seed(3)
    lengths = torch.randint(2, 15, (23,), generator=generator).tolist()
    draw = torch.randint(4, len(tiny.WORDS), (23, 15), generator=generator)
    return [[2, *row[: n - 1]] for row, n in zip(draw.tolist(), lengths, strict=True)]


@pytest.fixture(scope="module")
def hf_model():
    return tiny.hf_model("gpt2")


@pytest.fixture(scope="module")
def sae():
    return tiny.sae(k=K, exclude_special_tokens=[2]).eval()


def indexed(folder, model, sae, documents=None, **options):
    options = {"batch_size": 4, "progress": False, **SIZES, **options}
    if "tokenizer" not in options:
        options["tokenizer"] = tiny.tokenizer()
    documents = texts() if documents is None else documents
    return sle.features.index(model, sae, documents, folder, **options)


@pytest.fixture(scope="module")
def index(hf_model, sae, tmp_path_factory):
    return indexed(tmp_path_factory.mktemp("index") / "i", hf_model, sae)


@pytest.fixture(scope="module")
def every_activation(hf_model, sae):
    """By feature: (row, position, activation, rank) of all activations, one by one."""
    found = defaultdict(list)
    for number, row in enumerate(texts()):
        with torch.no_grad():
            states = hf_model(torch.tensor([row]), output_hidden_states=True)
            code = sae.encode(states.hidden_states[2][0], K)
        for position, (values, features) in enumerate(
            zip(code.values.tolist(), code.indices.tolist(), strict=True)
        ):
            if row[position] == 2:
                continue
            for rank, (value, feature) in enumerate(zip(values, features, strict=True)):
                if value > 0:
                    found[feature].append((number, position, value, rank))
    return dict(found)


N_TOKENS = sum(len(row) - 1 for row in texts())


def test_density_and_ranks_are_those_of_all_activations(index, every_activation):
    table = index.table()
    assert index.n_tokens == N_TOKENS
    for feature in range(48):
        known = every_activation.get(feature, [])
        row = table.iloc[feature]
        assert row.density == len(known) / N_TOKENS
        assert row.largest == pytest.approx(max((v for _, _, v, _ in known), default=0))
        page = index.page(feature)
        assert page.n_active == len(known)
        smallest = min((rank for *_, rank in known), default=None)
        assert page.smallest_rank == smallest
        shares = [
            (k, sum(rank < k for *_, rank in known) / len(known))
            for k in (1, 2, 4, 6)
            if known
        ]
        assert page.at_k == shares


def test_the_histogram_counts_every_activation_once(index, every_activation):
    for feature, known in every_activation.items():
        bins = index.page(feature).histogram
        for low, high, count in bins:
            assert count == sum(low <= value < high for _, _, value, _ in known)
        assert sum(each.count for each in bins) == len(known)
        assert bins[0].count
        assert bins[-1].count
        widths = {round(each.high / each.low, 4) for each in bins}
        assert widths == {round(2**0.25, 4)}


def test_contexts_are_the_strongest_of_each_row(index, every_activation):
    rows = texts()
    words = tiny.WORDS
    for feature, known in every_activation.items():
        of_row = {}
        for row, position, value, _ in known:
            if value > of_row.get(row, (0, 0))[0]:
                of_row[row] = (value, position)
        expected = sorted(of_row.items(), key=lambda pair: -pair[1][0])[:4]
        contexts = index.page(feature).contexts
        assert [each.row for each in contexts] == [row for row, _ in expected]
        active = {(row, position): value for row, position, value, _ in known}
        for context, (row, (value, position)) in zip(contexts, expected, strict=True):
            assert context.position == position
            assert context.activation == pytest.approx(value, rel=1e-5)
            columns = range(max(0, position - 3), min(len(rows[row]), position + 4))
            assert context.tokens == [words[rows[row][column]] for column in columns]
            assert context.activations == pytest.approx(
                [active.get((row, column), 0) for column in columns], rel=1e-5
            )


def mixed(number):
    """SplitMix64's finaliser on Python's integers."""
    number = (number ^ (number >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
    number = (number ^ (number >> 27)) * 0x94D049BB133111EB % 2**64
    return number ^ (number >> 31)


def key(feature, row, position):
    number = mixed((row + 0x9E3779B97F4A7C15) % 2**64)
    number = mixed(mixed(number ^ position) ^ feature)
    return number - 2**64 if number >= 2**63 else number


def test_quantiles_are_those_of_a_uniform_sample_or_of_all(index, every_activation):
    n_sampled = 0
    for feature, known in every_activation.items():
        drawn = sorted(known, key=lambda each: -key(feature, each[0], each[1]))[:9]
        ordered = sorted((value for _, _, value, _ in drawn), reverse=True)
        quantiles = index.page(feature).quantiles
        n_groups = min(5, len(ordered))
        assert len(quantiles) == n_groups
        for number, quantile in enumerate(quantiles):
            start = number * len(ordered) // n_groups
            group = ordered[start : (number + 1) * len(ordered) // n_groups]
            assert quantile.largest == pytest.approx(group[0], rel=1e-5)
            assert quantile.smallest == pytest.approx(group[-1], rel=1e-5)
            assert quantile.is_sampled == (len(known) > 9)
            shown = [context.activation for context in quantile.contexts]
            assert shown == pytest.approx(sorted(shown, reverse=True))
            assert all(
                any(value == pytest.approx(each, rel=1e-5) for each in group)
                for value in shown
            )
        n_sampled += quantiles[0].is_sampled
    assert n_sampled > 5


def test_the_sample_is_uniform():
    from sae_lens_ext.features.sampling import sample_keys

    zeros = torch.zeros(4000, dtype=torch.int64)
    rows = torch.arange(4000)
    for keys in (
        sample_keys(zeros, rows, zeros),
        sample_keys(rows, zeros, zeros),
        sample_keys(zeros, zeros, rows),
    ):
        highest = keys.argsort(descending=True)[:400]
        # The mean of 400 of the numbers to 4,000, and four of its standard errors.
        assert abs(float(highest.double().mean()) - 1999.5) < 4 * 1155 / 20
        assert len(keys.unique()) == 4000


def test_batches_do_not_matter(index, hf_model, sae, tmp_path):
    other = indexed(tmp_path / "i", hf_model, sae, batch_size=23)
    assert other.table().feature.equals(index.table().feature)
    for feature in range(48):
        contexts = other.page(feature).contexts
        expected = index.page(feature).contexts
        assert [(each.row, each.position) for each in contexts] == [
            (each.row, each.position) for each in expected
        ]


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_killed_at_any_moment_and_resumed_it_is_the_undisturbed_index(tmp_path):
    seed = random.SystemRandom().randrange(1 << 30)
    program = [sys.executable, interrupted_index.__file__]
    command = [*program, str(tmp_path), str(N_KILLS), str(seed)]
    path = f"{REPOSITORY}:{REPOSITORY / 'tests'}"
    done = subprocess.run(
        command,
        check=False,
        capture_output=True,
        text=True,
        env={"PYTHONPATH": path, "PATH": "/usr/bin"},
    )
    assert done.returncode == 0, f"seed {seed}: {done.stderr[-6000:]}"

    whole = contents(tmp_path / "whole")
    names = ["in-turn", *map(str, range(N_KILLS))]
    differing = [name for name in names if contents(tmp_path / name) != whole]
    assert not differing, f"seed {seed}"


def test_deletes_what_a_kill_inside_of_a_writer_left(hf_model, sae, index, tmp_path):
    folder = tmp_path / "i"
    for name in (".checkpoint.safetensors.a1", ".features.safetensors.b2"):
        (folder / name).mkdir(parents=True)
        (folder / name / ".tmpAbCdEf").write_bytes(b"half")
    (folder / ".index.json.c3").write_bytes(b"{")
    indexed(folder, hf_model, sae)
    assert contents(folder) == contents(index.folder)


def test_goes_on_behind_the_rows_of_the_checkpoint(
    hf_model, sae, tmp_path, monkeypatch
):
    monkeypatch.setattr(build, "_SECONDS_BETWEEN", 0.0)
    n_passes = 0

    def stop_at_the_fourth(*_):
        nonlocal n_passes
        n_passes += 1
        if n_passes == 4:
            raise KeyboardInterrupt

    handle = hf_model.transformer.h[0].register_forward_pre_hook(stop_at_the_fourth)
    try:
        with pytest.raises(KeyboardInterrupt):
            indexed(tmp_path / "i", hf_model, sae)
        resumed = indexed(tmp_path / "i", hf_model, sae)
    finally:
        handle.remove()
    # 23 rows are six batches of four. One more finds the final norm, at the end.
    assert n_passes == 4 + 3 + 1
    assert resumed.n_tokens == N_TOKENS
    assert sorted(contents(tmp_path / "i")) == [
        ".lock",
        "features.safetensors",
        "index.json",
        "tokens.json",
    ]


def test_an_interruption_waits_for_the_batch_and_keeps_it(
    hf_model, sae, index, tmp_path
):
    n_passes = 0

    def interrupt_the_fourth(*_):
        nonlocal n_passes
        n_passes += 1
        if n_passes == 4:
            signal.raise_signal(signal.SIGINT)

    handle = hf_model.transformer.h[0].register_forward_pre_hook(interrupt_the_fourth)
    try:
        with pytest.raises(KeyboardInterrupt):
            indexed(tmp_path / "i", hf_model, sae)
        assert n_passes == 4
        indexed(tmp_path / "i", hf_model, sae)
    finally:
        handle.remove()
    # The other two of six batches, and the one that finds the final norm.
    assert n_passes == 4 + 2 + 1
    assert contents(tmp_path / "i") == contents(index.folder)


def test_an_index_that_is_there_is_not_made_again(hf_model, sae, tmp_path):
    indexed(tmp_path / "i", hf_model, sae)
    before = contents(tmp_path / "i")
    handle = hf_model.register_forward_pre_hook(lambda *_: pytest.fail("it runs"))
    indexed(tmp_path / "i", hf_model, sae)
    handle.remove()
    assert contents(tmp_path / "i") == before


def other_text():
    return texts()[:-1]


@pytest.mark.parametrize(
    ("changes", "difference"),
    [
        ({"documents": other_text()}, "text: ids is"),
        ({"sae": tiny.sae(k=K, seed=1, exclude_special_tokens=[2])}, "sae: digest is"),
        ({"model": tiny.hf_model("gemma2")}, "model: class is"),
        ({"k": 3}, "k is 6 there and 3 here"),
        ({"window": 4}, "window is 3 there and 4 here"),
        ({"positions": "all"}, "positions is 'None' there"),
    ],
)
def test_other_settings_are_an_error_that_lists_them(
    index, hf_model, sae, changes, difference
):
    arguments = {"model": hf_model, "sae": sae, **changes}
    before = contents(index.folder)
    with pytest.raises(sle.InvalidArgument, match=difference):
        indexed(index.folder, **arguments)
    assert contents(index.folder) == before


def test_an_iterator_is_told_from_another_by_its_first_tokens(hf_model, sae, tmp_path):
    whole = indexed(tmp_path / "list", hf_model, sae)
    made = indexed(tmp_path / "i", hf_model, sae, iter(texts()))
    assert made.n_tokens == whole.n_tokens
    # It may be read once, and is, from its first text.
    assert_frame_equal(made.table(), whole.table())
    indexed(tmp_path / "i", hf_model, sae, iter(texts()))
    with pytest.raises(sle.InvalidArgument, match="text: first is"):
        indexed(tmp_path / "i", hf_model, sae, iter(texts()[1:]))


def test_memory_does_not_grow_with_the_text(hf_model, sae, tmp_path):
    folders = []
    for n_times in (1, 4):
        folder = tmp_path / str(n_times)
        indexed(folder, hf_model, sae, documents=texts() * n_times)
        folders.append(folder)
    once, often = (load_file(folder / "features.safetensors") for folder in folders)
    shapes = {name: list(tensor.shape) for name, tensor in once.items()}
    assert {name: list(tensor.shape) for name, tensor in often.items()} == shapes
    assert int(often["levels"].sum()) == 4 * int(once["levels"].sum())


def test_ends_with_the_batch_that_reaches_n_tokens(hf_model, sae, tmp_path):
    index = indexed(tmp_path / "i", hf_model, sae, n_tokens=20)
    lengths = [len(row) - 1 for row in texts()]
    ends = [sum(lengths[: 4 * n]) for n in range(1, 7)]
    assert index.n_tokens == next(end for end in ends if end >= 20)


def test_a_text_of_special_tokens_is_an_error(hf_model, sae, tmp_path):
    with pytest.raises(sle.InvalidArgument, match="there is nothing to index"):
        indexed(tmp_path / "i", hf_model, sae, documents=[[2], [2]])


def test_an_empty_text_is_not_taken_for_a_folder(sae, tmp_path):
    model = tiny.hosted("lens", "gpt2")
    with pytest.raises(sle.InvalidArgument, match="nothing to index|at least one"):
        indexed(tmp_path / "i", model, sae, documents="")


def test_nan_is_an_error_that_names_the_site(sae, tmp_path):
    model = tiny.hf_model("gpt2")
    with torch.no_grad():
        model.transformer.h[1].mlp.c_proj.bias[0] = float("nan")
    with pytest.raises(sle.NonFinite, match="numbers at blocks.1.hook_resid_post"):
        indexed(tmp_path / "i", model, sae)


def test_a_decoder_with_nan_is_an_error(hf_model, tmp_path):
    sae = tiny.sae(k=K)
    with torch.no_grad():
        sae.W_dec[3] = float("nan")
    with pytest.raises(sle.NonFinite, match="the decoder of the SAE holds NaN"):
        indexed(tmp_path / "i", hf_model, sae)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", ["jumprelu", "relu"])
def test_saes_without_a_k_are_indexed_with_every_active_feature(
    kind, hf_model, tmp_path
):
    sae = tiny.sae_of_kind(kind, hook_name=SITE)
    index = indexed(tmp_path / "i", hf_model, sae, positions="all")
    rows = texts()
    dense = []
    for row in rows:
        with torch.no_grad():
            states = hf_model(torch.tensor([row]), output_hidden_states=True)
            dense.append(sae.encode(states.hidden_states[2][0]).dense())
    n_active = (torch.cat(dense) > 0).sum(0)
    assert [index.page(f).n_active for f in range(48)] == n_active.tolist()
    busiest = int(n_active.argmax())
    assert index.page(busiest).at_k[-1] == (48, 1.0)


def test_hosts_agree(index, sae, tmp_path):
    model = tiny.hosted("lens", "gpt2")
    other = indexed(tmp_path / "i", model, sae, tokenizer=None)
    for feature in (some := index.strongest(10)):
        page = other.page(feature)
        expected = index.page(feature)
        assert [each.tokens for each in page.contexts] == [
            each.tokens for each in expected.contexts
        ]
        assert [token for token, _ in page.promoted] == [
            token for token, _ in expected.promoted
        ]
    assert len(some) == 10


def test_features_of_a_text_are_those_of_a_run(index, hf_model, sae):
    table = index.of([[2, 7, 8], [2, 9, 10, 11]])
    assert list(table.columns) == [
        "row",
        "position",
        "token",
        "feature",
        "rank",
        "activation",
        "label",
    ]
    run = sle.Run.capture(hf_model, [[2, 7, 8], [2, 9, 10, 11]], sae)
    code = run.codes[SITE]
    assert len(table) == int((code.values > 0).sum())
    for each in table.itertuples():
        place = (each.row, each.position, each.rank)
        assert int(code.indices[place]) == each.feature
        assert float(code.values[place]) == pytest.approx(each.activation)
    assert "w3" in table.token.tolist()


def test_rounded_activations_are_shown_rounded(index):
    rounded = index.of([[2, 7, 8, 9]]).activation.round(1)
    assert rounded.tolist() == [round(value, 1) for value in rounded.tolist()]
    largest = index.table().largest.round(1)
    assert largest.tolist() == [round(value, 1) for value in largest.tolist()]


def test_search_finds_what_is_active_on_one_text_and_not_on_the_other(index):
    on = [[2, 7, 8, 30, 31]]
    off = [[2, 9, 10, 11]]
    active_on = index.of(on)
    active_off = set(index.of(off).feature)
    found = index.search(on=on, off=off)
    expected = set(active_on.feature) - active_off
    assert expected
    assert expected < set(active_on.feature)
    assert set(found.feature) == expected
    assert found.feature.is_unique
    assert found.activation.is_monotonic_decreasing
    largest = active_on.groupby("feature").activation.max()
    assert found.activation.tolist() == [largest[f] for f in found.feature]

    first = index.search(on=on, on_positions=[1])
    assert len(first)
    assert set(first.position) == {1}
    assert set(first.feature) == set(active_on[active_on.position == 1].feature)
    assert not len(index.search(on=on, on_positions=[1], off=on, off_positions=[1]))
    assert set(index.search(on=on, off=None).feature) == set(active_on.feature)


def test_positions_to_leave_out_need_the_text_that_they_are_of(index):
    with pytest.raises(sle.InvalidArgument, match="give off= too"):
        index.search(on=[[2, 7, 8]], off_positions=[1])


def test_search_counts_the_rows_in_which_a_feature_is_active(index):
    on = [[2, 7, 8, 30, 31], [2, 7, 9, 12, 5], [2, 20, 8, 14, 7]]
    active = index.of(on)
    rows = active.groupby("feature").row.agg(set)
    found = index.search(on=on, off=[[2, 9, 10, 11]])
    assert found.n_rows.tolist() == [len(rows[feature]) for feature in found.feature]
    assert found.n_rows.nunique() > 1


def test_an_index_without_its_model_says_what_search_needs(index, hf_model, sae):
    alone = sle.features.open(index.folder)
    assert alone.page(3) == index.page(3)
    with pytest.raises(sle.InvalidArgument, match="needs the model and the SAE"):
        alone.search(on="w1")
    with pytest.raises(sle.InvalidArgument, match="labels name feature 48, .* 0 to 47"):
        alone.labelled({48: "of another SAE"})
    with pytest.raises(sle.InvalidArgument, match="of another SAE: digest is"):
        sle.features.open(index.folder, hf_model, tiny.sae(k=K, seed=5))
    with pytest.raises(sle.InvalidArgument, match="give both"):
        sle.features.open(index.folder, hf_model)
    assert len(sle.features.open(index.folder, hf_model, sae).of([[2, 7]]))


def test_pages_and_dashboards_show_no_path_of_this_machine(hf_model, sae, tmp_path):
    folder = tmp_path / "i"
    index = indexed(folder, hf_model, sae, model_name="/home/me/models/mine")
    home = index.dashboard(tmp_path / "pages", n=2)
    for page in home.parent.glob("*.html"):
        text = page.read_text(encoding="utf-8")
        assert "/home/me" not in text
        assert "mine" in text


def test_k_exceeds_that_of_the_training_with_extrapolate(hf_model, sae, tmp_path):
    with pytest.raises(sle.InvalidK, match="or pass extrapolate=True to go on"):
        indexed(tmp_path / "i", hf_model, sae, k=K + 3)
    index = indexed(tmp_path / "i", hf_model, sae, k=K + 3, extrapolate=True)
    n_active = sum(index.page(feature).n_active for feature in range(48))
    assert K * N_TOKENS < n_active <= (K + 3) * N_TOKENS


def test_a_dashboard_is_of_named_features_or_of_the_strongest(index, tmp_path):
    with pytest.raises(sle.InvalidArgument, match="n=3 is how many of the strongest"):
        index.dashboard(tmp_path / "pages", [1], n=3)
    assert not (tmp_path / "pages").exists()


def test_nearest_features_have_the_largest_cosines(index, sae):
    rows = sae.W_dec.detach().double()
    rows = rows / rows.norm(dim=1, keepdim=True)
    for feature in (0, 17, 47):
        cosines = rows @ rows[feature]
        cosines[feature] = -2
        expected = cosines.argsort(descending=True)[:8].tolist()
        nearest = index.page(feature).nearest
        assert [each.feature for each in nearest] == expected
        assert nearest[0].cosine == pytest.approx(float(cosines.max()), abs=1e-5)


def test_a_damaged_index_is_an_error(hf_model, sae, tmp_path):
    folder = tmp_path / "i"
    indexed(folder, hf_model, sae)
    path = folder / "features.safetensors"
    damaged = bytearray(path.read_bytes())
    damaged[-1] ^= 1
    path.write_bytes(damaged)
    with pytest.raises(sle.FormatError, match="sha256 differs"):
        sle.features.open(folder)
    path.unlink()
    with pytest.raises(sle.FormatError, match="cannot be read .* make the index again"):
        sle.features.open(folder)
    with pytest.raises(sle.FormatError, match="is a file; give the folder of an ind"):
        sle.features.open(folder / "index.json")
    (folder / "index.json").unlink()
    with pytest.raises(sle.FormatError, match=r"holds no index\.json"):
        sle.features.open(folder)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"contexts": 0}, "contexts must be a positive integer; got 0"),
        ({"sample": 0}, "sample must be a positive integer"),
        ({"window": -1}, "window must be a non-negative integer; got -1"),
        ({"n_tokens": 0}, "n_tokens must be a positive integer"),
        ({"batch_size": 1.5}, "batch_size must be a positive integer"),
        ({"k": 7}, "k=7 is above k=6"),
    ],
)
def test_invalid_options_are_errors(
    options, message, hf_model, sae, tmp_path, without_shape_checks
):
    with pytest.raises(ValueError, match=message):
        indexed(tmp_path / "i", hf_model, sae, **options)


def test_other_files_in_the_folder_are_an_error(hf_model, sae, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(sle.InvalidArgument, match=r"it holds notes\.txt"):
        indexed(tmp_path, hf_model, sae)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_a_folder_is_not_taken_for_a_text(hf_model, sae, tmp_path):
    with pytest.raises(sle.InvalidArgument, match=r"give its rows .* TextRows\("):
        indexed(tmp_path / "i", hf_model, sae, documents=str(tmp_path))


def test_several_saes_are_an_error(hf_model, sae, tmp_path):
    saes = {SITE: sae, "blocks.0.hook_resid_post": sae}
    with pytest.raises(sle.InvalidArgument, match="an index is of one SAE; got 2"):
        indexed(tmp_path / "i", hf_model, saes)


def test_rejects_features_that_the_sae_does_not_have(index):
    with pytest.raises(sle.InvalidArgument, match="from 0 to 47 in this index; got 48"):
        index.pages([48])
    with pytest.raises(sle.InvalidArgument, match="feature must be .* 0 to 47; got -1"):
        index.page(-1)


def test_positions_without_a_token_are_an_error(index):
    with pytest.raises(sle.InvalidArgument, match="no token of this text is encoded"):
        index.search(on=tiny.tokens(1), on_positions=[40])


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"labels": 5}, "labels must be texts by feature number"),
        ({"tokenizer": 5}, "tokenizer must be .* of transformers.* of type int"),
        ({"folder": None}, "folder must be a path; got None"),
        ({"model_name": 5}, "model_name must be a string; got 5"),
    ],
)
def test_options_are_checked_before_the_text_is_read(
    option, message, hf_model, sae, tmp_path, without_shape_checks
):
    with pytest.raises(sle.InvalidArgument, match=message):
        indexed(**{"folder": tmp_path / "i", "model": hf_model, "sae": sae, **option})
    assert not (tmp_path / "i").exists()
