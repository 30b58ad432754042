"""circuit-tracer computes the same from the transcoders that this package writes."""

import pytest
import tiny
import torch

import sae_lens_ext as sle

peer = pytest.importorskip(
    "circuit_tracer.transcoder.single_layer_transcoder",
    reason="circuit-tracer is installed by make test-saelens alone",
)
D_SAE = 400
SITES = {
    "hook_name": "blocks.{}.mlp.hook_in",
    "hook_name_out": "blocks.{}.hook_mlp_out",
}


def transcoder(kind="topk", layer=0, **config):
    """One most of whose pre-activations are negative."""
    names = {key: name.format(layer) for key, name in SITES.items()}
    made = tiny.sae_of_kind(
        kind, d_model=32, d_sae=D_SAE, d_out=32, seed=layer, **names, **config
    )
    with torch.no_grad():
        made.b_enc -= 4
    return made.float()


def hierarchical(layer=0, **config):
    made = transcoder(layer=layer, **config)
    return sle.SAE.from_tensors(
        sle.SAEConfig(
            d_model=32,
            d_sae=D_SAE,
            d_out=32,
            k=64,
            **{key: name.format(layer) for key, name in SITES.items()},
            **config,
        ),
        **made.weights(),
    )


def loaded_set(folder, n_layers):
    paths = {i: str(folder / f"layer_{i}.safetensors") for i in range(n_layers)}
    return peer.load_transcoder_set(
        paths,
        scan="test",
        feature_input_hook="mlp.hook_in",
        feature_output_hook="hook_mlp_out",
        device=torch.device("cpu"),
    )


@pytest.mark.parametrize("skip", [False, True])
@pytest.mark.parametrize("k", [8, 64])
def test_a_hierarchical_transcoder_has_the_same_activations(tmp_path, k, skip):
    from circuit_tracer.transcoder.activation_functions import TopK

    ours = [hierarchical(layer, skip_connection=skip) for layer in range(2)]
    folder = sle.save_circuit_tracer(ours, tmp_path, k=k)
    theirs = loaded_set(folder, 2)
    x = torch.randn(2, 50, 32)
    for layer, made in enumerate(ours):
        # As circuit-tracer does itself after 0.5.0, by the config's activation and k.
        theirs[layer].activation_function = TopK(k)
        acts = theirs[layer].encode(x[layer])
        expected = made.encode(x[layer], k)
        # Some tokens have fewer positive pre-activations than k.
        assert k == 8 or (expected.l0() < k).any()
        torch.testing.assert_close(acts[:, :D_SAE], expected.dense(), rtol=0, atol=1e-4)
        assert not acts[:, D_SAE:].any()
        torch.testing.assert_close(
            theirs[layer](x[layer]), made(x[layer], k), rtol=0, atol=1e-4
        )

    parts = theirs.compute_attribution_components(x, zero_positions=slice(0, 0))
    n_active = sum(int(made.encode(x[i], k).l0().sum()) for i, made in enumerate(ours))
    assert parts["activation_matrix"]._nnz() == n_active


@pytest.mark.parametrize("kind", ["topk", "relu", "jumprelu"])
def test_nothing_is_active_in_layers_without_a_transcoder(tmp_path, kind):
    from circuit_tracer.transcoder.activation_functions import TopK

    ours = transcoder(kind, layer=1, skip_connection=True)
    theirs = loaded_set(sle.save_circuit_tracer(ours, tmp_path, n_layers=3), 3)
    if kind == "topk":
        for single in theirs:
            single.activation_function = TopK(ours.config.k)
    x = torch.randn(3, 50, 32)
    parts = theirs.compute_attribution_components(x, zero_positions=slice(0, 0))
    layers = parts["activation_matrix"].indices()[0]
    assert layers.unique().tolist() == [1]
    torch.testing.assert_close(parts["reconstruction"][1], ours(x[1]))
    assert not parts["reconstruction"][[0, 2]].any()


@pytest.mark.parametrize("kind", ["relu", "jumprelu", "batchtopk"])
def test_other_kinds_have_the_same_activations_as_loaded(tmp_path, kind):
    ours = transcoder(kind, skip_connection=True)
    theirs = loaded_set(sle.save_circuit_tracer(ours, tmp_path), 1)[0]
    x = torch.randn(50, 32)
    torch.testing.assert_close(
        theirs.encode(x), ours.encode(x).dense(), rtol=0, atol=1e-4
    )
    torch.testing.assert_close(theirs(x), ours(x), rtol=0, atol=1e-4)
