"""Every number of a sweep is the number that whole runs give."""

import math

import pandas
import pytest
import tiny
import torch
from torch.nn.functional import cross_entropy, kl_div

import sae_lens_ext as sle
from sae_lens_ext.interventions.sweep import swept_model, table

SITE = "blocks.1.hook_resid_post"
COLUMNS = ["k", "l0", "fvu", "ce", "ce_recovered", "ce_recovered_zero", "kl"]


def _logits(model, saes, tokens, mask, replace):
    """Logits of a whole run in which ``replace(name, x)`` is spliced at every site."""

    def hook(name):
        return lambda x, hook: torch.where(mask[..., None], replace(name, x), x)

    hooks = [(name, hook(name)) for name in saes]
    return model.run_with_hooks(tokens, fwd_hooks=hooks)[:, :-1].double()


def _table_by_hand(model, saes, tokens, ks, mask, scored=slice(None)):
    """The rows and the ends of the table, without any of the sweep's shortcuts."""
    targets = tokens[:, 1:][:, scored]
    counts = ~torch.isin(targets, torch.tensor([0, 1, 2, 3]))
    _, cache = model.run_with_cache(tokens, names_filter=list(saes))

    def logits(replace):
        return _logits(model, saes, tokens, mask, replace)[:, scored]

    def ce(logits):
        return cross_entropy(logits[counts], targets[counts]).item()

    bare = logits(lambda name, x: x)
    ends = {
        "ce_bare": ce(bare),
        "ce_mean": ce(logits(lambda name, x: cache[name][mask].mean(0))),
        "ce_zero": ce(logits(lambda name, x: torch.zeros_like(x))),
    }
    rows = []
    for k in ks:
        spliced = logits(lambda name, x, k=k: saes[name](x, k))
        l0, fvu = _fidelity_by_hand(saes, cache, mask, k)
        ce_at_k = ce(spliced)
        kl = kl_div(
            spliced[counts].log_softmax(-1),
            bare[counts].log_softmax(-1),
            log_target=True,
            reduction="batchmean",
        ).item()
        rows.append(
            {
                "k": k,
                "l0": l0,
                "fvu": fvu,
                "ce": ce_at_k,
                "ce_recovered": _recovered(ends, "ce_mean", ce_at_k),
                "ce_recovered_zero": _recovered(ends, "ce_zero", ce_at_k),
                "kl": kl,
            }
        )
    return rows, ends


def _fidelity_by_hand(saes, cache, mask, k):
    """L0 and FVU, as means over sites."""
    l0s = []
    fvus = []
    for name, sae in saes.items():
        x = cache[name][mask]
        l0 = (sae.encode(x, k).values > 0).sum(-1).double().mean()
        residual = x.double() - sae(x, k)
        centered = x.double() - x.double().mean(0)
        l0s.append(l0.item())
        fvus.append((residual.square().sum() / centered.square().sum()).item())
    return sum(l0s) / len(l0s), sum(fvus) / len(fvus)


def _recovered(ends, end, ce):
    return (ends[end] - ce) / (ends[end] - ends["ce_bare"])


def _assert_table(frame, rows, ends):
    assert list(frame.columns) == COLUMNS
    for row, expected in zip(frame.to_dict(orient="records"), rows, strict=True):
        for name in COLUMNS:
            # A share errs by the rounding of its ends over their distance, which an
            # untrained model can make small.
            end = {"ce_recovered": "ce_mean", "ce_recovered_zero": "ce_zero"}.get(name)
            rounding = 0.0
            if end:
                distance = abs(ends[end] - ends["ce_bare"])
                rounding = 2.0**-23 * ends["ce_bare"] / distance
            assert row[name] == pytest.approx(
                expected[name], rel=2e-4 + rounding, abs=2e-5
            ), f"{name} at k={expected['k']}"
    for name, value in ends.items():
        assert frame.attrs[name] == pytest.approx(value, rel=1e-5)


@pytest.fixture
def tokens():
    """Five rows, with a special token in the middle of the third.

    That token is not spliced, and not scored as a target.
    """
    tokens = tiny.tokens(rows=5, length=12)
    tokens[2, 7] = 1
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
def test_every_number_is_that_of_whole_runs(model, tokens, name):
    sae = tiny.sae(exclude_special_tokens=True, hook_name=name)
    mask = ~torch.isin(tokens, torch.tensor([0, 1, 2, 3]))
    rows, ends = _table_by_hand(model, {name: sae}, tokens, [1, 4, 8], mask)
    frame = sle.sweep_k(model, tokens, sae, ks=[1, 4, 8], progress=False)
    _assert_table(frame, rows, ends)


