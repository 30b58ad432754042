"""A training by a metric of errors is one in its coordinates, and brought back."""

import dataclasses

import pytest
import small_training
import tiny
import torch
from small_training import (
    CONFIG,
    N_TOKENS,
    SITE,
    SITE_OUT,
    WIDTH,
    MemoryStream,
    metrics,
    run,
    same_weights,
    stopped,
    transcoder_values,
    values,
)
from toy import SITE as TOY_SITE
from toy import Toy, rows

import sae_lens_ext as sle
from sae_lens_ext.objectives import AuxK, BatchTopK, JumpReLU, ReLU
from sae_lens_ext.training import (
    Activations,
    CacheStream,
    ErrorMetric,
    IterableStream,
    ModelStream,
    SiteStatistics,
    TensorStream,
    TrainConfig,
    cache_activations,
)
from sae_lens_ext.training.cleaning import mean_and_scale
from sae_lens_ext.training.setup import new_trainer

METRIC = small_training.metric()
HELD_OUT = values(200, seed=1)


class InCoordinates:
    """A stream of activations in the coordinates of a metric: by hand."""

    def __init__(self, stream, metric):
        self.stream = stream
        self.metric = metric
        self.sites = stream.sites
        self.model_name = stream.model_name
        self.excludes_special_tokens = stream.excludes_special_tokens
        self.width = stream.width
        self.state = stream.state
        self.restore = stream.restore

    @property
    def n_tokens(self):
        return self.stream.n_tokens

    @property
    def counts(self):
        return self.stream.counts

    def statistics(self):
        statistics = dict(self.stream.statistics())
        site = self.metric.hook_name
        y = self.metric.apply(self.stream.first_tokens(site).float())
        statistics[site] = SiteStatistics(*mean_and_scale(y), torch.tensor(torch.inf))
        return statistics

    def next_batch(self, n_tokens):
        batch = dict(self.stream.next_batch(n_tokens))
        site = self.metric.hook_name
        return {**batch, site: self.metric.apply(batch[site].float())}


def assert_close(sae, expected):
    """The same weights to 1e-6 of the largest number of each tensor."""
    assert sae.config == expected.config
    for name, tensor in expected.state_dict().items():
        bound = 1e-6 * max(1.0, tensor.abs().max().item())
        torch.testing.assert_close(
            sae.state_dict()[name], tensor, atol=bound, rtol=0, msg=name
        )


def fvu(sae, x, y, k):
    with torch.no_grad():
        error = (y - sae(x, k)).double().square().sum()
    return (error / (y - y.mean(0)).double().square().sum()).item()


OBJECTIVES = {
    "default": CONFIG.objective,
    "jumprelu": JumpReLU(),
    "batchtopk": BatchTopK(),
    "relu": ReLU(),
    "auxk": AuxK(CONFIG.objective),
}


@pytest.mark.parametrize("objective", OBJECTIVES.values(), ids=OBJECTIVES)
def test_training_by_a_metric_is_apply_train_and_undo(objective):
    config = TrainConfig(d_sae=32, k=4, batch_size=32, epochs=1, objective=objective)
    activations = Activations(values(), SITE)
    by_hand = run(stream=METRIC.apply(activations), config=config)
    trained = run(stream=activations, config=config, metric=METRIC)
    assert_close(trained.sae, METRIC.undo(by_hand.sae))
    assert trained.losses == pytest.approx(by_hand.losses, rel=1e-6)

    without = run(stream=activations, config=config)
    assert not torch.allclose(without.sae.W_dec, trained.sae.W_dec, atol=0.01)


def tensor_stream(folder, site):
    return TensorStream({site: values(), "other": values(seed=3)}, shrink=False)


def iterable_stream(folder, site):
    parts = values().split(50)
    return IterableStream(lambda: parts, site, buffer_tokens=150)


def model_stream(folder, site):
    return ModelStream(Toy(), rows(41), site, batch_size=4, buffer_tokens=100)


def cache_stream(folder, site):
    cache_activations(
        Toy(), rows(41), site, folder, shard_tokens=60, dtype="bfloat16", progress=False
    )
    return CacheStream(folder)


@pytest.mark.parametrize(
    ("new_stream", "site"),
    [
        (tensor_stream, SITE),
        (iterable_stream, SITE),
        (model_stream, TOY_SITE),
        (cache_stream, TOY_SITE),
    ],
)
def test_every_stream_can_be_trained_on_by_a_metric(new_stream, site, tmp_path):
    metric = small_training.metric(site, WIDTH if site == SITE else 6)
    config = dataclasses.replace(CONFIG, hook_name=site, n_tokens=200)
    stream = new_stream(tmp_path, site)
    trained = run(stream=stream, config=config, metric=metric)
    by_hand = InCoordinates(new_stream(tmp_path, site), metric)
    expected = run(stream=by_hand, config=config)
    assert_close(trained.sae, metric.undo(expected.sae))


