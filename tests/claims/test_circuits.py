"""What circuits claim, against splices, hooks and circuits that are run by hand."""

import pytest
import tiny
import torch

import sae_lens_ext as sle

METRIC = sle.circuits.logit_difference(7, 9)
FIRST, SECOND = "blocks.1.hook_resid_post", "blocks.2.hook_resid_post"
NODE = ["site", "position", "feature"]
CLEAN = tiny.tokens(3, 6)
CORRUPTED = tiny.tokens(3, 6, seed=1)
# One circuit on all rows is a batch of the same shape as the clean run.
ALONE = {"controls": (), "batch_size": 3}


def saes():
    return [tiny.sae(k=8), tiny.sae(k=8, hook_name=SECOND, seed=1)]


def difference(logits):
    return logits[:, -1, 7] - logits[:, -1, 9]


def metrics(result, column="metric"):
    """The metric of every prompt in the one circuit that was run."""
    return torch.tensor(result.by_prompt()[column].tolist())


@pytest.fixture(scope="module")
def effects(gemma2):
    return sle.circuits.effects(gemma2, saes(), CLEAN, CORRUPTED, metric=METRIC)


@pytest.mark.parametrize("align", ["start", "end", "all"])
@pytest.mark.parametrize("ablation", ["zero", "resample"])
def test_all_nodes_are_the_model_to_the_bit(gemma2, effects, align, ablation):
    circuit = effects.select(k=5, align=align)
    result = circuit.faithfulness(
        gemma2,
        CLEAN,
        CORRUPTED,
        metric=METRIC,
        ablation=ablation,
        budgets=[len(circuit)],
        **ALONE,
    )
    table = result.by_prompt()
    assert table.metric.tolist() == table.metric_model.tolist()
    with torch.no_grad():
        expected = difference(gemma2(CLEAN))
    assert torch.allclose(metrics(result, "metric_model"), expected, atol=1e-5)

    assert result.table().faithfulness.tolist() == [1]


@pytest.mark.parametrize("align", ["start", "end", "all"])
def test_the_complement_of_all_nodes_is_empty(gemma2, effects, align):
    circuit = effects.select(k=5, align=align)
    result = circuit.faithfulness(
        gemma2,
        CLEAN,
        CORRUPTED,
        metric=METRIC,
        budgets=[len(circuit)],
        **ALONE,
    )
    # Resampled, so that no feature becomes active that is in neither run.
    table = result.by_prompt()
    assert table.metric_complement.tolist() == table.metric_empty.tolist()
    assert result.table().completeness.tolist() == [0]


@pytest.mark.parametrize("ablation", ["zero", "mean", "resample"])
def test_no_node_is_the_ablated_activation_at_every_site(gemma2, effects, ablation):
    result = effects.select(k=5, budget=1).faithfulness(
        gemma2, CLEAN, CORRUPTED, metric=METRIC, ablation=ablation, **ALONE
    )
    with torch.no_grad():
        _, cache = gemma2.run_with_cache(CORRUPTED)
        corrupted = cache[SECOND]
        values = {
            "zero": saes()[1].b_dec.expand_as(corrupted),
            "mean": corrupted.mean((0, 1)).expand_as(corrupted),
            "resample": corrupted,
        }
        # All that reaches the logits has passed the last site.
        hooks = [(SECOND, lambda x, hook: values[ablation])]
        logits = gemma2.run_with_hooks(CLEAN, fwd_hooks=hooks)
    expected = difference(logits)
    assert torch.allclose(metrics(result, "metric_empty"), expected, atol=1e-4)
    assert (metrics(result, "metric_model") - expected).abs().max() > 0.1


def edits_outside(nodes, make):
    """Edits of every feature and token that is not among the nodes of one site."""
    edits = []
    for position in range(CLEAN.shape[1]):
        inside = nodes[nodes.position.isin([position, "all"])].feature.tolist()
        outside = [feature for feature in range(48) if feature not in inside]
        edits.append(make(outside, positions=[position]))
    return edits


def spliced_metric(model, nodes, k, make, *, error_term):
    """The metric of a run whose splices are edited outside of a circuit."""
    by_name = {sae.config.hook_name: sae for sae in saes()}
    edits = {
        site: edits_outside(nodes[nodes.site == site], make(site)) for site in by_name
    }
    with (
        torch.no_grad(),
        sle.splice(model, by_name, k=k, edits=edits, error_term=error_term),
    ):
        return difference(model(CLEAN))


