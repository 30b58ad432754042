"""What edges between nodes claim, checked by interventions and by sums."""

import linear_models
import pytest
import tiny
import torch

import sae_lens_ext as sle
from sae_lens_ext.circuits.freezing import Freezing
from sae_lens_ext.hosts import as_batch, host_for

BOTH = ("attention", "norms")
METRIC = sle.circuits.logit_difference(7, 9)
SITES = [f"blocks.{block}.hook_resid_post" for block in range(3)]
KEYS = ["row", "site", "position", "feature"]
KS = [1, 5, 8]


def difference(logits):
    return logits[:, -1, 7] - logits[:, -1, 9]


def saes_of(model, sites=SITES):
    width = linear_models.width_of(model)
    return [
        linear_models.sae(width, site, seed=seed) for seed, site in enumerate(sites)
    ]


class HeldModel:
    """A model whose sites go on with what is put there, with all else held."""

    def __init__(self, model, saes, tokens, corrupted=None):
        self.host = host_for(model)
        self.saes = {sae.config.hook_name: sae for sae in saes}
        self.batch = as_batch(tokens)
        self.freezing = Freezing(self.host, BOTH)
        self.clean = {}
        self.gradients = {}
        with torch.no_grad(), self.freezing.recording():
            self.clean |= self._run(self.batch, lambda name, x: x)
        self.corrupted = None
        if corrupted is not None:
            with torch.no_grad():
                self.corrupted = self._run(as_batch(corrupted), lambda name, x: x)

    def _run(self, batch, function):
        """What arrives at each site, where ``function`` says what goes on from it."""
        arrived = {}

        def at(name):
            def reach(x):
                arrived[name] = x
                return function(name, x)

            return reach

        undo = [self.host.attach(self.host.site(name), at(name)) for name in self.saes]
        embed = at("tokens")
        undo.append(
            self.host.embed.register_forward_hook(lambda _, __, x: embed(x)).remove
        )
        try:
            arrived["metric"] = difference(self.host.logits(batch))
        finally:
            for detach in undo:
                detach()
        return arrived

    def changed(self, changes):
        """How what arrives changes when each of these is added to a site of its row.

        ``changes`` are (row, site, position, vector).
        """
        rows = torch.tensor([row for row, *_ in changes])

        def function(name, x):
            x = self.clean[name][rows].clone()
            for number, (_, site, position, vector) in enumerate(changes):
                if site == name:
                    x[number, position] += vector
            return x

        with torch.no_grad(), self.freezing.replaying(rows):
            arrived = self._run(self.batch[rows.tolist()], function)
        return {name: x - self.clean[name][rows] for name, x in arrived.items()}

    def with_constants(self):
        """What arrives where all nodes are gone: only biases are left."""

        def function(name, x):
            if name == "tokens":
                return torch.zeros_like(x)
            sae = self.saes[name]
            return sae.b_dec / sae.activation_scale + sae.activation_mean + 0 * x

        with torch.no_grad(), self.freezing.replaying():
            return self._run(self.batch, function)

    def gradient(self, site):
        """The gradient of the metric by the activation at a site, over all paths."""
        if site not in self.gradients:
            leaf = self.clean[site].clone().requires_grad_()
            with self.freezing.replaying():
                arrived = self._run(
                    self.batch, lambda name, x: leaf if name == site else x
                )
            (gradient,) = torch.autograd.grad(arrived["metric"].sum(), leaf)
            self.gradients[site] = gradient
        return self.gradients[site]

    def written(self, row, site, position, feature, k):
        """What a node adds to the activation at its place."""
        node = self._written(self.clean, row, site, position, feature, k)
        if self.corrupted is None:
            return node
        return node - self._written(self.corrupted, row, site, position, feature, k)

    def _written(self, activations, row, site, position, feature, k):
        x = activations[site][row, position]
        if site == "tokens":
            return x
        sae = self.saes[site]
        with torch.no_grad():
            code = sae.encode(x, k)
            if feature >= 0:
                value = code.dense()[feature]
                return value * sae.W_dec[feature] / sae.activation_scale
            return x - sae.decode(code)

    def preactivation(self, site, x, feature):
        """By hand, of a feature at activations."""
        sae = self.saes[site]
        u = (x - sae.activation_mean) * sae.activation_scale
        if sae.config.apply_b_dec_to_input:
            u = u - sae.b_dec
        return (u @ sae.W_enc[:, feature] + sae.b_enc[feature]).detach()

    def reading(self, site, row, position, feature, change, k):
        """What a change of the activation changes: of a feature, or through an error.

        Of the former the pre-activation, and of the latter the metric.
        """
        sae = self.saes[site]
        if feature >= 0:
            zero = self.preactivation(site, torch.zeros_like(change), feature)
            return self.preactivation(site, change, feature) - zero

        gradient = self.gradient(site)[row, position]
        with torch.no_grad():
            code = sae.encode(self.clean[site][row, position], k)
        left = change.clone()
        for value, of_code in zip(code.values, code.indices, strict=True):
            if value > 0:
                read = self.reading(site, row, position, int(of_code), change, k)
                left -= read * sae.W_dec[of_code] / sae.activation_scale
        return (left @ gradient).detach()