def test_evaluations_are_of_activations_as_they_are(tmp_path):
    measured = []

    def measure(sae):
        measured.append(fvu(sae, HELD_OUT, HELD_OUT, 4))
        return {"own": measured[-1]}

    trained = run(tmp_path, metric=METRIC, held_out=HELD_OUT, measure=measure)
    for k, value in trained.held_out_fvu.items():
        assert value == pytest.approx(fvu(trained.sae, HELD_OUT, HELD_OUT, k), rel=1e-4)
    records = [record for record in metrics(tmp_path) if "own" in record]
    assert len(records) == len(measured) == 5
    for record in records:
        assert record["held_out_fvu/k=4"] == pytest.approx(record["own"], rel=1e-4)

    best = sle.SAE.from_pretrained(tmp_path / "best")
    least = min(record["own"] for record in records)
    assert fvu(best, HELD_OUT, HELD_OUT, 4) == pytest.approx(least, rel=1e-4)
    saved = sle.SAE.from_pretrained(tmp_path / "sae")
    torch.testing.assert_close(saved(HELD_OUT), trained.sae(HELD_OUT))


def test_a_run_by_a_metric_is_resumed_to_the_same_bits(tmp_path):
    whole = run(tmp_path / "whole", metric=METRIC, held_out=HELD_OUT)
    folder = tmp_path / "resumed"
    with pytest.raises(KeyboardInterrupt):
        run(folder, metric=METRIC, held_out=HELD_OUT, stream=stopped(32 * 7))
    saved = ErrorMetric.load(folder / "metric.safetensors")
    resumed = run(folder, metric=saved, held_out=HELD_OUT)
    assert same_weights(resumed.sae, whole.sae)
    assert resumed.losses == whole.losses
    assert metrics(folder) == metrics(tmp_path / "whole")
    # A finished run returns its result.
    again = run(folder, metric=METRIC, stream=stopped(0))
    assert same_weights(again.sae, whole.sae)


def test_a_run_is_not_gone_on_with_by_another_metric(tmp_path):
    by_metric, plain = tmp_path / "metric", tmp_path / "plain"
    run(by_metric, metric=METRIC)
    run(plain)
    other = small_training.metric(seed=1)
    path = by_metric / "metric.safetensors"
    for metric in (other, None):
        with pytest.raises(sle.InvalidArgument) as raised:
            run(by_metric, metric=metric)
        assert f"metric is 'sha256 {METRIC.digest[:16]}' there and" in str(raised.value)
        assert f"(its metric is ErrorMetric.load('{path}'))" in str(raised.value)
    with pytest.raises(sle.InvalidArgument, match="metric is None there and 'sha256"):
        run(plain, metric=METRIC)
    assert not (plain / "metric.safetensors").exists()


@pytest.mark.parametrize("skip", [False, True], ids=["plain", "skip"])
def test_a_metric_of_a_transcoder_is_of_its_targets(skip):
    tables = transcoder_values()
    metric = small_training.metric(SITE_OUT, 10)
    config = dataclasses.replace(
        CONFIG, hook_name=SITE, hook_name_out=SITE_OUT, skip_connection=skip
    )
    options = {"config": config, "held_out": tables}
    stream = MemoryStream(tables, n_tokens=N_TOKENS)
    trained = run(stream=stream, metric=metric, **options)
    by_hand = InCoordinates(MemoryStream(tables, n_tokens=N_TOKENS), metric)
    expected = metric.undo(run(stream=by_hand, config=config).sae)
    assert_close(trained.sae, expected)
    for k, value in trained.held_out_fvu.items():
        in_units = fvu(trained.sae, tables[SITE], tables[SITE_OUT], k)
        assert value == pytest.approx(in_units, rel=1e-4)


def start_sae(kind="topk", *, is_transcoder=False, pre_bias=False):
    """An SAE of activations as they are, with decoder rows of several norms."""
    options = {"apply_b_dec_to_input": pre_bias}
    if is_transcoder:
        options |= {"d_out": 12, "hook_name_out": SITE_OUT, "skip_connection": True}
    config = sle.SAEConfig(
        d_model=WIDTH,
        d_sae=32,
        kind=kind,
        k=4 if kind == "topk" else None,
        hook_name=SITE,
        **options,
    )
    generator = torch.Generator().manual_seed(0)
    sae = sle.SAE(config, generator=generator)
    with torch.no_grad():
        for weight in sae.parameters():
            weight += 0.2 * torch.randn(weight.shape, generator=generator)
        sae.W_dec *= torch.linspace(0.5, 2, 32).unsqueeze(1)
        sae.b_dec[1] += 30
        if sae.threshold is not None:
            sae.threshold.abs_()
    return sae.eval()