@pytest.mark.parametrize("align", ["start", "all"])
@pytest.mark.parametrize("errors", ["none", "all"])
def test_running_a_circuit_is_a_splice_with_all_other_features_ablated(
    gemma2, effects, align, errors
):
    circuit = effects.select(k=5, budget=30, align=align, errors=errors)
    result = circuit.faithfulness(
        gemma2, CLEAN, metric=METRIC, ablation="zero", budgets=[30], **ALONE
    )
    expected = spliced_metric(
        gemma2,
        circuit.nodes,
        5,
        lambda site: sle.Ablate,
        error_term=errors == "all",
    )
    assert torch.allclose(metrics(result), expected, atol=1e-4)
    assert (metrics(result, "metric_empty") - expected).abs().max() > 0.01


def test_resampling_is_patching_the_other_features_from_the_corrupted_run(
    gemma2, effects
):
    circuit = effects.select(k=5, budget=30, errors="all")
    result = circuit.faithfulness(
        gemma2, CLEAN, CORRUPTED, metric=METRIC, budgets=[30], **ALONE
    )
    source = sle.Run.capture(gemma2, CORRUPTED, saes(), k=5)

    def patch(site):
        def make(features, positions):
            return sle.Patch(features, source=source, positions=positions)

        return make

    expected = spliced_metric(gemma2, circuit.nodes, 5, patch, error_term=True)
    assert torch.allclose(metrics(result), expected, atol=1e-4)


def test_completeness_is_the_faithfulness_of_the_complement(gemma2, effects):
    circuit = effects.select(k=5, budget=30, errors="none")
    result = circuit.faithfulness(
        gemma2, CLEAN, metric=METRIC, ablation="zero", budgets=[30], **ALONE
    )

    # What is inside of the circuit is ablated, and the error kept.
    edits = {}
    for site in (FIRST, SECOND):
        nodes = circuit.nodes[circuit.nodes.site == site]
        edits[site] = [
            sle.Ablate(node.feature, positions=[node.position])
            for node in nodes.itertuples()
        ]
    with torch.no_grad(), sle.splice(gemma2, saes(), 5, edits=edits, error_term=True):
        expected = difference(gemma2(CLEAN))
    assert torch.allclose(metrics(result, "metric_complement"), expected, atol=1e-4)

    empty = metrics(result, "metric_empty").mean()
    full = metrics(result, "metric_model").mean()
    share = (expected.mean() - empty) / (full - empty)
    assert result.table().completeness.item() == pytest.approx(share.item(), abs=1e-3)


def test_a_curve_is_its_circuits_one_at_a_time(gemma2, effects):
    circuit = effects.select(k=5, budget=12)
    arguments = (gemma2, CLEAN, CORRUPTED)
    # Batches end in the middle of a circuit.
    curve = circuit.faithfulness(
        *arguments, metric=METRIC, controls=(), batch_size=4
    ).table()
    assert curve.budget.tolist() == [1, 2, 4, 8, 12]
    columns = ["faithfulness", "low", "high", "completeness", "metric"]
    for number, budget in enumerate(curve.budget):
        alone = circuit.first(budget).faithfulness(
            *arguments, metric=METRIC, budgets=[budget], **ALONE
        )
        expected = alone.table()[columns].iloc[0].tolist()
        assert curve[columns].iloc[number].tolist() == pytest.approx(expected, abs=1e-3)


