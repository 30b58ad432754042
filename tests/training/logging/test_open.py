"""Metrics reach the packages that are asked for."""

import sys
import types

import pytest
import small_training

import sae_lens_ext as sle
from sae_lens_ext.training import RunConfig
from sae_lens_ext.training.logging import LoggedRun, open_loggers

METRICS = {"step": 4, "loss": 0.5}


class Calls(list):
    """Stands for any object of a package: remembers the calls of its methods."""

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)

        def call(*arguments, **options):
            self.append((name, arguments, options))
            return self

        return call


def install(monkeypatch, *names):
    """Modules of these names, whose functions return one ``Calls``."""
    calls = Calls()
    for name in names:
        module = types.ModuleType(name)
        module.init = calls.init
        module.SummaryWriter = calls.SummaryWriter
        monkeypatch.setitem(sys.modules, name, module)
    return calls


def logged(name, folder):
    run = LoggedRun(folder, "saes", {"config": {"lr": 1.0}}, step=3)
    (logger,) = open_loggers([name], run)
    logger.log(4, METRICS)
    logger.close()


def test_tensorboard(monkeypatch, tmp_path):
    calls = install(monkeypatch, "tensorboard", "torch.utils.tensorboard")
    logged("tensorboard", tmp_path)
    options = {"log_dir": str(tmp_path / "tensorboard"), "purge_step": 4}
    assert calls == [
        ("SummaryWriter", (), options),
        ("add_scalar", ("step", 4, 4), {}),
        ("add_scalar", ("loss", 0.5, 4), {}),
        ("close", (), {}),
    ]


def test_weights_and_biases(monkeypatch, tmp_path):
    calls = install(monkeypatch, "wandb")
    logged("wandb", tmp_path)
    logged("wandb", tmp_path)
    (name, _, options), *rest = calls[:3]
    assert name == "init"
    assert options["project"] == "saes"
    assert options["resume"] == "allow"
    assert options["config"] == {"config": {"lr": 1.0}}
    assert rest == [("log", (METRICS,), {"step": 4}), ("finish", (), {})]
    # The same folder is the same run.
    assert calls[3][2]["id"] == options["id"]


def test_a_run_that_weights_and_biases_does_not_begin_is_an_error(
    monkeypatch, tmp_path
):
    def init(**_):
        raise module.Error("No API key configured.\nUse `wandb login`")

    module = types.ModuleType("wandb")
    module.Error = type("Error", (Exception,), {})
    module.init = init
    monkeypatch.setitem(sys.modules, "wandb", module)
    with pytest.raises(
        sle.InvalidArgument, match=r"key configured\. Use .* WANDB_MODE"
    ):
        logged("wandb", tmp_path)


def test_trackio(monkeypatch, tmp_path):
    calls = install(monkeypatch, "trackio")
    logged("trackio", tmp_path)
    assert [call[0] for call in calls] == ["init", "log", "finish"]
    assert calls[0][2]["name"] == tmp_path.name


@pytest.mark.parametrize("name", ["tensorboard", "wandb", "trackio"])
def test_a_missing_package_is_named(monkeypatch, tmp_path, name):
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(sle.MissingDependency, match=f"needs {name}, which is not"):
        logged(name, tmp_path)


def test_a_run_logs_what_its_file_says(monkeypatch, tmp_path):
    calls = install(monkeypatch, "trackio")
    run = RunConfig(log_every=5, log_to=["trackio"], project="p")
    small_training.run(tmp_path / "run", run=run)
    steps = [options["step"] for name, _, options in calls if name == "log"]
    lines = [line["step"] for line in small_training.metrics(tmp_path / "run")]
    assert steps == lines == [5, 10, 15, 20]
    assert calls[-1][0] == "finish"
