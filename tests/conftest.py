"""Fixtures: one small model per run, and the real model where a test asks for it."""

import importlib.util
import os

import pytest
import tiny
import torch

# These run in an environment of their own: make test-saelens.
collect_ignore = [] if importlib.util.find_spec("sae_lens") else ["saelens"]
# These in a process of their own: kernels/test_gpu_interpreted.py.
collect_ignore += ["gpu"]

os.environ.setdefault("HF_HUB_OFFLINE", "1")
# Progress bars of other libraries only clutter a test log.
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")


def pytest_collection_modifyitems(items):
    """Workers get whole files; all that needs the real model is one worker's, so that it is loaded, and prepared, once."""
    for item in items:
        is_of_a_notebook = (
            item.path.stem == "test_notebooks" and "rebased" not in item.name
        )
        needs_model = "gemma3" in getattr(item, "fixturenames", ()) or is_of_a_notebook
        item.add_marker(
            pytest.mark.xdist_group("real model" if needs_model else str(item.path))
        )


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def gemma2():
    """A tiny random Gemma-2 on a TransformerBridge. Shared: a test that leaves it changed breaks its neighbours, on purpose."""
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
    """60,000 activations after its block 9; collected on first use."""
    from sae_lens_ext.demo.sae import demo_activations

    return demo_activations(gemma3, progress=False)


@pytest.fixture
def without_shape_checks():
    """What a user has: annotations are not checked at run time, so a bad shape reaches our own messages."""
    import jaxtyping

    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)