@pytest.mark.parametrize("batch_size", [1, 2, 5, 100])
def test_the_batch_size_changes_nothing(model, tokens, sae, batch_size):
    mask = torch.ones_like(tokens, dtype=torch.bool)
    rows, ends = _table_by_hand(model, {SITE: sae}, tokens, [2, 3], mask)
    frame = sle.sweep_k(
        model, tokens, sae, ks=[2, 3], batch_size=batch_size, progress=False
    )
    _assert_table(frame, rows, ends)


def test_several_sites_are_spliced_at_once(model, tokens):
    names = (
        "blocks.2.hook_resid_pre",
        "blocks.1.hook_attn_out",
        "blocks.1.hook_mlp_out",
    )
    saes = {name: tiny.sae(seed=i, hook_name=name) for i, name in enumerate(names)}
    mask = torch.ones_like(tokens, dtype=torch.bool)
    rows, ends = _table_by_hand(model, saes, tokens, [1, 8], mask)
    frame = sle.sweep_k(model, tokens, saes, ks=[1, 8], progress=False)
    _assert_table(frame, rows, ends)
    assert frame.attrs["sites"] == list(names)
    assert set(frame.attrs["fvu_by_site"][8]) == set(names)


def test_spliced_positions_and_scored_positions_are_independent(model, tokens, sae):
    mask = torch.arange(12) > 5
    every_third = slice(None, None, 3)
    rows, ends = _table_by_hand(
        model, {SITE: sae}, tokens, [4], mask.expand(5, 12), scored=every_third
    )
    options = {"positions": mask, "progress": False}
    frame = sle.sweep_k(model, tokens, sae, ks=[4], score=every_third, **options)
    _assert_table(frame, rows, ends)

    listed = torch.tensor([0, 3, 6, 9])
    by_list = sle.sweep_k(model, tokens, sae, ks=[4], score=listed, **options)
    assert by_list.equals(frame)
    by_mask = sle.sweep_k(
        model,
        tokens.tolist(),
        sae,
        ks=iter([4, 4]),
        score=torch.arange(12) % 3 == 0,
        **options,
    )
    assert by_mask.equals(frame)
    assert frame.attrs["n_spliced"] == 30
    assert frame.attrs["n_scored"] == 19, (
        "four positions in five rows, less the special token that one of them predicts"
    )


@pytest.mark.parametrize(("k", "expected"), [(8, [1, 2, 4, 8]), (6, [1, 2, 4, 6])])
def test_by_default_k_doubles_up_to_the_trained_maximum(model, tokens, k, expected):
    frame = sle.sweep_k(model, tokens, tiny.sae(k=k), progress=False)
    assert frame["k"].tolist() == expected


@pytest.mark.parametrize(
    ("n_rows", "largest_batch"), [(1, 3), (7, 6), (12, 12), (1000, 15)]
)
def test_several_worlds_run_at_once_as_far_as_memory_allows(
    model, tokens, sae, monkeypatch, n_rows, largest_batch
):
    options = {"ks": [1, 4, 8], "batch_size": 3, "progress": False}
    expected = sle.sweep_k(model, tokens, sae, **options)
    sizes = []
    next_token_logits = swept_model.next_token_logits

    def recorded(host, rows, scored):
        sizes.append(len(rows))
        return next_token_logits(host, rows, scored)

    monkeypatch.setattr(swept_model, "next_token_logits", recorded)
    monkeypatch.setattr(table, "rows_that_fit", lambda *_: n_rows)
    frame = sle.sweep_k(model, tokens, sae, **options)
    assert max(sizes) == largest_batch
    for column in COLUMNS:
        assert frame[column].tolist() == pytest.approx(
            expected[column].tolist(), rel=1e-4, abs=1e-6
        ), column


def test_leaves_the_model_as_it_was(gemma2, tokens, sae):
    hooks = tiny.hooks_of(gemma2)
    logits = gemma2(tokens)
    sle.sweep_k(gemma2, tokens, sae, progress=False)
    assert tiny.hooks_of(gemma2) == hooks
    assert torch.equal(gemma2(tokens), logits)


def test_no_share_is_recovered_of_a_site_that_is_worth_nothing(gemma2, tokens, sae):
    frame = sle.sweep_k(
        gemma2, tokens, sae, ks=[4], positions=slice(-1, None), progress=False
    )
    assert math.isnan(frame["ce_recovered"][0])
    assert frame["kl"][0] == pytest.approx(0, abs=1e-7)


