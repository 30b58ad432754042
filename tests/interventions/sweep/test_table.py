import math

import pandas
import pytest
import tiny
import torch
from torch.nn.functional import cross_entropy, kl_div

import sae_lens_ext as sle
from sae_lens_ext.hosts import partial as runs
from sae_lens_ext.interventions.sweep import table as sweep

SITE = "blocks.1.hook_resid_post"
COLUMNS = ["k", "l0", "fvu", "ce", "ce_recovered", "ce_recovered_zero", "kl"]


def _by_hand(model, saes, tokens, ks, mask, scored=slice(None)):
    """Every number of the table from whole runs, without any of the sweep's shortcuts."""
    targets = tokens[:, 1:][:, scored]
    counts = ~torch.isin(targets, torch.tensor([0, 1, 2, 3]))

    def run(replace):
        hooks = [
            (
                name,
                lambda x, hook, name=name: torch.where(
                    mask[..., None], replace(name, x), x
                ),
            )
            for name in saes
        ]
        return model.run_with_hooks(tokens, fwd_hooks=hooks)[:, :-1][:, scored].double()

    def ce(logits):
        return cross_entropy(logits[counts], targets[counts]).item()

    _, cache = model.run_with_cache(tokens, names_filter=list(saes))
    bare = run(lambda name, x: x)
    ends = {
        "ce_bare": ce(bare),
        "ce_mean": ce(run(lambda name, x: cache[name][mask].mean(0))),
        "ce_zero": ce(run(lambda name, x: torch.zeros_like(x))),
    }
    rows = []
    for k in ks:
        logits = run(lambda name, x, k=k: saes[name](x, k))
        fvus, l0s = [], []
        for name, sae in saes.items():
            x = cache[name][mask].double()
            fvus.append(
                (
                    ((x - sae(cache[name][mask], k)) ** 2).sum()
                    / ((x - x.mean(0)) ** 2).sum()
                ).item()
            )
            l0s.append(
                (sae.encode(cache[name][mask], k).values > 0)
                .sum(-1)
                .double()
                .mean()
                .item()
            )
        kl = kl_div(
            logits[counts].log_softmax(-1),
            bare[counts].log_softmax(-1),
            log_target=True,
            reduction="batchmean",
        ).item()
        rows.append(
            {
                "k": k,
                "l0": sum(l0s) / len(l0s),
                "fvu": sum(fvus) / len(fvus),
                "ce": ce(logits),
                "ce_recovered": (ends["ce_mean"] - ce(logits))
                / (ends["ce_mean"] - ends["ce_bare"]),
                "ce_recovered_zero": (ends["ce_zero"] - ce(logits))
                / (ends["ce_zero"] - ends["ce_bare"]),
                "kl": kl,
            }
        )
    return rows, ends


def _assert_table(frame, rows, ends):
    assert list(frame.columns) == COLUMNS
    for found, expected in zip(frame.to_dict(orient="records"), rows, strict=True):
        for name in COLUMNS:
            # A share errs by the rounding of its ends over their distance, which an untrained model can make small.
            end = {"ce_recovered": "ce_mean", "ce_recovered_zero": "ce_zero"}.get(name)
            rounding = (
                2.0**-23 * ends["ce_bare"] / abs(ends[end] - ends["ce_bare"])
                if end
                else 0.0
            )
            assert found[name] == pytest.approx(
                expected[name], rel=2e-4 + rounding, abs=2e-5
            ), f"{name} at k={expected['k']}"
    for name, value in ends.items():
        assert frame.attrs[name] == pytest.approx(value, rel=1e-5)


@pytest.fixture
def tokens():
    tokens = tiny.tokens(rows=5, length=12)
    tokens[2, 7] = (
        1  # a special token in the middle: not spliced, and not scored as a target
    )
    return tokens