def measured(held, table, k):
    """The measured value of every edge of a table, a row for every source."""
    names = ["row", "source_site", "source_position", "source_feature"]
    sources = table[names].drop_duplicates()
    changes = [
        (row, site, position, held.written(row, site, position, feature, k))
        for row, site, position, feature in sources.itertuples(index=False)
    ]
    arrived = held.changed(changes)
    number = {key: i for i, key in enumerate(sources.itertuples(index=False))}

    values = []
    for edge in table.itertuples():
        key = (edge.row, edge.source_site, edge.source_position, edge.source_feature)
        change = arrived[edge.target_site][number[key]]
        if edge.target_site != "metric":
            place = (edge.target_site, edge.row, edge.target_position)
            change = change[edge.target_position]
            change = held.reading(*place, edge.target_feature, change, k)
        values.append(float(change))
    return torch.tensor(values)


def check_every_edge(name, corrupted=None, length=5, budget=14):
    model = linear_models.linear_model(name)
    saes = saes_of(model)
    tokens = tiny.tokens(1, length)
    options = {"metric": METRIC, "freeze": BOTH}
    effects = sle.circuits.effects(model, saes, tokens, corrupted, **options)
    table = effects.at(8)
    largest = table.loc[table.effect.abs().nlargest(budget).index]
    errors = table[(table.feature == -1) & (table.position > 1)]
    nodes = largest.merge(errors, how="outer")
    edges = sle.circuits.edges(
        model, saes, tokens, corrupted, **options, nodes=nodes, ks=KS
    )
    held = HeldModel(model, saes, tokens, corrupted)
    for k in KS:
        at_k = edges.at(k)
        kinds = set(zip(at_k.source_site, at_k.source_feature >= 0, strict=True))
        assert len(kinds) == 7
        expected = measured(held, at_k, k)
        value = at_k.preactivation.where(at_k.target_feature >= 0, at_k.effect)
        assert abs(value - expected.numpy()).max() < 1e-5 * max(1, abs(value).max())
        assert (abs(value) > 1e-3).mean() > 0.5


@pytest.mark.parametrize("name", ["gpt2", "rebased"])
def test_every_edge_is_what_changing_its_source_alone_changes(name):
    check_every_edge(name)


def test_edges_of_a_pair_are_what_patching_the_source_changes():
    check_every_edge("gpt2", tiny.tokens(1, 5, seed=1))


def test_edges_into_a_feature_add_up_to_what_biases_leave_of_it():
    model = linear_models.linear_model("gpt2")
    saes = saes_of(model)
    tokens = tiny.tokens(2, 5)
    options = {"metric": METRIC, "freeze": BOTH}
    edges = sle.circuits.edges(model, saes, tokens, **options, budget=30, ks=KS)
    held = HeldModel(model, saes, tokens)
    biases = held.with_constants()
    names = ["row", "target_site", "target_position", "target_feature"]
    for k in KS:
        table = edges.at(k)
        sums = table[table.target_feature >= 0].groupby(names).preactivation.sum()
        assert len(sums) > 3
        for (row, site, position, feature), total in sums.items():
            place = (row, position)
            whole = held.preactivation(site, held.clean[site][place], feature)
            constant = held.preactivation(site, biases[site][place], feature)
            assert total == pytest.approx(float(whole - constant), abs=1e-4)

        # And those into the metric to all of it but what biases give.
        of_metric = table[table.target_site == "metric"].groupby("row").effect.sum()
        expected = held.clean["metric"] - biases["metric"]
        assert of_metric.tolist() == pytest.approx(expected.tolist(), abs=1e-4)


