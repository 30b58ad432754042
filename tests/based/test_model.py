"""Based and ReBased as language models of ``transformers``."""

import copy
import subprocess
import sys

import pytest
import tiny
import torch
import transformers

import sae_lens_ext as sle
from sae_lens_ext.based import FEATURE_MAPS

TOKENS = tiny.tokens(2, 11)


def test_error_of_a_hook_on_the_embedding_is_raised_unchanged():
    def fail(*_):
        raise IndexError("by a hook")

    model = tiny.based()
    model.model.embed_tokens.register_forward_hook(fail)
    with pytest.raises(IndexError, match="by a hook"):
        model(TOKENS)


@pytest.mark.parametrize(
    ("form", "expected"),
    [
        ("auto", []),
        ("recurrent", ["hook_state"] * 2),
        ("dense", ["hook_conv_taps", *["hook_pattern"] * 4]),
    ],
)
def test_a_form_passes_its_own_taps(form, expected):
    model = tiny.based()
    passed = []
    for name, tap in model.named_modules():
        attribute = name.rpartition(".")[2]
        if attribute in ("hook_conv_taps", "hook_pattern", "hook_state"):
            # Replaced as nnsight does; the model would see a hook.
            tap.forward = lambda x, attribute=attribute: passed.append(attribute) or x
    model.set_attention_form(form)
    model(TOKENS)
    assert passed == expected


@pytest.mark.usefixtures("without_shape_checks")
def test_rejects_an_unknown_form():
    message = "form must be one of auto, dense, recurrent; got 'fast'"
    with pytest.raises(sle.InvalidArgument, match=message):
        tiny.based().set_attention_form("fast")


@pytest.mark.parametrize(
    "options", [{}, {"num_beams": 3}, {"num_return_sequences": 2, "num_beams": 2}]
)
def test_generation_is_the_same_with_and_without_a_cache(options):
    options = {"max_new_tokens": 7, "do_sample": False, **options}
    model = tiny.based()
    with_cache = model.generate(TOKENS, use_cache=True, **options)
    without_cache = model.generate(TOKENS, use_cache=False, **options)
    assert torch.equal(with_cache, without_cache)


def test_a_trainer_divides_an_accumulated_loss_itself(tmp_path):
    rows = [
        {"input_ids": row, "labels": row}
        for row in torch.randint(0, len(tiny.WORDS), (8, 12))
    ]
    losses = []
    for batch_size, n_steps in ((8, 1), (2, 4)):
        arguments = transformers.TrainingArguments(
            tmp_path,
            use_cpu=True,
            logging_steps=1,
            save_strategy="no",
            per_device_train_batch_size=batch_size,
            gradient_accumulation_steps=n_steps,
            max_steps=1,
            report_to=[],
        )
        model = tiny.based().float()
        trainer = transformers.Trainer(model, arguments, train_dataset=rows)
        trainer.train()
        losses.append(trainer.state.log_history[0]["loss"])
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)


@pytest.mark.parametrize("kernel", FEATURE_MAPS)
def test_gradients_flow_to_every_weight(kernel):
    model = tiny.based(kernel).train()
    model(TOKENS, labels=TOKENS).loss.backward()
    missing = [
        name
        for name, parameter in model.named_parameters()
        if parameter.grad is None or not parameter.grad.abs().sum() > 0
    ]
    assert not missing


@pytest.mark.parametrize("kernel", FEATURE_MAPS)
def test_autocast_gives_nearly_the_same_logits_and_finite_gradients(kernel):
    model = tiny.based(kernel, vocab_size=50).float()
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randint(0, 50, (2, 11), generator=generator)
    plain = model(tokens).logits
    with torch.autocast("cpu", torch.bfloat16):
        outputs = model(tokens, labels=tokens)
    assert not torch.equal(outputs.logits, plain)
    assert (outputs.logits - plain).norm() < 0.03 * plain.norm()
    outputs.loss.backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


def test_returns_a_tuple_without_return_dict():
    model = tiny.based()
    options = {"labels": TOKENS, "output_hidden_states": True}
    outputs = model(TOKENS, **options)
    loss, logits, cache, states = model(TOKENS, return_dict=False, **options)
    assert torch.equal(loss, outputs.loss)
    assert torch.equal(logits, outputs.logits)
    assert cache.seen == TOKENS.shape[1]
    assert len(states) == len(outputs.hidden_states)

    model.config.return_dict = False
    assert torch.equal(model(TOKENS)[0], outputs.logits)
    inner = model.model(TOKENS, return_dict=True)
    assert torch.equal(inner.last_hidden_state, model.model(TOKENS)[0])
    text = model.generate(TOKENS, max_new_tokens=3, do_sample=False)
    assert torch.equal(text[:, : TOKENS.shape[1]], TOKENS)


_COMPILED = """
import torch
from sae_lens_ext.based import BasedConfig, BasedForCausalLM

shape = {
    "vocab_size": 50,
    "hidden_size": 24,
    "num_hidden_layers": 4,
    "num_attention_heads": 3,
    "feature_dim": 4,
}
layers = ["conv", "linear_attention", "sliding_attention", "full_attention"]
model = BasedForCausalLM(BasedConfig(layer_types=layers, **shape)).eval()
x = torch.randint(50, (2, 11))
compiled = torch.compile(model, backend="eager", fullgraph=True)
for options in (
    {"logits_to_keep": 2, "return_dict": False},
    {"position_ids": torch.arange(11)[None], "labels": x},
):
    outputs = compiled(x, use_cache=False, **options)
    expected = model(x, use_cache=False, **options)
    torch.testing.assert_close(outputs[0], expected[0])

shape["num_hidden_layers"] = 2
model = BasedForCausalLM(BasedConfig(layer_types=layers[:2], **shape)).eval()
compiled = torch.compile(model, backend="eager", fullgraph=True)
cache = compiled(x[:, :6]).past_key_values
logits = compiled(x[:, 6:], past_key_values=cache).logits
torch.testing.assert_close(logits, model(x).logits[:, 6:])
"""


def test_the_whole_model_compiles():
    # In a process of its own, because shape checks of tests cannot be compiled.
    subprocess.run(
        [sys.executable, "-c", _COMPILED],
        check=True,
        capture_output=True,
        text=True,
        timeout=300,
    )


def test_rejects_more_tokens_than_learned_positions():
    model = tiny.based(max_position_embeddings=8)
    message = "this model has 8 learned positions; got 11 tokens"
    with pytest.raises(sle.InvalidArgument, match=message):
        model(TOKENS)


def test_a_copy_computes_the_same():
    model = tiny.based()
    torch.testing.assert_close(
        copy.deepcopy(model)(TOKENS).logits, model(TOKENS).logits
    )