def test_text_is_tokenised_by_the_model(gemma2, sae):
    frame = sle.sweep_k(gemma2, "w1 w2 w3 w4 w5 w6", sae, ks=[8], progress=False)
    assert frame.attrs["n_scored"] == 6
    assert math.isfinite(frame["ce"][0])


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"ks": [9]}, sle.InvalidK, "k=9 is above k=8"),
        ({"ks": []}, sle.InvalidK, "a sweep needs at least one k"),
        ({"ks": 5}, sle.InvalidK, "ks must be a list of values of k; got 5"),
        (
            {"tokens": torch.zeros(3, 4)},
            sle.InvalidArgument,
            r"tokens must be ids \[batch, pos\], .*torch.float32 \[3, 4\]",
        ),
        (
            {"tokens": torch.full((3, 1), 5)},
            sle.InvalidArgument,
            "at least two positions",
        ),
        (
            {"tokens": torch.full((2, 5), 2)},
            sle.InvalidArgument,
            "every next token at the scored positions is a special token",
        ),
        (
            {"tokens": None},
            sle.InvalidArgument,
            "tokens must be ids .* or text; got an object of type NoneType",
        ),
        ({"tokens": []}, sle.InvalidArgument, "at least one row"),
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
            {"score": [0, 0, 1]},
            sle.InvalidArgument,
            "score must name each position once",
        ),
        (
            {"score": "a"},
            sle.InvalidArgument,
            "score must be a slice, positions, or a boolean mask",
        ),
        (
            {"batch_size": 0},
            sle.InvalidArgument,
            "batch_size must be a positive integer; got 0",
        ),
        (
            {"positions": slice(None, None, -1)},
            sle.InvalidArgument,
            "must have integer bounds and a positive step",
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
def test_rejects_invalid_arguments(gemma2, tokens, sae, arguments, error, message):
    defaults = {"model": gemma2, "tokens": tokens, "sae": sae, "progress": False}
    with pytest.raises(error, match=message):
        sle.sweep_k(**{**defaults, **arguments})


def test_rejects_two_saes_for_one_place(gemma2, tokens):
    saes = {SITE: tiny.sae(), "blocks.1.hook_out": tiny.sae(seed=1)}
    with pytest.raises(
        sle.InvalidArgument, match="two of these names are one place in the model"
    ):
        sle.sweep_k(gemma2, tokens, saes, progress=False)


def test_rejects_token_ids_outside_of_the_vocabulary(gemma2, sae):
    message = "token ids must be from 0 to 95 for this model; they run from 4 to 96"
    with pytest.raises(sle.InvalidArgument, match=message):
        sle.sweep_k(gemma2, torch.tensor([[4, 5, 96]]), sae, progress=False)


def test_a_table_that_lost_its_ends_is_not_plotted(gemma2, tokens, sae, tmp_path):
    from sae_lens_ext.viz import plot_frontier

    frame = sle.sweep_k(gemma2, tokens, sae, progress=False)
    frame.to_csv(tmp_path / "sweep.csv", index=False)
    message = r"has no attrs\['ce_bare'\]: a table that was read from a CSV file"
    with pytest.raises(sle.InvalidArgument, match=message):
        plot_frontier(pandas.read_csv(tmp_path / "sweep.csv"))


def test_rejects_logits_that_are_not_finite(tokens, sae):
    model = tiny.hf_model("gemma2")
    model.model.layers[-1].mlp.down_proj.weight.data.fill_(float("nan"))
    with pytest.raises(sle.NonFinite, match="cross-entropy of the bare model is nan"):
        sle.sweep_k(model, tokens, sae, progress=False)


def test_rejects_an_sae_whose_decoder_is_not_finite(gemma2, tokens):
    sae = tiny.sae()
    sae.W_dec.data[3] = float("nan")
    with pytest.raises(sle.NonFinite, match="NaN"):
        sle.sweep_k(gemma2, tokens, sae, ks=[48], extrapolate=True, progress=False)


@pytest.mark.parametrize("host", ["torch", "lens"])
@pytest.mark.parametrize("outer", ["blocks.0.hook_resid_post", SITE])
def test_a_sweep_in_an_active_splice_leaves_its_special_tokens_alone(host, outer):
    model = tiny.hosted(host)
    tokens = [[2, 5, 6, 7, 8, 9], [2, 9, 8]]
    around = tiny.sae(exclude_special_tokens=True, seed=1)
    inner = tiny.sae(exclude_special_tokens=True)

    with sle.splice(model, {outer: around}, k=4), torch.no_grad():
        table = sle.sweep_k(
            model, tokens, {SITE: inner}, ks=[2], batch_size=1, progress=False
        )
        first = sle.sweep_k(
            model, tokens[:1], {SITE: inner}, ks=[2], score=[0], progress=False
        )
        ids = torch.tensor(tokens[:1])
        with sle.splice(model, {SITE: inner}, k=2):
            output = model(ids)

    assert table["ce"].notna().all()
    logits = getattr(output, "logits", output)
    expected = torch.nn.functional.cross_entropy(logits[0, :1], ids[0, 1:2])
    assert first["ce"].item() == pytest.approx(expected.item(), abs=1e-4)