@pytest.mark.parametrize("is_transcoder", [False, True], ids=["sae", "transcoder"])
@pytest.mark.parametrize("kind", ["topk", "jumprelu"])
@pytest.mark.parametrize("pre_bias", [False, True])
def test_a_start_is_the_same_function_before_the_first_step(
    kind, pre_bias, is_transcoder
):
    start = start_sae(kind, is_transcoder=is_transcoder, pre_bias=pre_bias)
    tables = {SITE: values()}
    if is_transcoder:
        tables[SITE_OUT] = values().flip(1)
    site = list(tables)[-1]
    config = dataclasses.replace(
        CONFIG,
        hook_name=SITE,
        hook_name_out=start.config.hook_name_out,
        skip_connection=is_transcoder,
        objective=JumpReLU() if kind == "jumprelu" else CONFIG.objective,
    )
    trainer = new_trainer(
        MemoryStream(tables, n_tokens=N_TOKENS),
        config,
        torch.Generator(),
        torch.device("cpu"),
        start=start,
        metric=small_training.metric(site, tables[site].shape[1]),
    )
    sae = trainer.normalization.finished(trainer.state.sae).folded()
    for k in (1, 3, None):
        code, expected = sae.encode(tables[SITE], k), start.encode(tables[SITE], k)
        assert torch.equal(code.indices, expected.indices)
        bound = 1e-5 * expected.values.max()
        assert (code.values - expected.values).abs().max() < bound
        difference = sae(tables[SITE], k) - start(tables[SITE], k)
        assert difference.abs().max() < 1e-5 * start(tables[SITE], k).abs().max()


@pytest.mark.parametrize("is_transcoder", [False, True], ids=["sae", "transcoder"])
def test_a_retrofit_by_a_metric_keeps_the_directions(is_transcoder):
    start = start_sae(is_transcoder=is_transcoder)
    tables = {SITE: values()}
    if is_transcoder:
        tables[SITE_OUT] = values().flip(1)
    site = list(tables)[-1]
    config = TrainConfig.retrofit(start, 4, batch_size=32, n_tokens=N_TOKENS)
    metric = small_training.metric(site, tables[site].shape[1])
    by_errors = []
    for each in (metric, None):
        stream = MemoryStream(tables, n_tokens=N_TOKENS)
        trained = run(stream=stream, config=config, start=start, metric=each)
        rows_of = [sae.W_dec.detach().double() for sae in (trained.sae, start)]
        assert (1 - torch.cosine_similarity(*rows_of, dim=1)).abs().max() < 1e-10
        with torch.no_grad():
            y = tables[site] - trained.sae(tables[SITE])
        error = y.double() @ metric.matrix
        by_errors.append((error * y).sum().item())
    # By the metric, the retrofit by it is the better one.
    assert by_errors[0] < by_errors[1]


def test_a_metric_of_another_site_or_width_is_refused(tmp_path):
    other = small_training.metric("blocks.5.hook_resid_post")
    message = f"metric is of blocks.5.hook_resid_post, and the SAE reconstructs.*{SITE}"
    with pytest.raises(sle.InvalidArgument, match=message):
        run(tmp_path / "run", metric=other)
    assert not (tmp_path / "run").exists()

    config = dataclasses.replace(CONFIG, hook_name=SITE, hook_name_out=SITE_OUT)
    stream = MemoryStream(transcoder_values(), n_tokens=N_TOKENS)
    message = f"metric is of {SITE}, and the transcoder reconstructs.*{SITE_OUT}"
    with pytest.raises(sle.InvalidArgument, match=message):
        run(stream=stream, config=config, metric=METRIC)

    with pytest.raises(sle.ShapeMismatch, match="metric is of width 5"):
        run(metric=small_training.metric(width=5))


@pytest.mark.usefixtures("without_shape_checks")
@pytest.mark.usefixtures("without_shape_checks")
def test_a_metric_is_made_of_tensors():
    with pytest.raises(sle.InvalidArgument, match="must be tensors; got list and list"):
        ErrorMetric([[1.0]], [0.0], SITE)


@pytest.mark.usefixtures("without_shape_checks")
def test_rejects_what_is_not_a_metric():
    with pytest.raises(sle.InvalidArgument, match="an ErrorMetric.*type str"):
        run(metric="fisher")


def test_a_stream_that_has_given_tokens_cannot_be_trained_on_by_a_metric():
    stream = iterable_stream(None, SITE)
    stream.next_batch(3)
    config = dataclasses.replace(CONFIG, n_tokens=100)
    with pytest.raises(sle.InvalidArgument, match="has given 3 tokens already"):
        run(stream=stream, config=config, metric=METRIC)


