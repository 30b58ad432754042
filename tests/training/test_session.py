"""Runs in folders: what they leave, how they go on, what they refuse."""

import dataclasses
import json
import os
import shutil
import signal

import pytest
import small_training
import torch
from full_disk import full_disk
from safetensors.torch import load_file
from small_training import (
    CONFIG,
    N_TOKENS,
    RUN,
    SITE,
    SITE_OUT,
    MemoryStream,
    metrics,
    run,
    same_weights,
    stopped,
    transcoder_values,
)

import sae_lens_ext as sle
from sae_lens_ext.training import Activations, RunConfig, TrainConfig

HELD_OUT = small_training.values(200, seed=1)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The folder and the result of a run that was not disturbed."""
    folder = tmp_path_factory.mktemp("runs") / "whole"
    return folder, run(folder, held_out=HELD_OUT)


def test_a_run_leaves_an_sae_metrics_and_its_last_checkpoints(whole):
    folder, trained = whole
    assert sorted(path.name for path in folder.iterdir()) == [
        "best",
        "checkpoints",
        "metrics.jsonl",
        "result.json",
        "run.json",
        "sae",
    ]
    names = sorted(path.name for path in (folder / "checkpoints").iterdir())
    assert names == ["step-00000018", "step-00000020"]

    saved = sle.SAE.from_pretrained(folder / "sae")
    assert torch.equal(saved.W_dec, trained.sae.W_dec)
    assert saved.config.hook_name == SITE
    assert saved.config.model_name == "tiny"
    assert saved.config.exclude_special_tokens


def test_metrics_have_every_due_step_once(whole):
    folder, trained = whole
    records = metrics(folder)
    assert [record["step"] for record in records] == list(range(2, 21, 2))
    evaluated = [record["step"] for record in records if "held_out_fvu/k=4" in record]
    assert evaluated == [4, 8, 12, 16, 20]
    last = records[-1]
    assert last["loss"] == pytest.approx(sum(trained.losses[-2:]) / 2)
    assert last["tokens"] == last["tokens_given"] == N_TOKENS
    assert (last["k"], last["tokens_special"]) == (4, 3)
    assert last["held_out_fvu/k=4"] == trained.held_out_fvu[4]
    assert 0 < last["fvu/k=4"] < last["fvu/k=1"]


def test_a_folder_changes_no_bit_of_the_training(whole):
    _, trained = whole
    in_memory = run(held_out=HELD_OUT)
    assert same_weights(in_memory.sae, trained.sae)
    assert in_memory.losses == trained.losses
    assert in_memory.held_out_fvu == trained.held_out_fvu


def test_a_finished_run_returns_its_result_without_training(whole):
    folder, trained = whole
    again = run(folder, stream=stopped(0))
    assert same_weights(again.sae, trained.sae)
    assert again.losses == trained.losses
    assert again.dead == trained.dead
    assert again.held_out_fvu == trained.held_out_fvu


def test_a_finished_run_is_not_the_result_of_another_stream(tmp_path):
    def activations(seed):
        return Activations(small_training.values(seed=seed), small_training.SITE, 0)

    first = run(tmp_path, stream=activations(0))
    assert same_weights(run(tmp_path, stream=activations(0)).sae, first.sae)
    values = small_training.values()
    others = {
        "other numbers": small_training.values(seed=1),
        "shifted": values + 7,
        "negative": -values,
        "in another order": values.flip(0),
        "of other coordinates": values.flip(1),
    }
    for other in others.values():
        with pytest.raises(
            sle.FormatError, match=f"run in {tmp_path} is of other acti"
        ):
            run(tmp_path, stream=Activations(other, SITE))
    assert same_weights(run(tmp_path, stream=activations(0)).sae, first.sae)

    # Its documentation says that a finished run needs none.
    shutil.rmtree(tmp_path / "checkpoints")
    for other in others.values():
        with pytest.raises(
            sle.FormatError, match=f"run in {tmp_path} is of other acti"
        ):
            run(tmp_path, stream=Activations(other, SITE))
    run(tmp_path, stream=activations(0))


@pytest.mark.parametrize("is_finished", [False, True])
def test_a_stream_that_compares_nothing_is_known_by_its_constants(
    tmp_path, is_finished
):
    if is_finished:
        run(tmp_path)
    else:
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path, stream=stopped(32 * 9))
    other = MemoryStream({SITE: small_training.values() + 3}, n_tokens=N_TOKENS)
    with pytest.raises(sle.FormatError, match="had another mean or scale"):
        run(tmp_path, stream=other)
    if is_finished:
        shutil.rmtree(tmp_path / "checkpoints")
        with pytest.raises(sle.FormatError, match="had another mean or scale"):
            run(tmp_path, stream=other)
    run(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda path: path.write_text("{}"),
            "has no dead, tokens_per_second, held_out",
        ),
        (lambda path: path.write_text("["), "result.json is damaged"),
        (
            lambda path: [
                shutil.rmtree(path.parent / name) for name in ("sae", "checkpoints")
            ],
            "is finished, and its SAE is not there any more",
        ),
    ],
)
def test_a_damaged_result_says_what_to_do(tmp_path, change, message):
    run(tmp_path)
    change(tmp_path / "result.json")
    with pytest.raises(sle.FormatError, match=message):
        run(tmp_path)


@pytest.mark.parametrize("change", ["best_k", "held_out"])
def test_the_best_is_that_of_the_present_k_and_held_out_tokens(tmp_path, change):
    others = {
        "best_k": {"run": dataclasses.replace(RUN, best_k=1)},
        "held_out": {"held_out": small_training.values(200, seed=9) * 3},
    }
    options = {"held_out": HELD_OUT, **others[change]}
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, stream=stopped(32 * 9), held_out=HELD_OUT)
    run(tmp_path, **options)
    best, step = json.loads((tmp_path / "result.json").read_text())["best"]
    rows = [row for row in metrics(tmp_path) if row["step"] > 9]
    name = "held_out_fvu/k=1" if change == "best_k" else "held_out_fvu/k=4"
    errors = {row["step"]: row[name] for row in rows if name in row}
    # Those of the steps before are of another k, or of other tokens.
    assert (best, step) == min((error, step) for step, error in errors.items())


def test_a_finished_run_without_checkpoints_has_its_sae(tmp_path):
    trained = run(tmp_path)
    for path in (tmp_path / "checkpoints").rglob("*"):
        if path.is_file():
            path.unlink()
    for path in (tmp_path / "checkpoints").iterdir():
        path.rmdir()
    again = run(tmp_path, stream=stopped(0))
    assert again.losses == []
    assert again.dead == trained.dead
    x = small_training.values()
    torch.testing.assert_close(again.sae(x), trained.sae(x))
    torch.testing.assert_close(again.sae.W_enc, trained.sae.W_enc)


@pytest.mark.parametrize("tokens", [0, 32, 32 * 3, 32 * 10, 32 * 19])
def test_an_interrupted_run_ends_with_the_same_bits(whole, tmp_path, tokens):
    folder, trained = whole
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, stream=stopped(tokens), held_out=HELD_OUT)
    # Of the process, which a resumed run must not depend on.
    torch.rand(5)
    resumed = run(tmp_path, held_out=HELD_OUT)
    assert same_weights(resumed.sae, trained.sae)
    assert resumed.losses == trained.losses
    assert metrics(tmp_path) == metrics(folder)
    best = [sle.SAE.from_pretrained(each / "best") for each in (tmp_path, folder)]
    assert same_weights(*best)


def test_activations_in_memory_can_be_gone_on_with(tmp_path, monkeypatch):
    activations = Activations(small_training.values(100), SITE)
    config = TrainConfig(d_sae=32, k=4, batch_size=30, epochs=5, revive_every=3)
    expected = run(stream=activations, config=config)

    def interrupted(pair):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(
            "sae_lens_ext.training.trainer.Trainer._revives_after",
            lambda self, step: interrupted(None) if step == 11 else False,
        )
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path, stream=activations, config=config)
    resumed = run(tmp_path, stream=activations, config=config)
    # 500 tokens, 30 at a time.
    assert len(resumed.losses) == 17
    assert same_weights(resumed.sae, expected.sae)

    other = Activations(small_training.values(100, seed=1), SITE)
    (tmp_path / "result.json").unlink()
    with pytest.raises(sle.FormatError, match="is of another stream: values"):
        run(tmp_path, stream=other, config=config)


def test_the_first_ctrl_c_leaves_a_checkpoint_of_that_step(whole, tmp_path, capsys):
    folder, trained = whole

    class Interrupting(MemoryStream):
        def next_batch(self, n_tokens):
            if self.given == 32 * 7:
                signal.raise_signal(signal.SIGINT)
            return super().next_batch(n_tokens)

    # A shell makes jobs in the background ignore it.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    with pytest.raises(KeyboardInterrupt):
        run(
            tmp_path,
            stream=Interrupting(n_tokens=N_TOKENS),
            held_out=HELD_OUT,
            progress=True,
        )
    signal.signal(signal.SIGINT, before)
    output = capsys.readouterr()
    assert "interrupted; the same call goes on after step 8," in output.out + output.err
    assert (tmp_path / "checkpoints" / "step-00000008").is_dir()
    assert not (tmp_path / "result.json").exists()
    resumed = run(tmp_path, held_out=HELD_OUT)
    assert same_weights(resumed.sae, trained.sae)
    assert metrics(tmp_path) == metrics(folder)


def test_rejects_another_config_with_the_differences(whole):
    folder, _ = whole
    other = dataclasses.replace(CONFIG, lr=1e-3, k=2)
    with pytest.raises(
        sle.InvalidArgument,
        match="holds another run: k is 4 there and 2 here; lr is 0.003 there and ",
    ):
        run(folder, other)
    # How it is saved and logged may change.
    run(folder, run=RunConfig(log_every=1))


def test_best_is_the_sae_with_the_least_held_out_error(tmp_path):
    # The rate rises to where nothing is learned any more.
    config = TrainConfig(d_sae=32, k=4, batch_size=32, lr=0.3, warmup=1.0, decay=0.0)
    run_config = RunConfig(eval_every=1, log_every=1, best_k=2)
    run(tmp_path, config, run=run_config, held_out=HELD_OUT)
    errors = [record["held_out_fvu/k=2"] for record in metrics(tmp_path)]
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["best"] == [min(errors), errors.index(min(errors)) + 1]
    assert min(errors) < errors[-1]

    best = sle.SAE.from_pretrained(tmp_path / "best")
    with torch.no_grad():
        error = (HELD_OUT - best(HELD_OUT, 2)).square().sum()
    variance = (HELD_OUT - HELD_OUT.mean(0)).square().sum()
    assert (error / variance).item() == pytest.approx(min(errors), rel=1e-4)


def test_trains_a_transcoder_and_folds_it(tmp_path):
    tables = transcoder_values()
    config = TrainConfig(
        d_sae=64,
        k=4,
        batch_size=8,
        lr=1e-2,
        hook_name=SITE,
        hook_name_out=SITE_OUT,
    )
    stream = MemoryStream(tables, n_tokens=N_TOKENS)
    rarely = RunConfig(checkpoint_every=50, eval_every=50)
    trained = run(tmp_path, config, stream=stream, held_out=tables, run=rarely)
    assert trained.sae.config.d_out == 10
    assert trained.sae.config.hook_name_out == SITE_OUT
    assert not trained.sae.is_normalized()

    with torch.no_grad():
        error = (tables[SITE_OUT] - trained.sae(tables[SITE])).square().sum()
    variance = (tables[SITE_OUT] - tables[SITE_OUT].mean(0)).square().sum()
    assert (error / variance).item() == pytest.approx(trained.held_out_fvu[4], rel=1e-3)
    assert trained.held_out_fvu[4] < 0.9
    again = run(tmp_path, config, stream=MemoryStream(tables, n_tokens=N_TOKENS))
    assert same_weights(again.sae, trained.sae)


def test_chooses_the_site_of_a_stream():
    tables = transcoder_values()
    with pytest.raises(sle.InvalidArgument, match="hook_name must name the site"):
        run(stream=MemoryStream(tables, n_tokens=N_TOKENS))
    with pytest.raises(sle.InvalidArgument, match="no activations of nowhere; it has"):
        run(config=dataclasses.replace(CONFIG, hook_name="nowhere"))
    config = dataclasses.replace(CONFIG, hook_name_out=SITE_OUT)
    stream = MemoryStream(tables, n_tokens=N_TOKENS)
    assert run(config=config, stream=stream).sae.config.hook_name == SITE


def test_needs_a_length():
    with pytest.raises(
        sle.InvalidArgument, match="n_tokens must say how long to train"
    ):
        run(stream=MemoryStream())
    config = dataclasses.replace(CONFIG, n_tokens=6)
    with pytest.raises(sle.InvalidArgument, match="at most the 5 tokens .*; got 6"):
        run(config=config, stream=MemoryStream(n_tokens=5))
    with pytest.raises(sle.InvalidArgument, match="epochs=2 is for activations in mem"):
        run(config=dataclasses.replace(CONFIG, epochs=2))
    with pytest.raises(sle.InvalidArgument, match="the stream is empty"):
        run(stream=MemoryStream(n_tokens=0))

    config = dataclasses.replace(CONFIG, n_tokens=100)
    assert len(run(config=config, stream=MemoryStream()).losses) == 4


def test_a_stream_that_ends_early_is_warned_of_and_saved(tmp_path):
    short = {"n_tokens": N_TOKENS, "ends_after": 330}
    with pytest.warns(UserWarning, match="the stream ended after 330 of 640 tokens"):
        trained = run(tmp_path, stream=MemoryStream(**short))
    assert len(trained.losses) == 11
    assert metrics(tmp_path)[-1]["step"] == 11
    assert (tmp_path / "sae").is_dir()
    assert same_weights(run(tmp_path).sae, trained.sae)


def test_a_stream_without_tokens_left_is_refused():
    stream = MemoryStream(n_tokens=N_TOKENS)
    run(stream=stream)
    with pytest.raises(sle.InvalidArgument, match="read to its end before; give a new"):
        run(stream=stream)


def test_a_loss_of_nan_keeps_the_last_good_checkpoint(tmp_path):
    tables = {SITE: small_training.values()}
    stream = MemoryStream(tables, n_tokens=N_TOKENS)
    statistics = stream.statistics()
    stream.statistics = lambda: statistics
    tables[SITE][300:] = float("nan")
    with pytest.raises(
        sle.NonFinite,
        match=r"the stream gave NaN or infinity in the batch of step \d+; leave such "
        r"tokens out. The checkpoint of step \d+ is kept in",
    ):
        run(tmp_path, stream=stream)
    newest = sorted((tmp_path / "checkpoints").iterdir())[-1]
    weights = load_file(newest / "weights.safetensors")
    assert all(torch.isfinite(tensor).all() for tensor in weights.values())


def test_weights_of_nan_are_never_saved(tmp_path):
    class Spoiling(type(CONFIG.objective)):
        def after_step(self, sae, code):
            with torch.no_grad():
                sae.b_enc[0] = float("nan")

    config = dataclasses.replace(CONFIG, objective=Spoiling())
    run_config = dataclasses.replace(RUN, checkpoint_every=1, log_every=100)
    with pytest.raises(
        sle.NonFinite, match="b_enc became NaN or infinite by step 1 of"
    ):
        run(tmp_path, config, run=run_config)
    assert not (tmp_path / "checkpoints").exists()


def test_a_full_disk_keeps_the_last_checkpoint(whole, tmp_path):
    folder, trained = whole
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, stream=stopped(32 * 9), held_out=HELD_OUT)
    with (
        full_disk(3000),
        pytest.raises(
            OSError, match="the checkpoint of step 9 is kept there: make room"
        ),
    ):
        run(tmp_path, held_out=HELD_OUT)
    resumed = run(tmp_path, held_out=HELD_OUT)
    assert same_weights(resumed.sae, trained.sae)
    assert metrics(tmp_path) == metrics(folder)


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root may write")
def test_an_unwritable_folder_is_refused_before_training(tmp_path):
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(sle.InvalidArgument, match="cannot be written to"):
            run(tmp_path / "run")
    finally:
        tmp_path.chmod(0o700)


def test_tells_the_plan_and_the_time_before_it_takes_long(tmp_path, capsys):
    run(tmp_path, progress=True)
    output = capsys.readouterr()
    text = output.out + output.err
    assert "812 parameters, 640 tokens in 20 steps" in text
    assert "disk in" in text
    assert "to go, at" in text
    assert "FVU@4=" in text
    run(tmp_path / "other", progress=False)
    assert capsys.readouterr() == ("", "")


def test_saves_by_the_clock_too(tmp_path):
    by_the_clock = RunConfig(checkpoint_minutes=1e-9, keep_last=100)
    run(tmp_path, run=by_the_clock)
    assert len(list((tmp_path / "checkpoints").iterdir())) == 20
