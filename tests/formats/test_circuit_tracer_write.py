"""What is written for circuit-tracer: features of zeros, sites, and what is refused."""

import dataclasses

import pytest
import torch
from safetensors.torch import load_file

import sae_lens_ext as sle
from sae_lens_ext.formats import SAECheckpoint, read_sae, write_circuit_tracer

D_MODEL = 6
D_SAE = 20


def checkpoint(kind="topk", layer=2, **changes):
    generator = torch.Generator().manual_seed(layer)
    shapes = {
        "W_enc": (D_MODEL, D_SAE),
        "b_enc": (D_SAE,),
        "W_dec": (D_SAE, D_MODEL),
        "b_dec": (D_MODEL,),
    }
    if kind in ("jumprelu", "batchtopk"):
        shapes["threshold"] = (D_SAE,)
    made = SAECheckpoint(
        d_model=D_MODEL,
        d_sae=D_SAE,
        kind=kind,
        k=5 if kind == "topk" else None,
        apply_b_dec_to_input=False,
        tensors={
            name: torch.randn(shape, generator=generator)
            for name, shape in shapes.items()
        },
        d_out=D_MODEL,
        metadata={
            "hook_name": f"blocks.{layer}.mlp.hook_in",
            "hook_name_out": f"blocks.{layer}.hook_mlp_out",
            "model_name": "google/gemma-3-270m",
        },
    )
    return dataclasses.replace(made, **changes)


def with_skip(made):
    tensors = {**made.tensors, "W_skip": torch.randn(D_MODEL, D_MODEL)}
    return dataclasses.replace(made, tensors=tensors)


def test_the_config_names_sites_activation_and_k(tmp_path):
    write_circuit_tracer(tmp_path, [checkpoint()], k=3)
    assert (tmp_path / "config.yaml").read_text() == (
        'model_name: "google/gemma-3-270m"\n'
        'model_kind: "transcoder_set"\n'
        'feature_input_hook: "mlp.hook_in"\n'
        'feature_output_hook: "hook_mlp_out"\n'
        'activation: "topk"\n'
        "k: 3\n"
        "# Any k up to 5 may be written here.\n"
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "config.yaml",
        "layer_2.safetensors",
    ]


@pytest.mark.parametrize("k", [1, 3, 5])
def test_topk_without_relu_meets_no_negative_activation(tmp_path, k):
    """The k largest pre-activations, as circuit-tracer keeps them."""
    made = with_skip(checkpoint())
    written = load_file(
        write_circuit_tracer(tmp_path, [made], k) / "layer_2.safetensors"
    )
    # Of half of the tokens all pre-activations are negative, of some a few are not.
    x = torch.randn(40, D_MODEL)
    ours = made.tensors
    pre = x @ ours["W_enc"] + ours["b_enc"]
    shift = torch.linspace(0, 8, 40)[:, None]
    theirs = x @ written["W_enc"].T + written["b_enc"]
    theirs[:, :D_SAE] -= shift

    kept = torch.zeros_like(theirs).scatter(1, theirs.topk(k, dim=1).indices, 1)
    acts = theirs * kept
    expected = (pre - shift).relu()
    in_top = torch.zeros_like(expected).scatter(1, expected.topk(k, dim=1).indices, 1)
    torch.testing.assert_close(acts[:, :D_SAE], expected * in_top)
    assert not acts[:, D_SAE:].any()
    assert (acts[:, :D_SAE] > 0).sum(1).min() == 0

    recons = acts @ written["W_dec"] + written["b_dec"] + x @ written["W_skip"].T
    expected_recons = (expected * in_top) @ ours["W_dec"] + ours["b_dec"]
    torch.testing.assert_close(recons, expected_recons + x @ ours["W_skip"])


@pytest.mark.parametrize("kind", ["topk", "relu", "jumprelu"])
def test_what_is_written_is_read_back(tmp_path, kind):
    made = with_skip(checkpoint(kind))
    again = read_sae(write_circuit_tracer(tmp_path, [made]))
    assert (again.kind, again.k, again.d_out) == (kind, made.k, D_MODEL)
    for name, tensor in made.tensors.items():
        # A threshold below 0 and one of 0 are the same.
        expected = tensor.clamp_min(0) if name == "threshold" else tensor
        assert torch.equal(again.tensors[name], expected), name
    assert again.metadata["hook_name"] == "blocks.2.mlp.hook_in"
    assert again.metadata["hook_name_out"] == "blocks.2.hook_mlp_out"


def test_a_bias_before_the_encoder_moves_into_the_encoders(tmp_path):
    made = checkpoint("relu", apply_b_dec_to_input=True)
    written = load_file(write_circuit_tracer(tmp_path, [made]) / "layer_2.safetensors")
    x = torch.randn(9, D_MODEL)
    expected = (x - made.tensors["b_dec"]) @ made.tensors["W_enc"]
    torch.testing.assert_close(
        x @ written["W_enc"].T + written["b_enc"], expected + made.tensors["b_enc"]
    )


