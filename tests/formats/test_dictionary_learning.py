"""dictionary_learning: what its config must say, and what is refused by name."""

import shutil

import checkpoints
import published_saes as saes
import pytest
import torch

import sae_lens_ext as sle
from sae_lens_ext.formats import read_sae

FIXTURES = checkpoints.FIXTURES / "dictionary_learning"


@pytest.fixture
def folder(tmp_path):
    """A folder of the library itself, and a way to change its config."""

    def copied(name, config=None, tensors=None, buffer=None):
        place = next((FIXTURES / name).rglob("ae.pt")).parent
        folder = tmp_path / name / place.parent.name / place.name
        shutil.copytree(place, folder, dirs_exist_ok=True)
        if config or buffer:
            path = folder / "config.json"
            written = saes.json.loads(path.read_text())
            written["trainer"] |= config or {}
            written["buffer"] |= buffer or {}
            saes.write(path, written)
        if tensors:
            weights = torch.load(folder / "ae.pt") | tensors
            weights = {key: value for key, value in weights.items() if value is not ...}
            torch.save(weights, folder / "ae.pt")
        return folder

    return copied


@pytest.mark.parametrize(
    ("name", "kind", "k"),
    [
        ("relu", "relu", None),
        ("relu_april", "relu", None),
        ("topk", "topk", 4),
        ("batchtopk", "batchtopk", None),
        ("matryoshka", "batchtopk", None),
        ("jumprelu", "jumprelu", None),
        ("gated", "jumprelu", None),
    ],
)
def test_a_class_is_a_kind(folder, name, kind, k):
    checkpoint = read_sae(folder(name))
    assert (checkpoint.kind, checkpoint.k) == (kind, k)
    assert checkpoint.apply_b_dec_to_input == (name not in ("relu_april", "jumprelu"))
    assert checkpoint.metadata["model_name"] == "EleutherAI/pythia-70m-deduped"
    assert checkpoint.metadata["hook_name"] == "blocks.3.hook_resid_post"
    assert checkpoint.metadata.get("average_k") == (4 if kind == "batchtopk" else None)


@pytest.mark.parametrize(
    ("config", "buffer", "hook_name"),
    [
        ({"submodule_name": None}, {}, "blocks.3.hook_resid_post"),
        ({"submodule_name": "resid_pre"}, {}, "blocks.3.hook_resid_pre"),
        ({"submodule_name": "mlp_out_layer_3"}, {}, None),
        ({"layer": None}, {}, None),
        ({"layer": [3, 4]}, {}, None),
        ({}, {"io": "in"}, None),
    ],
)
def test_a_site_that_is_not_certain_is_left_to_the_user(
    folder, config, buffer, hook_name
):
    checkpoint = read_sae(folder("topk", config, buffer=buffer))
    assert checkpoint.metadata.get("hook_name") == hook_name


def test_activations_without_bos_are_remembered(folder):
    checkpoint = read_sae(folder("topk", buffer={"remove_bos": True}))
    assert checkpoint.metadata["exclude_special_tokens"] is True
    assert "exclude_special_tokens" not in read_sae(folder("relu")).metadata


def test_a_file_without_k_is_of_an_older_release(folder):
    checkpoint = read_sae(folder("topk", tensors={"k": ..., "threshold": ...}))
    assert checkpoint.k == 4


@pytest.mark.parametrize(
    ("name", "config", "tensors", "message"),
    [
        (
            "topk",
            {"dict_class": "CrossCoder"},
            {},
            "dict_class 'CrossCoder'; this reader",
        ),
        ("topk", {"dict_class": ["AutoEncoder"]}, {}, "describes dict_class"),
        (
            "topk",
            {"k": 5},
            {},
            "trainer.k is 5, and k in ae.pt is 4; they must be equal",
        ),
        ("topk", {"k": None}, {}, "k must be a positive integer; it is None"),
        ("topk", {"k": "4"}, {}, "trainer.k must be a positive integer; it is '4'"),
        ("topk", {}, {"b_dec": ...}, "ae.pt must hold exactly b_dec, decoder.weight"),
        ("relu", {"dict_class": "AutoEncoderTopK", "k": 4}, {}, "must hold exactly"),
        (
            "gated",
            {},
            {"r_mag": torch.zeros(3)},
            r"r_mag must be \[32\], by the biases",
        ),
        (
            "gated",
            {},
            {"encoder.weight": torch.zeros(3, 3)},
            r"encoder.weight must be \[32, 8\], by the biases; it is \[3, 3\]",
        ),
        ("topk", {}, {"encoder.weight": torch.zeros(3)}, "encoder.weight must be"),
        ("batchtopk", {}, {"threshold": torch.zeros(3)}, r"threshold must be \[32\]"),
        ("batchtopk", {}, {"threshold": torch.tensor(1)}, r"threshold must be \[32\]"),
    ],
)
def test_rejects_other_classes_and_files(folder, name, config, tensors, message):
    with pytest.raises(sle.FormatError, match=message):
        read_sae(folder(name, config, tensors))


def test_rejects_a_config_of_something_else(tmp_path):
    saes.write(tmp_path / "ae.pt", {"bias": torch.zeros(3)})
    saes.write(tmp_path / "config.json", {"trainer": {}})
    with pytest.raises(sle.FormatError, match="lacks trainer.dict_class"):
        read_sae(tmp_path)