@pytest.mark.parametrize("corrupted", [None, tiny.tokens(2, 5, seed=1)])
def test_edges_out_of_a_node_add_up_to_its_effect(corrupted):
    model = tiny.hf_model("gpt2")
    saes = saes_of(model)
    arguments = (model, saes, tiny.tokens(2, 5), corrupted)
    effects = sle.circuits.effects(*arguments, metric=METRIC)
    nodes = effects.at(3)
    edges = sle.circuits.edges(
        *arguments, metric=METRIC, k=3, nodes=nodes, batch_size=64
    )
    names = ["row", "source_site", "source_position", "source_feature"]
    sums = edges.at(3).groupby(names).effect.sum().rename_axis(KEYS).reset_index()
    both = nodes.merge(sums, on=KEYS, how="left").fillna({"effect_y": 0})
    assert (both.effect_x - both.effect_y).abs().max() < 1e-5
    assert both.effect_x.abs().max() > 1e-2

    tokens = sums[sums.site == "tokens"]
    expected = edges.token_effects[tokens.row.tolist(), tokens.position.tolist()]
    assert abs(tokens.effect.to_numpy() - expected.numpy()).max() < 1e-5


def test_a_k_of_one_pass_is_that_of_a_pass_of_its_own(gemma2):
    saes = [tiny.sae(), tiny.sae(hook_name="blocks.2.hook_resid_post", seed=1)]
    arguments = (gemma2, saes, tiny.tokens(2, 7), tiny.tokens(2, 7, seed=1))
    nodes = sle.circuits.effects(*arguments, metric=METRIC).at(2)
    nodes = nodes[nodes.position > 3]
    options = {"metric": METRIC, "nodes": nodes, "batch_size": 32}
    every = sle.circuits.edges(*arguments, **options, ks=[2, 5])
    names = [f"{end}_{key}" for end in ("source", "target") for key in KEYS[1:]]
    for k in (2, 5):
        alone = sle.circuits.edges(*arguments, **options, k=k).at(k)
        both = every.at(k).merge(alone, on=["row", *names], how="outer")
        assert len(both) > 100
        assert (both.effect_x - both.effect_y).abs().max() < 1e-6
        assert not both[["effect_x", "effect_y"]].isna().any().any()


@pytest.mark.parametrize("host", ["torch", "nnsight"])
def test_hosts_agree(gpt2, host):
    saes = [tiny.sae(hook_name=SITES[0]), tiny.sae(hook_name=SITES[2], seed=1)]
    options = {"metric": METRIC, "budget": 6, "ks": [4], "freeze": BOTH}
    tokens = tiny.tokens(2, 5)
    expected = sle.circuits.edges(gpt2, saes, tokens, **options).at(4)
    model = tiny.hosted(host, "gpt2")
    table = sle.circuits.edges(model, saes, tokens, **options).at(4)
    names = [name for name in table if name not in ("effect", "preactivation")]
    both = table.merge(expected, on=names, how="outer")
    assert (both.effect_x - both.effect_y).abs().max() < 1e-5


def test_rows_of_different_lengths_are_as_if_alone(gemma2):
    texts = ["w1 w2 w3", "w4 w5 w6 w7 w8 w9"]
    saes = [tiny.sae(), tiny.sae(hook_name="blocks.2.hook_resid_post", seed=1)]
    options = {"metric": METRIC, "freeze": BOTH, "batch_size": 32}
    nodes = sle.circuits.effects(gemma2, saes, texts, metric=METRIC).at(1)
    edges = sle.circuits.edges(gemma2, saes, texts, nodes=nodes, ks=[1], **options)
    table = edges.at(1)
    for row, text in enumerate(texts):
        of_row = nodes[nodes.row == row].assign(row=0)
        alone = sle.circuits.edges(
            gemma2, saes, text, nodes=of_row, ks=[1], **options
        ).at(1)
        expected = table[table.row == row].assign(row=0)
        names = [name for name in alone if name not in ("effect", "preactivation")]
        both = expected.merge(alone, on=names, how="outer")
        assert (both.effect_x - both.effect_y).abs().max() < 1e-5


def test_paths_through_a_position_without_nodes_are_not_cut():
    model = linear_models.linear_model("gpt2")
    saes = saes_of(model)
    tokens = tiny.tokens(1, 5)
    options = {"metric": METRIC, "freeze": BOTH, "positions": [4]}
    edges = sle.circuits.edges(model, saes, tokens, budget=40, ks=[3], **options)
    table = edges.at(3)
    assert set(table.target_position) == {4}

    # All that reaches the last token from earlier ones passes sites without nodes.
    sums = table.groupby(["source_site", "source_position"]).effect.sum()
    expected = edges.token_effects[0]
    assert sums["tokens"].tolist() == pytest.approx(expected.tolist(), abs=1e-5)
    assert expected[:4].abs().max() > 1e-3