@pytest.mark.parametrize(
    "name",
    [
        "blocks.1.hook_resid_post",
        "blocks.1.hook_resid_pre",
        "blocks.0.hook_resid_pre",
        "blocks.2.hook_mlp_out",
        "blocks.0.hook_attn_out",
    ],
)
def test_every_number_is_what_whole_runs_give(model, tokens, name):
    sae = tiny.sae(exclude_special_tokens=True, hook_name=name)
    mask = ~torch.isin(tokens, torch.tensor([0, 1, 2, 3]))
    rows, ends = _by_hand(model, {name: sae}, tokens, [1, 4, 8], mask)
    _assert_table(
        sle.sweep_k(model, tokens, sae, ks=[1, 4, 8], progress=False), rows, ends
    )


@pytest.mark.parametrize("batch_size", [1, 2, 5, 100])
def test_the_batch_size_changes_nothing(model, tokens, batch_size):
    sae = tiny.sae()
    mask = torch.ones_like(tokens, dtype=torch.bool)
    rows, ends = _by_hand(model, {SITE: sae}, tokens, [2, 3], mask)
    _assert_table(
        sle.sweep_k(
            model, tokens, sae, ks=[2, 3], batch_size=batch_size, progress=False
        ),
        rows,
        ends,
    )


def test_several_sites_at_once(model, tokens):
    names = (
        "blocks.2.hook_resid_pre",
        "blocks.1.hook_attn_out",
        "blocks.1.hook_mlp_out",
    )
    saes = {name: tiny.sae(seed=i, hook_name=name) for i, name in enumerate(names)}
    rows, ends = _by_hand(
        model, saes, tokens, [1, 8], torch.ones_like(tokens, dtype=torch.bool)
    )
    frame = sle.sweep_k(model, tokens, saes, ks=[1, 8], progress=False)
    _assert_table(frame, rows, ends)
    assert frame.attrs["sites"] == list(names)
    assert set(frame.attrs["fvu_by_site"][8]) == set(names)


def test_positions_and_scored_positions_are_two_things(model, tokens):
    sae, chosen = tiny.sae(), torch.arange(12) > 5
    rows, ends = _by_hand(
        model,
        {SITE: sae},
        tokens,
        [4],
        chosen.expand(5, 12),
        scored=slice(None, None, 3),
    )
    frame = sle.sweep_k(
        model,
        tokens,
        sae,
        ks=[4],
        positions=chosen,
        score=slice(None, None, 3),
        progress=False,
    )
    _assert_table(frame, rows, ends)
    same = sle.sweep_k(
        model,
        tokens,
        sae,
        ks=[4],
        positions=chosen,
        score=torch.tensor([0, 3, 6, 9]),
        progress=False,
    )
    assert same.equals(frame)
    masked = sle.sweep_k(
        model,
        tokens.tolist(),
        sae,
        ks=iter([4, 4]),
        positions=chosen,
        score=torch.arange(12) % 3 == 0,
        progress=False,
    )
    assert masked.equals(frame)
    assert frame.attrs["n_spliced"] == 30
    assert frame.attrs["n_scored"] == 19, (
        "four positions in five rows, less the special token that one of them predicts"
    )


def test_by_default_k_doubles_up_to_the_trained_maximum(model, tokens):
    assert sle.sweep_k(model, tokens, tiny.sae(k=8), progress=False)["k"].tolist() == [
        1,
        2,
        4,
        8,
    ]
    assert sle.sweep_k(model, tokens, tiny.sae(k=6), progress=False)["k"].tolist() == [
        1,
        2,
        4,
        6,
    ]


def test_blocks_below_the_site_run_once(gemma2, tokens):
    ran = []
    handles = [
        block.mlp.register_forward_hook(lambda *_, i=i: ran.append(i))
        for i, block in enumerate(gemma2.blocks)
    ]
    sle.sweep_k(gemma2, tokens, tiny.sae(), ks=[1, 2, 4], batch_size=5, progress=False)
    for handle in handles:
        handle.remove()
    # Once for the activations, once for the check that skipping is exact. Blocks 2 and 3 for that check twice, for the bare model,
    # and for the five conditions at once.
    assert [ran.count(i) for i in range(4)] == [2, 2, 4, 4]


