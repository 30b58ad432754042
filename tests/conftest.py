"""Fixtures: one small model per run, and the real model where a test asks for it."""

import importlib.util
import os

import pytest
import shape_checks
import tiny
import torch

shape_checks.install()

# Tests in gpu run in a process of their own: kernels/test_gpu_interpreted.py.
collect_ignore = ["gpu"]
# Tests in saelens run in an environment of their own: make test-saelens.
if not importlib.util.find_spec("sae_lens"):
    collect_ignore.append("saelens")

os.environ.setdefault("HF_HUB_OFFLINE", "1")
# Progress bars of other libraries only clutter a test log.
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")


# Files with a test that takes a minute or more.
LONG = ("test_gpu_interpreted", "test_shared_runs")


# Before xdist's own hook, which reads the groups.
@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Give workers whole files, and one worker all tests that need the real model.

    Those come first, because the model is prepared, and activations are collected,
    once; then what takes long, so that no worker waits for another at the end.
    Notebooks, each on a worker that is free, find the model in the cache.
    """

    def turn(item):
        if "gemma3" in getattr(item, "fixturenames", ()):
            return 0
        if item.path.stem in LONG:
            return 1
        return 2 if item.path.stem == "test_notebooks" else 3

    items.sort(key=turn)
    for item in items:
        group = str(item.path)
        if turn(item) == 0:
            group = "real model"
        elif turn(item) == 2:
            group = item.name.partition("[")[2] or group
        item.add_marker(pytest.mark.xdist_group(group))


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def gemma2():
    """A tiny random Gemma-2 on a TransformerBridge.

    Shared: a test that leaves it changed breaks its neighbours, on purpose.
    """
    return tiny.bridge("gemma2")


@pytest.fixture(scope="session")
def gpt2():
    """A tiny random GPT-2 on a TransformerBridge."""
    return tiny.bridge("gpt2")


@pytest.fixture(params=["gemma2", "gpt2"])
def model(request):
    """Either tiny model on a TransformerBridge."""
    return request.getfixturevalue(request.param)


@pytest.fixture(scope="session")
def gemma3():
    """The bundled real model; prepared on first use."""
    import sae_lens_ext as sle

    return sle.load_bundled(progress=False)


@pytest.fixture(scope="session")
def gemma3_activations(gemma3):
    """36,000 activations after its block 9, as a notebook takes; kept in the cache."""
    from sae_lens_ext.demo.sae import demo_activations

    return demo_activations(gemma3, n_rows=284, progress=False)


@pytest.fixture
def without_shape_checks():
    """Annotations are not checked at run time, as for a user.

    So a wrong shape or type reaches the package's own messages.
    """
    import jaxtyping

    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)