def test_a_list_of_pairs_is_clean_and_corrupted_rows(gemma2):
    clean = ["w1 w2 w3", "w4 w5 w6", "w7 w8 w9"]
    corrupted = ["w9 w2 w3", "w4 w1 w6", "w7 w8 w2"]
    pairs = list(zip(clean, corrupted, strict=True))
    ids = [
        (gemma2.to_tokens(first)[0].tolist(), gemma2.to_tokens(second)[0].tolist())
        for first, second in pairs
    ]
    options = {"metric": METRIC, "k": 5, "budget": 4, "steps": 2}
    tables = []
    masks = []
    for rows in ((clean, corrupted), (pairs,), (ids,)):
        effects = sle.circuits.effects(gemma2, saes(), *rows, metric=METRIC)
        circuit = effects.select(5, budget=9)
        result = circuit.faithfulness(gemma2, *rows, metric=METRIC, controls=())
        assert result.ablation == "resample"
        tables.append(result.by_prompt())
        masks.append(sle.circuits.learn_mask(gemma2, saes(), *rows, **options).nodes)
    assert tables[0].equals(tables[1])
    assert tables[0].equals(tables[2])
    assert masks[0].equals(masks[1])
    assert masks[0].equals(masks[2])
    # Two ids are a row, and so are two texts.
    for rows in ([(1, 2), (3, 4)], ("w1 w2", "w3 w4")):
        result = effects.select(5, budget=2, align="all").faithfulness(
            gemma2, rows, metric=METRIC, controls=()
        )
        assert result.ablation == "zero"
    batches = (gemma2.to_tokens(clean), gemma2.to_tokens(corrupted))
    with pytest.raises(sle.InvalidArgument, match="pass them as two arguments, clean"):
        sle.circuits.effects(gemma2, saes(), batches, metric=METRIC)


def test_controls_are_chosen_on_the_rows_that_are_named(gemma2, effects):
    circuit = effects.select(k=5, budget=6, rows=[0, 2])

    def metrics_of(**rows):
        result = circuit.faithfulness(
            gemma2,
            CLEAN,
            CORRUPTED,
            metric=METRIC,
            budgets=[6],
            controls=("coordinates",),
            neurons=["blocks.0.mlp.hook_post"],
            other_saes=[[tiny.sae(k=8, seed=7), saes()[1]]],
            batch_size=3,
            **rows,
        )
        table = result.by_prompt()
        return table.set_index(["nodes", "row"])[["metric", "metric_complement"]]

    both = metrics_of(chosen_on=[0, 2])
    chosen = metrics_of(rows=[0, 2])
    judged = metrics_of(rows=[1], chosen_on=[0, 2])
    flattered = metrics_of(rows=[1])
    for table in (chosen, judged):
        assert (table - both.loc[table.index]).abs().to_numpy().max() < 1e-4
    for control in ("coordinates", "neurons", "other_saes[0]"):
        change = judged.loc[(control, 1)] - flattered.loc[(control, 1)]
        assert change.abs().max() > 1e-3


def test_tables_count_the_errors_of_circuits_and_controls(gemma2, effects):
    circuit = effects.select(k=5, budget=12)
    is_error = circuit.nodes.feature == -1
    assert 0 < is_error.sum() < 12
    table = circuit.faithfulness(
        gemma2, CLEAN, CORRUPTED, metric=METRIC, budgets=[3, 12], n_draws=2
    ).table()
    expected = [is_error.head(size).sum() for size in (3, 12)]
    for nodes, counts in (
        ("circuit", expected),
        ("random", expected),
        ("coordinates", [0, 0]),
    ):
        assert table[table.nodes == nodes].n_errors.tolist() == counts


def test_with_every_coordinate_the_control_is_the_model(gemma2, effects):
    d_model = 32
    d_mlp = 64
    budget = len(effects.select(k=5, align="all"))
    assert budget >= 2 * d_model
    result = effects.select(k=5, align="all").faithfulness(
        gemma2,
        CLEAN,
        CORRUPTED,
        metric=METRIC,
        budgets=[budget],
        controls=("coordinates",),
        neurons=["blocks.0.mlp.hook_post"],
        batch_size=3,
    )
    table = result.table().set_index("nodes")
    assert table.n_nodes.to_dict() == {
        "circuit": budget,
        "coordinates": 2 * d_model,
        "neurons": d_mlp,
    }
    assert table.faithfulness.tolist() == pytest.approx([1, 1, 1])
    # With corrupted values everywhere, the empty circuits at these sites are one.
    empty = table.metric_empty
    assert empty["circuit"] == pytest.approx(empty["coordinates"], abs=1e-4)


def test_circuits_of_smaller_k_are_the_nodes_of_smaller_rank(gemma2):
    effects = sle.circuits.effects(gemma2, saes(), CLEAN[:1], metric=METRIC)
    threshold = effects.at(8).effect.abs().quantile(0.7)
    options = {"threshold": threshold, "errors": "none"}
    at_8 = effects.select(8, **options).nodes
    ranks = effects.at(8)[[*NODE, "rank"]].astype({"position": object})
    ranked = at_8.merge(ranks, on=NODE)
    for k in (2, 4):
        expected = ranked[ranked["rank"] < k][[*NODE, "score"]]
        assert len(expected)
        at_k = effects.select(k, **options).nodes
        assert at_k.reset_index(drop=True).equals(expected.reset_index(drop=True))