@pytest.mark.parametrize("n_rows", [1, 7, 12, 1000])
def test_values_of_k_run_at_once_as_far_as_memory_goes(
    model, tokens, monkeypatch, n_rows
):
    expected = sle.sweep_k(
        model, tokens, tiny.sae(), ks=[1, 4, 8], batch_size=3, progress=False
    )
    sizes = []
    original = sweep.next_token_logits
    monkeypatch.setattr(
        sweep,
        "next_token_logits",
        lambda host, rows, scored: (
            sizes.append(len(rows)),
            original(host, rows, scored),
        )[1],
    )
    monkeypatch.setattr(sweep, "rows_that_fit", lambda *_: n_rows)
    found = sle.sweep_k(
        model, tokens, tiny.sae(), ks=[1, 4, 8], batch_size=3, progress=False
    )
    assert max(sizes) == {1: 3, 7: 6, 12: 12, 1000: 15}[n_rows]
    for column in COLUMNS:
        assert found[column].tolist() == pytest.approx(
            expected[column].tolist(), rel=1e-4, abs=1e-6
        ), column


def test_a_model_in_which_skipping_is_not_exact_is_run_whole(
    gemma2, tokens, monkeypatch
):
    expected = sle.sweep_k(gemma2, tokens, tiny.sae(), ks=[1, 4], progress=False)
    original = runs._forward_replaced
    monkeypatch.setattr(
        runs,
        "_forward_replaced",
        lambda block, answer: original(block, None if answer is None else answer + 1),
    )
    frame = sle.sweep_k(gemma2, tokens, tiny.sae(), ks=[1, 4], progress=False)
    assert frame["ce"].tolist() == pytest.approx(expected["ce"].tolist(), rel=1e-6)


def test_one_encode_serves_every_k(gemma2, tokens, monkeypatch):
    sae = tiny.sae()
    calls = []
    original = sae.encode
    monkeypatch.setattr(
        sae, "encode", lambda *a, **k: (calls.append(a), original(*a, **k))[1]
    )
    sle.sweep_k(gemma2, tokens, sae, ks=[1, 2, 4, 8], progress=False)
    assert len(calls) == 1


def test_outliers_are_counted_and_reported_apart(gemma2, tokens):
    sae = tiny.sae(hook_name="blocks.0.hook_resid_pre")
    handle = gemma2.embed.register_forward_hook(
        lambda module, args, out: out * torch.where(args[0] == 7, 50.0, 1.0)[..., None]
    )
    tokens = torch.where(tokens == 7, 8, tokens)
    tokens[0, 3] = tokens[4, 9] = 7
    frame = sle.sweep_k(gemma2, tokens, sae, ks=[8], progress=False)
    handle.remove()
    assert frame.attrs["n_outliers"] == 2
    assert frame.attrs["fvu_without_outliers"][8] != pytest.approx(
        frame["fvu"][0], rel=0.1
    )


def test_the_model_is_as_before(gemma2, tokens):
    before, logits = tiny.hooks_of(gemma2), gemma2(tokens)
    sle.sweep_k(gemma2, tokens, tiny.sae(), progress=False)
    assert tiny.hooks_of(gemma2) == before
    assert torch.equal(gemma2(tokens), logits)


def test_where_the_site_is_worth_nothing_no_share_of_it_is_given(gemma2, tokens):
    frame = sle.sweep_k(
        gemma2, tokens, tiny.sae(), ks=[4], positions=slice(-1, None), progress=False
    )
    assert math.isnan(frame["ce_recovered"][0])
    assert frame["kl"][0] == pytest.approx(0, abs=1e-7)


