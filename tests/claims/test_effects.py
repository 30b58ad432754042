"""What effects at every k claim, checked by interventions and by other ways."""

import linear_models
import pytest
import tiny
import torch

import sae_lens_ext as sle
from sae_lens_ext.circuits.freezing import Freezing
from sae_lens_ext.hosts import as_batch, host_for

BOTH = ("attention", "norms")
METRIC = sle.circuits.logit_difference(7, 9)
SITE = "blocks.1.hook_resid_post"


def difference(logits):
    return logits[:, -1, 7] - logits[:, -1, 9]


class FrozenModel:
    """A model in which splices are measured, with all else held at the clean run."""

    def __init__(self, model, tokens):
        self.host = host_for(model)
        self.batch = as_batch(tokens)
        self.freezing = Freezing(self.host, BOTH)
        with torch.no_grad(), self.freezing.recording():
            self.clean = difference(self.host.logits(self.batch))

    def changes(self, nodes, sae, **options):
        """What a splice changes, in a batch that has the row of every node."""
        rows = torch.tensor(nodes.row.tolist())
        with (
            torch.no_grad(),
            self.freezing.replaying(rows),
            sle.splice(self.host.model, sae, **options),
        ):
            logits = self.host.logits(self.batch[rows.tolist()])
        return (self.clean[rows] - difference(logits)).numpy()


@pytest.mark.parametrize("k", [1, 5, 8])
def test_an_effect_is_what_ablating_the_node_changes(k):
    model = linear_models.linear_model("gpt2")
    sae = linear_models.sae()
    tokens = tiny.tokens(1, 6)
    effects = sle.circuits.effects(model, sae, tokens, metric=METRIC, freeze=BOTH)
    table = effects.at(k)
    assert len(table) == 6 * (k + 1)
    frozen = FrozenModel(model, tokens)

    features = table[table.feature >= 0]
    edits = [
        sle.Ablate(node.feature, positions=[node.position], rows=[row])
        for row, node in enumerate(features.itertuples())
    ]
    changes = frozen.changes(features, sae, k=k, edits=edits, error_term=True)
    assert abs(features.effect - changes).max() < 1e-5
    assert features.effect.abs().max() > 0.1

    # Without the error term, the error is what is missing.
    errors = table[table.feature == -1]
    mask = torch.eye(6, dtype=torch.bool)[errors.position.tolist()]
    changes = frozen.changes(errors, sae, k=k, positions=mask)
    assert abs(errors.effect - changes).max() < 1e-5
    assert errors.effect.abs().max() > 0.1


@pytest.mark.parametrize("k", [1, 5, 8])
def test_an_effect_of_a_pair_is_what_patching_the_node_changes(k):
    model = linear_models.linear_model("gpt2")
    sae = linear_models.sae()
    tokens = tiny.tokens(2, 6)
    other = tiny.tokens(2, 6, seed=1)
    effects = sle.circuits.effects(
        model, sae, tokens, other, metric=METRIC, freeze=BOTH
    )
    table = effects.at(k)
    features = table[table.feature >= 0]
    codes = sle.Run.capture(model, other, sae, k=k).codes
    (code,) = codes.values()
    source = sle.Run({linear_models.SITE: code[features.row.tolist()]})

    edits = [
        sle.Patch(node.feature, source=source, positions=[node.position], rows=[row])
        for row, node in enumerate(features.itertuples())
    ]
    frozen = FrozenModel(model, tokens)
    changes = frozen.changes(features, sae, k=k, edits=edits, error_term=True)
    assert abs(features.effect - changes).max() < 1e-5
    assert features.effect.abs().max() > 0.1


@pytest.mark.parametrize("name", linear_models.NAMES)
@pytest.mark.parametrize("corrupted", [None, tiny.tokens(2, 7, seed=1)])
def test_every_effect_is_exact_where_the_path_is_linear(name, corrupted):
    model = linear_models.linear_model(name)
    width = linear_models.width_of(model)
    saes = [
        linear_models.sae(width, "blocks.0.hook_resid_post"),
        linear_models.sae(width, "blocks.1.hook_resid_post", seed=1),
    ]
    table = sle.circuits.effects(
        model,
        saes,
        tiny.tokens(2, 7),
        corrupted,
        metric=METRIC,
        freeze=BOTH,
        method="ablation",
        k=3,
        budget=60,
        batch_size=20,
    ).at()
    assert set(table.site) == {sae.config.hook_name for sae in saes}
    assert (table.effect - table.attribution).abs().max() < 1e-5
    assert table.effect.abs().max() > 0.01


