"""SAELens' own runner trains HierarchicalTopK, and the result loads on both sides."""

import datasets
import pytest
import sae_lens
import tiny
import torch
from sae_lens.saes.sae import TrainStepInput

import sae_lens_ext as sle
from sae_lens_ext.saelens import (
    HierarchicalTopKTrainingSAE,
    HierarchicalTopKTrainingSAEConfig,
)

SITE = "blocks.1.hook_resid_post"


def _config(**changes):
    options = {"d_in": 32, "d_sae": 48, "k": 4, "device": "cpu", **changes}
    return HierarchicalTopKTrainingSAEConfig(**options)


def _step(sae, x, dead=None):
    return sae.training_forward_pass(
        TrainStepInput(
            sae_in=x,
            coefficients={},
            dead_neuron_mask=dead,
            n_training_steps=0,
            is_logging_step=True,
        )
    )


# SAELens itself cannot differentiate sparse activations with rescaled norms.
@pytest.mark.parametrize(
    ("rescale", "use_sparse_activations"),
    [(False, False), (True, False), (False, True)],
)
@pytest.mark.filterwarnings("ignore:Sparse invariant checks")
def test_the_loss_is_the_mean_error_of_topk_saes_at_every_level(
    rescale, use_sparse_activations
):
    options = {
        "rescale_acts_by_decoder_norm": rescale,
        "use_sparse_activations": use_sparse_activations,
    }
    levels = [1, 3, 4]
    sae = HierarchicalTopKTrainingSAE(_config(levels=levels, **options))
    with torch.no_grad():
        for parameter in sae.parameters():
            parameter.normal_()
    x = torch.randn(6, 32)
    output = _step(sae, x)

    mean = 0
    parameters = dict(sae.named_parameters())
    for level in levels:
        config = sae_lens.TopKTrainingSAEConfig(d_in=32, d_sae=48, k=level, **options)
        dedicated = sae_lens.TopKTrainingSAE(config)
        # The same tensors, so that gradients of its loss are those of the other's.
        dedicated._parameters.update(parameters)
        mean = mean + _step(dedicated, x).losses["mse_loss"] / len(levels)
    torch.testing.assert_close(output.loss, mean)
    torch.testing.assert_close(output.losses["hierarchical_loss"], mean)

    weights = list(parameters.values())
    torch.testing.assert_close(
        torch.autograd.grad(output.loss, weights),
        torch.autograd.grad(mean, weights),
        rtol=1e-4,
        atol=1e-4,
    )


def test_dead_features_still_learn_by_their_auxiliary_loss():
    sae = HierarchicalTopKTrainingSAE(_config())
    dead = torch.zeros(48, dtype=torch.bool)
    dead[:20] = True
    output = _step(sae, torch.randn(6, 32), dead)
    auxiliary = output.losses["auxiliary_reconstruction_loss"]
    assert auxiliary > 0
    torch.testing.assert_close(
        output.loss, output.losses["hierarchical_loss"] + auxiliary
    )


# Of their store: that rows are fewer than tokens, and how it copies tensors.
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_saelens_runner_trains_it_and_the_result_loads_here(gpt2, tmp_path):
    draw = torch.Generator().manual_seed(0)
    rows = torch.randint(10, 90, (400, 16), generator=draw)
    rows[:, 0] = 1
    config = sae_lens.LanguageModelSAERunnerConfig(
        sae=_config(),
        model_name="tiny",
        hook_name=SITE,
        dataset_path="",
        is_dataset_tokenized=True,
        context_size=16,
        training_tokens=4096,
        train_batch_size_tokens=128,
        store_batch_size_prompts=4,
        n_batches_in_buffer=8,
        lr=3e-3,
        device="cpu",
        n_checkpoints=0,
        checkpoint_path=None,
        output_path=str(tmp_path / "out"),
        logger=sae_lens.LoggingConfig(log_to_wandb=False),
        verbose=False,
    )
    runner = sae_lens.LanguageModelSAETrainingRunner(
        config,
        override_dataset=datasets.Dataset.from_dict({"tokens": rows.tolist()}),
        override_model=gpt2,
    )
    trained = runner.run()
    assert isinstance(trained, HierarchicalTopKTrainingSAE)

    ours = sle.SAE.from_pretrained(tmp_path / "out")
    assert ours.config.levels == (1, 2, 3, 4)
    assert (ours.config.k, ours.config.hook_name) == (4, SITE)
    theirs = sae_lens.SAE.load_from_disk(tmp_path / "out")
    x = torch.randn(5, 32)
    with torch.no_grad():
        torch.testing.assert_close(ours(x), theirs(x), rtol=1e-4, atol=1e-5)

    table = sle.sweep_k(gpt2, tiny.tokens(), ours, progress=False)
    assert table["fvu"].is_monotonic_decreasing


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weights": "relative"}, "whose checkpoints do not keep"),
        ({"normalize_activations": "layer_norm"}, "normalize_activations must be none"),
        ({"levels": [1, 9]}, "9"),
        ({"stride": 0}, "stride must be"),
    ],
)
def test_impossible_options_are_errors_before_a_model_is_loaded(options, message):
    with pytest.raises(sle.SaeLensExtError, match=message):
        _config(**options)