def test_text_is_tokenised_by_the_model(gemma2):
    frame = sle.sweep_k(gemma2, "w1 w2 w3 w4 w5 w6", tiny.sae(), ks=[8], progress=False)
    assert frame.attrs["n_scored"] == 6
    assert math.isfinite(frame["ce"][0])


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"ks": [9]}, sle.InvalidK, "k=9 is above k=8"),
        ({"ks": []}, sle.InvalidK, "a sweep needs at least one k"),
        (
            {"tokens": torch.zeros(3, 4)},
            sle.InvalidArgument,
            r"tokens must be ids \[batch, pos\], .*torch.float32 \[3, 4\]",
        ),
        (
            {"tokens": torch.zeros(3, 1, dtype=torch.int64)},
            sle.InvalidArgument,
            "at least two positions",
        ),
        (
            {"tokens": torch.full((2, 5), 2)},
            sle.InvalidArgument,
            "every next token at the scored positions is a special token",
        ),
        (
            {"score": slice(40, None)},
            sle.InvalidArgument,
            "chooses none of the 11 positions",
        ),
        (
            {"score": torch.tensor([11])},
            sle.InvalidArgument,
            "score must hold positions from 0 to 10",
        ),
        (
            {"score": [-1]},
            sle.InvalidArgument,
            "score must hold positions from 0 to 10",
        ),
        (
            {"score": torch.tensor([1.7])},
            sle.InvalidArgument,
            "score must hold positions from 0 to 10",
        ),
        (
            {"score": "a"},
            sle.InvalidArgument,
            "score must be a slice, positions, or a boolean mask",
        ),
        ({"ks": 5}, sle.InvalidK, "ks must be a list of values of k; got 5"),
        (
            {"batch_size": 0},
            sle.InvalidArgument,
            "batch_size must be a whole number of at least 1; got 0",
        ),
        (
            {"tokens": ["w1 w2 w3", "w1 w2"]},
            sle.InvalidArgument,
            r"different lengths \(4, 3 tokens\)",
        ),
        (
            {"tokens": None},
            sle.InvalidArgument,
            "tokens must be ids .* or text; got a NoneType",
        ),
        ({"tokens": []}, sle.InvalidArgument, "at least one of each"),
        (
            {"positions": slice(None, None, -1)},
            sle.InvalidArgument,
            "must have whole numbers and go forward",
        ),
        (
            {"positions": torch.zeros(12, dtype=torch.bool)},
            sle.InvalidArgument,
            "positions chooses no token",
        ),
        ({"positions": 4}, sle.InvalidArgument, "positions must be a slice"),
    ],
)
@pytest.mark.usefixtures("without_shape_checks")
def test_bad_input_is_refused_in_words(gemma2, tokens, arguments, error, message):
    with pytest.raises(error, match=message):
        sle.sweep_k(
            **{
                "model": gemma2,
                "tokens": tokens,
                "sae": tiny.sae(),
                "progress": False,
                **arguments,
            }
        )


def test_two_saes_for_one_place_are_refused(gemma2, tokens):
    with pytest.raises(
        sle.InvalidArgument, match="two of these names are one place in the model"
    ):
        sle.sweep_k(
            gemma2,
            tokens,
            {
                "blocks.1.hook_resid_post": tiny.sae(),
                "blocks.1.hook_out": tiny.sae(seed=1),
            },
            progress=False,
        )


def test_words_that_the_model_does_not_know_are_refused(gemma2):
    with pytest.raises(
        sle.InvalidArgument,
        match="token ids must be from 0 to 95 for this model; they run from 4 to 96",
    ):
        sle.sweep_k(gemma2, torch.tensor([[4, 5, 96]]), tiny.sae(), progress=False)


def test_a_table_that_lost_its_ends_is_not_plotted(gemma2, tokens, tmp_path):
    from sae_lens_ext.viz import plot_frontier

    frame = sle.sweep_k(gemma2, tokens, tiny.sae(), progress=False)
    frame.to_csv(tmp_path / "sweep.csv", index=False)
    with pytest.raises(
        sle.InvalidArgument,
        match=r"has no attrs\['ce_bare'\]: a table that was read from a CSV file",
    ):
        plot_frontier(pandas.read_csv(tmp_path / "sweep.csv"))