def test_free_norms_and_patterns_are_not_linear():
    table = sle.circuits.effects(
        linear_models.linear_model("gpt2"),
        linear_models.sae(),
        tiny.tokens(2, 7),
        metric=METRIC,
        method="ablation",
        k=3,
        budget=60,
        batch_size=20,
    ).at()
    assert (table.effect - table.attribution).abs().max() > 1e-2


@pytest.mark.parametrize("corrupted", [None, tiny.tokens(2, 7, seed=1)])
@pytest.mark.parametrize("method", ["attribution", "integrated_gradients"])
def test_a_k_of_one_pass_is_that_of_a_pass_of_its_own(gemma2, method, corrupted):
    saes = [tiny.sae(k=16), tiny.sae(k=16, hook_name="blocks.2.hook_resid_post")]
    arguments = (gemma2, saes, tiny.tokens(2, 7), corrupted)
    options = {"metric": METRIC, "method": method}
    if method == "integrated_gradients":
        options["steps"] = 2
    effects = sle.circuits.effects(*arguments, **options)
    every = effects.by_k()
    for k in (1, 5, 16):
        alone = sle.circuits.effects(*arguments, **options, k=k).at(k)
        table = every[every.k == k].drop(columns="k").reset_index(drop=True)
        keys = ["row", "site", "position", "feature"]
        both = table.merge(alone, on=keys, how="outer", validate="1:1")
        assert (both.effect_x - both.effect_y).abs().max() < 1e-6
        assert not both.isna().any().any()


def test_effects_are_gradients_by_features_and_errors_one_by_one(gemma2):
    sae = tiny.sae()
    tokens = tiny.tokens(2, 7)
    effects = sle.circuits.effects(gemma2, sae, tokens, metric=METRIC)
    for k in (1, 4, 8):
        leaves = {}

        def composed(x, hook, k=k, leaves=leaves):
            """The activation, from a leaf for every feature and one for the error."""
            code = sae.encode(x.detach(), k)
            leaves["acts"] = code.dense().detach().requires_grad_()
            error = x.detach() - sae.decode(code).detach()
            leaves["error"] = error.requires_grad_()
            return leaves["acts"] @ sae.W_dec + sae.b_dec + leaves["error"]

        logits = gemma2.run_with_hooks(tokens, fwd_hooks=[(SITE, composed)])
        difference(logits).sum().backward(inputs=list(leaves.values()))
        of_acts = leaves["acts"] * leaves["acts"].grad
        of_errors = (leaves["error"] * leaves["error"].grad).sum(-1)

        for node in effects.at(k).itertuples():
            place = (node.row, node.position)
            expected = of_errors[place]
            if node.feature >= 0:
                expected = of_acts[(*place, node.feature)]
            assert abs(node.effect - expected.item()) < 1e-5


@pytest.mark.parametrize("corrupted", [False, True])
def test_rows_of_different_lengths_are_as_if_alone(gemma2, corrupted):
    texts = ["w1 w2 w3", "w4 w5 w6 w7 w8 w9", "w10"]
    others = ["w11 w2 w3", "w4 w12 w6 w7 w13 w9", "w14"]
    sae = tiny.sae()
    together = sle.circuits.effects(
        gemma2, sae, texts, others if corrupted else None, metric=METRIC
    )
    table = together.at()
    for row, text in enumerate(texts):
        alone = sle.circuits.effects(
            gemma2, sae, text, others[row] if corrupted else None, metric=METRIC
        )
        expected = alone.at()
        of_row = table[table.row == row].reset_index(drop=True)
        assert of_row.feature.tolist() == expected.feature.tolist()
        assert of_row.position.tolist() == expected.position.tolist()
        assert (of_row.effect - expected.effect).abs().max() < 1e-5
        difference = together.metric_clean[row] - alone.metric_clean[0]
        assert abs(difference.item()) < 1e-5