def test_a_stream_of_ones_own_needs_its_first_tokens():
    class Forgetful(MemoryStream):
        first_tokens = None

    stream = Forgetful(n_tokens=N_TOKENS)
    with pytest.raises(sle.InvalidArgument, match="give Forgetful the method first_to"):
        run(stream=stream, metric=METRIC)


def test_a_metric_is_the_same_after_saving(tmp_path):
    metric = dataclasses.replace(METRIC, about="as in the test")
    metric.save(tmp_path / "metric.safetensors")
    loaded = ErrorMetric.load(tmp_path / "metric.safetensors")
    assert torch.equal(loaded.matrix, metric.matrix)
    assert torch.equal(loaded.mean, metric.mean)
    assert (loaded.hook_name, loaded.about) == (SITE, "as in the test")
    assert loaded.digest == metric.digest
    digests = {small_training.metric(seed=seed).digest for seed in range(3)}
    assert len({metric.digest, *digests}) == 4
    assert repr(loaded) == f"ErrorMetric({SITE}, d_model=12: as in the test)"


def test_rejects_a_file_of_something_else(tmp_path):
    path = tmp_path / "activations.safetensors"
    Activations(values(), SITE).save(path)
    for broken in (path, tmp_path / "nothing.safetensors"):
        with pytest.raises(sle.FormatError, match="is not a file of an error metric"):
            ErrorMetric.load(broken)


def wide_metric():
    return small_training.metric("blocks.1.hook_resid_post", 32)


def test_the_squared_error_in_the_coordinates_is_the_one_by_the_matrix():
    metric = wide_metric()
    x, error = torch.randn(2, 5, 32, dtype=torch.float64)
    difference = metric.apply(x + error) - metric.apply(x)
    by_matrix = torch.einsum("td,de,te->t", error, metric.matrix, error)
    assert torch.allclose(difference.square().sum(1), by_matrix)
    assert torch.allclose(metric.errors(difference), error)


@pytest.mark.parametrize("pre_bias", [False, True])
@pytest.mark.parametrize("kind", ["topk", "batchtopk", "jumprelu", "relu"])
def test_undo_gives_the_same_codes_and_reconstructions_of_plain_activations(
    kind, pre_bias
):
    metric = wide_metric()
    sae = tiny.sae_of_kind(
        kind, apply_b_dec_to_input=pre_bias, hook_name=metric.hook_name
    )
    sae.activation_mean = torch.randn(32, dtype=torch.float64)
    sae.activation_scale = torch.tensor(0.7, dtype=torch.float64)
    x = 10 + torch.randn(50, 32, dtype=torch.float64)
    y = metric.apply(x)

    plain = metric.undo(sae)
    code = plain.encode(x)
    expected = sae.encode(y)
    assert torch.equal(code.indices, expected.indices)
    assert torch.allclose(code.values, expected.values)
    assert torch.allclose(metric.apply(plain.decode(code)), sae.decode(expected))
    assert plain.config == sae.config


def test_activations_keep_their_dtype_and_facts():
    activations = Activations(values(7).bfloat16(), SITE, n_special=3, n_outliers=1)
    new = METRIC.apply(activations)
    assert new.values.dtype == torch.bfloat16
    assert (new.hook_name, new.n_special, new.n_outliers) == (SITE, 3, 1)


def test_rejects_activations_and_saes_of_other_sites_and_widths():
    metric = wide_metric()
    other = "blocks.0.hook_resid_post"
    with pytest.raises(sle.InvalidArgument, match="activations are of blocks.0"):
        metric.apply(Activations(torch.randn(3, 32), other))
    with pytest.raises(sle.InvalidArgument, match="the SAE is of blocks.0"):
        metric.undo(tiny.sae(hook_name=other))
    with pytest.raises(sle.ShapeMismatch, match="width 32"):
        metric.apply(torch.randn(3, 31))
    with pytest.raises(sle.ShapeMismatch, match="activations of width 16"):
        metric.undo(tiny.sae(d_model=16, hook_name=metric.hook_name))
    options = {"d_out": 32, "hook_name_out": metric.hook_name}
    with pytest.raises(sle.InvalidArgument, match="move that into b_enc first"):
        metric.undo(tiny.sae(apply_b_dec_to_input=True, **options))
    with pytest.raises(sle.InvalidArgument, match="token_norm='layer_norm'"):
        metric.undo(tiny.sae(token_norm="layer_norm", hook_name=metric.hook_name))


@pytest.mark.parametrize("matrix", [-torch.eye(2), torch.tensor([[1.0, 1], [0, 1]])])
def test_rejects_a_matrix_that_is_not_a_metric(matrix):
    with pytest.raises(sle.InvalidArgument, match="symmetric and positive definite"):
        ErrorMetric(matrix.double(), torch.zeros(2).double(), SITE)