@pytest.mark.parametrize("name", ["gemma2", "gpt2"])
def test_all_hosts_agree(name):
    results = []
    for host in tiny.HOSTS:
        model = tiny.hosted(host, name)
        effects = sle.circuits.effects(
            model, tiny.sae(), CLEAN, CORRUPTED, metric=METRIC
        )
        circuit = effects.select(5, budget=9)
        results.append(circuit.faithfulness(model, CLEAN, CORRUPTED, metric=METRIC))
    first, *others = [result.by_prompt() for result in results]
    assert set(first.nodes) == {"circuit", "random", "coordinates"}
    for table in others:
        assert (table.metric - first.metric).abs().max() < 1e-4
        assert (table.metric_complement - first.metric_complement).abs().max() < 1e-4


def test_based_and_its_bridge_agree():
    from sae_lens_ext import based

    sae = tiny.sae(d_model=24).double()
    tables = []
    for model in (tiny.based(), based.boot(tiny.based())):
        circuit = sle.circuits.effects(model, sae, CLEAN, metric=METRIC).select(
            5, budget=9
        )
        result = circuit.faithfulness(model, CLEAN, metric=METRIC)
        tables.append(result.by_prompt())
    assert (tables[0].metric - tables[1].metric).abs().max() < 1e-9
    assert (tables[0].metric - tables[0].metric_model).abs().max() > 1e-4


def test_rows_of_different_lengths_are_as_if_alone(gemma2):
    texts = ["w1 w2 w3", "w4 w5 w6 w7 w8 w9", "w10 w11"]
    others = ["w11 w2 w3", "w4 w12 w6 w7 w13 w9", "w14 w3"]
    effects = sle.circuits.effects(gemma2, tiny.sae(), texts, others, metric=METRIC)
    circuit = effects.select(5, budget=9, align="end")
    options = {"metric": METRIC, "controls": (), "budgets": [9]}
    together = circuit.faithfulness(gemma2, texts, others, **options).by_prompt()
    left = tiny.tokenizer()(
        texts, return_tensors="pt", padding=True, padding_side="left"
    )
    padded = circuit.faithfulness(gemma2, left, others, **options).by_prompt()
    assert padded.metric.tolist() == together.metric.tolist()
    for row, text in enumerate(texts):
        alone = circuit.faithfulness(gemma2, text, others[row], **options).by_prompt()
        columns = ["metric", "metric_complement", "metric_empty", "metric_model"]
        expected = together[columns].iloc[row].tolist()
        assert alone[columns].iloc[0].tolist() == pytest.approx(expected, abs=1e-5)


def test_transcoders_are_circuits_too(gemma2):
    transcoder = tiny.sae(
        hook_name="blocks.1.hook_mlp_in",
        d_out=32,
        hook_name_out="blocks.1.hook_mlp_out",
        skip_connection=True,
    )
    effects = sle.circuits.effects(gemma2, transcoder, CLEAN, metric=METRIC)
    circuit = effects.select(5, budget=20, errors="none")
    result = circuit.faithfulness(gemma2, CLEAN, metric=METRIC, budgets=[20], **ALONE)
    edits = edits_outside(circuit.nodes, sle.Ablate)
    with torch.no_grad(), sle.splice(gemma2, transcoder, 5, edits=edits):
        expected = difference(gemma2(CLEAN))
    assert torch.allclose(metrics(result), expected, atol=1e-4)


def test_the_model_is_left_as_it_was(gemma2, effects):
    before = tiny.hooks_of(gemma2)
    expected = gemma2(CLEAN)
    circuit = effects.select(5, budget=3)
    circuit.faithfulness(gemma2, CLEAN, CORRUPTED, metric=METRIC, n_draws=2)
    sle.circuits.learn_mask(
        gemma2, tiny.sae(), CLEAN, metric=METRIC, k=2, budget=3, steps=2
    )
    assert tiny.hooks_of(gemma2) == before
    assert torch.equal(gemma2(CLEAN), expected)
    assert all(parameter.grad is None for parameter in gemma2.parameters())