def test_a_set_has_a_file_per_layer_and_replaces_its_own(tmp_path):
    for k in (2, 4):
        write_circuit_tracer(tmp_path, [checkpoint(layer=1), checkpoint(layer=0)], k)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["config.yaml", "layer_0.safetensors", "layer_1.safetensors"]
    assert "k: 4\n" in (tmp_path / "config.yaml").read_text()
    with pytest.raises(sle.InvalidArgument, match="holds layer_1.*, of another set"):
        write_circuit_tracer(tmp_path, [checkpoint(layer=0)])


def other_metadata(**changes):
    return {"metadata": {**checkpoint().metadata, **changes}}


@pytest.mark.parametrize("kind", ["topk", "relu", "jumprelu"])
def test_layers_without_a_transcoder_get_one_of_zeros(tmp_path, kind):
    made = with_skip(checkpoint(kind))
    alone = write_circuit_tracer(tmp_path / "alone", [made])
    folder = write_circuit_tracer(tmp_path / "set", [made], n_layers=4)
    expected = load_file(alone / "layer_2.safetensors")
    for layer in range(4):
        tensors = load_file(folder / f"layer_{layer}.safetensors")
        assert tensors.keys() == expected.keys()
        for name, tensor in tensors.items():
            assert tensor.shape == expected[name].shape
            assert torch.equal(tensor, expected[name] * (layer == 2)), (layer, name)

    assert not (folder / "layer_4.safetensors").exists()
    again = read_sae(folder / "layer_2.safetensors")
    assert torch.equal(again.tensors["W_enc"], made.tensors["W_enc"])


def test_a_layer_of_zeros_is_not_read_as_a_topk_transcoder(tmp_path):
    folder = write_circuit_tracer(tmp_path, [checkpoint()], n_layers=3)
    with pytest.raises(sle.FormatError, match="zeros alone: it stands in for a layer"):
        read_sae(folder / "layer_0.safetensors")


@pytest.mark.parametrize(
    ("here", "there"),
    [
        # What TransformerLens calls hook_mlp_in is the stream before the norm.
        ("hook_mlp_in", "mlp.hook_in"),
        ("ln2.hook_in", "hook_resid_mid"),
        ("hook_in", "hook_resid_pre"),
        ("ln2.hook_normalized", "ln2.hook_normalized"),
    ],
)
def test_sites_have_the_names_that_circuit_tracer_knows(tmp_path, here, there):
    made = checkpoint(**other_metadata(hook_name=f"blocks.2.{here}"))
    folder = write_circuit_tracer(tmp_path, [made])
    config = (folder / "config.yaml").read_text()
    assert f'feature_input_hook: "{there}"\n' in config
    assert read_sae(folder).metadata["hook_name"] == f"blocks.2.{there}"


@pytest.mark.parametrize(
    ("transcoders", "k", "message"),
    [
        ([], None, "at least one transcoder; got none"),
        ([{"d_out": None}], None, "reads transcoders; got an autoencoder"),
        ([{"d_out": 7}], None, "the width they read; got d_model=6, d_out=7"),
        (
            [other_metadata(hook_name_out="blocks.3.hook_mlp_out")],
            None,
            "must be sites of one block.*got 'blocks.2.mlp.hook_in' and 'blocks.3",
        ),
        ([other_metadata(hook_name=None)], None, "got None and 'blocks.2.hook_mlp"),
        ([{}, {}], None, "one transcoder per layer; got several for layer 2"),
        ([{}, {"layer": 1, "k": 4}], None, "the same largest_k; got 5, 4"),
        (
            [{}, {"layer": 1, "kind": "relu"}],
            None,
            "same activation; got topk, relu",
        ),
        ([{}], 6, "k must be an integer from 1 to the largest trained k=5; got 6"),
        ([{"kind": "relu"}], 6, "k=6 is for transcoders of kind topk"),
    ],
)
def test_rejects_what_circuit_tracer_cannot_compute(tmp_path, transcoders, k, message):
    made = [checkpoint(**changes) for changes in transcoders]
    with pytest.raises((sle.InvalidArgument, sle.InvalidK), match=message):
        write_circuit_tracer(tmp_path / "set", made, k)
    assert not (tmp_path / "set").exists()


@pytest.mark.parametrize(
    ("n_layers", "message"),
    [
        (2, "n_layers=2 leaves out layer 2, which has a transcoder; give the number"),
        (0, "n_layers must be a positive integer; got 0"),
    ],
)
def test_rejects_an_impossible_number_of_layers(tmp_path, n_layers, message):
    with pytest.raises(sle.InvalidArgument, match=message):
        write_circuit_tracer(tmp_path / "set", [checkpoint()], n_layers=n_layers)
    assert not (tmp_path / "set").exists()


def test_rejects_nan(tmp_path):
    made = checkpoint()
    made.tensors["b_dec"][0] = torch.nan
    with pytest.raises(sle.NonFinite, match="the transcoder for layer_2"):
        write_circuit_tracer(tmp_path, [made])
    assert not list(tmp_path.iterdir())