def test_padding_on_the_left_changes_nothing(gemma2):
    texts = ["w1 w2 w3", "w4 w5 w6 w7 w8 w9"]
    tokenizer = tiny.tokenizer()
    encoding = tokenizer(texts, return_tensors="pt", padding=True, padding_side="left")
    sae = tiny.sae()
    right = sle.circuits.effects(gemma2, sae, texts, metric=METRIC).at()
    # The last column is the last token, in columns that are padded on the left.
    left = sle.circuits.effects(gemma2, sae, encoding, metric=difference).at()
    assert (left.effect - right.effect).abs().max() < 1e-5
    assert left.position.tolist() == right.position.tolist()


@pytest.mark.parametrize("name", ["gemma2", "gpt2"])
@pytest.mark.parametrize("freeze", [(), BOTH])
def test_all_hosts_agree(name, freeze):
    tables = []
    for host in tiny.HOSTS:
        effects = sle.circuits.effects(
            tiny.hosted(host, name),
            tiny.sae(),
            tiny.tokens(2, 7),
            tiny.tokens(2, 7, seed=1),
            metric=METRIC,
            freeze=freeze,
        )
        tables.append(effects.at(5))
    first, *others = tables
    for table in others:
        assert table.feature.tolist() == first.feature.tolist()
        assert (table.effect - first.effect).abs().max() < 1e-5


def test_based_and_its_bridge_agree():
    from sae_lens_ext import based

    sae = tiny.sae(d_model=24).double()
    tables = [
        sle.circuits.effects(
            model, sae, tiny.tokens(2, 9), metric=METRIC, freeze=BOTH
        ).at(5)
        for model in (tiny.based(), based.boot(tiny.based()))
    ]
    assert (tables[0].effect - tables[1].effect).abs().max() < 1e-9
    assert tables[0].effect.abs().max() > 1e-3


def test_the_model_is_left_as_it_was(gemma2):
    before = tiny.hooks_of(gemma2)
    expected = gemma2(tiny.tokens())
    options = {"metric": METRIC, "freeze": BOTH}
    arguments = (gemma2, tiny.sae(), tiny.tokens())
    sle.circuits.effects(*arguments, **options)
    sle.circuits.effects(*arguments, **options, method="integrated_gradients", steps=2)
    sle.circuits.effects(*arguments, **options, method="ablation", k=2, budget=2)
    assert tiny.hooks_of(gemma2) == before
    assert torch.equal(gemma2(tiny.tokens()), expected)
    assert all(parameter.grad is None for parameter in gemma2.parameters())


def test_no_tensor_is_as_wide_as_the_dictionary(gemma2):
    d_sae = 1009
    sae = tiny.sae(d_sae=d_sae)
    shapes = set()

    class Shapes(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            result = func(*args, **(kwargs or {}))
            if isinstance(result, torch.Tensor):
                shapes.add(tuple(result.shape))
            return result

    with Shapes():
        effects = sle.circuits.effects(
            gemma2,
            sae,
            tiny.tokens(2, 7),
            tiny.tokens(2, 7, seed=1),
            metric=METRIC,
        )
        effects.by_k()
    assert (2, 7, 8) in shapes
    wide = {shape for shape in shapes if d_sae in shape}
    # The weights, and no gradient, code or activation.
    assert wide <= {(d_sae,), (32, d_sae), (d_sae, 32)}


def test_nothing_is_kept_for_gradients_of_weights():
    """A run keeps as much as in a model whose weights take no gradients."""
    n_kept = []
    for requires_grad in (False, True):
        model = tiny.hf_model("gemma2").requires_grad_(requires_grad)
        sizes = []

        def keep(tensor, sizes=sizes):
            sizes.append(tensor.numel())
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            sle.circuits.effects(model, tiny.sae(), tiny.tokens(2, 7), metric=METRIC)
        n_kept.append(sum(sizes))
        after = {weight.requires_grad for weight in model.parameters()}
        assert after == {requires_grad}
    assert n_kept[0] == n_kept[1] > 0
