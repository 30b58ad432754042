"""The part of ``benchmarks.jumprelu`` that needs SAELens.

``benchmarks.jumprelu`` runs it in SAELens' environment: SAELens' own runner trains a
JumpReLU SAE on the bundled model and writes it to a folder.
"""

import sys
import tempfile
from pathlib import Path

import torch
from datasets import Dataset
from sae_lens import (
    JumpReLUTrainingSAEConfig,
    LanguageModelSAERunnerConfig,
    LanguageModelSAETrainingRunner,
    LoggingConfig,
)

import sae_lens_ext as sle
from sae_lens_ext.text import default_documents, pack, split_documents

SITE = "blocks.9.hook_resid_post"
_CONTEXT = 128
_ROWS = 1_600
_TOKENS = 400_000
_BATCH = 1_024


def main(folder: str) -> None:
    """Train an SAE and write it to ``folder``, in SAELens' format."""
    torch.manual_seed(0)
    model = sle.load_bundled(progress=False)
    documents = split_documents(default_documents(), held_out=False)
    rows = pack(documents, model.tokenizer, n_rows=_ROWS, context=_CONTEXT)
    # One column of rows of ids is what SAELens takes for a tokenised dataset.
    dataset = Dataset.from_dict({"input_ids": rows.tolist()})

    n_steps = _TOKENS // _BATCH
    sae = JumpReLUTrainingSAEConfig(
        d_in=model.cfg.d_model,
        d_sae=2_048,
        # A penalty by tanh, and a bandwidth as wide as activations (Conerly et al.
        # 2025).
        jumprelu_sparsity_loss_mode="tanh",
        jumprelu_tanh_scale=4.0,
        l0_coefficient=0.1,
        l0_warm_up_steps=n_steps // 2,
        jumprelu_init_threshold=0.1,
        jumprelu_bandwidth=2.0,
        pre_act_loss_coefficient=3e-6,
        normalize_activations="expected_average_only_in",
    )
    with tempfile.TemporaryDirectory() as checkpoints:
        config = LanguageModelSAERunnerConfig(
            sae=sae,
            model_name="google/gemma-3-270m",
            hook_name=SITE,
            dataset_path="tokens of this machine's Python documentation",
            is_dataset_tokenized=True,
            streaming=False,
            context_size=_CONTEXT,
            training_tokens=_TOKENS,
            train_batch_size_tokens=_BATCH,
            store_batch_size_prompts=8,
            n_batches_in_buffer=32,
            n_batches_for_norm_estimate=20,
            lr=1e-3,
            lr_warm_up_steps=n_steps // 20,
            lr_decay_steps=n_steps // 3,
            exclude_special_tokens=True,
            prepend_bos=True,
            device="cpu",
            n_checkpoints=0,
            checkpoint_path=checkpoints,
            output_path=None,
            logger=LoggingConfig(log_to_wandb=False),
        )
        runner = LanguageModelSAETrainingRunner(
            config, override_dataset=dataset, override_model=model
        )
        trained = runner.run()
    Path(folder).mkdir(parents=True, exist_ok=True)
    trained.save_inference_model(folder)


if __name__ == "__main__":
    main(sys.argv[1])
