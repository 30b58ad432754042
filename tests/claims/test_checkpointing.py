"""A backward pass that runs blocks again uses the settings of the run it belongs to."""

import copy

import nnsight
import pytest
import tiny
import torch
from torch.utils.checkpoint import checkpoint, checkpoint_sequential
from transformers import LlamaConfig, LlamaForCausalLM

import sae_lens_ext as sle

SITES = ("blocks.1.hook_mlp_out", "blocks.1.hook_attn_out")


@pytest.fixture(scope="module")
def llama():
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=96,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=3,
        num_attention_heads=4,
        bos_token_id=2,
        eos_token_id=1,
        pad_token_id=0,
        use_cache=False,
    )
    model = LlamaForCausalLM(config).train()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.mul_(8)
    model.enable_input_require_grads()
    return model


def _set_checkpointing(model, reentrant):
    """Through the layers, as the name of the method differs between versions."""
    for layer in model.model.layers:
        layer.gradient_checkpointing = reentrant is not None
        layer._gradient_checkpointing_func = lambda function, *arguments: checkpoint(
            function, *arguments, use_reentrant=reentrant
        )


def _gradient(model, reentrant, step, **options):
    """The gradient of the embeddings after ``step(model, spliced)``."""
    _set_checkpointing(model, reentrant)
    model.zero_grad()
    saes = {site: tiny.sae(seed=seed) for seed, site in enumerate(SITES)}
    with sle.splice(model, saes, **options) as spliced:
        step(model, spliced)
    _set_checkpointing(model, None)
    return model.model.embed_tokens.weight.grad.clone()


def _loss(model, tokens):
    return model(tokens, labels=tokens).loss


def _k_set_before_backward(model, spliced):
    loss = _loss(model, tiny.tokens())
    spliced.k = 2
    loss.backward()


def _positions_set_before_backward(model, spliced):
    spliced.positions = slice(0, 4)
    loss = _loss(model, tiny.tokens())
    spliced.positions = slice(4, 8)
    loss.backward()


def _edits_and_error_set_before_backward(model, spliced):
    spliced.edits = {SITES[0]: [sle.Steer(3, by=2.0, positions=[1])]}
    loss = _loss(model, tiny.tokens())
    spliced.edits = []
    spliced.error_term = True
    loss.backward()


def _losses_of_several_k_summed(model, spliced):
    total = 0
    for k in (1, 4, 8):
        spliced.k = k
        total = total + _loss(model, tiny.tokens())
    total.backward()


def _runs_accumulated(model, spliced):
    for seed, k in enumerate((8, 3)):
        spliced.k = k
        _loss(model, tiny.tokens(seed=seed)).backward()


def _another_run_between(model, spliced):
    loss = _loss(model, tiny.tokens())
    spliced.k = 1
    model(tiny.tokens(rows=1, seed=5))
    loss.backward()


STEPS = (
    _k_set_before_backward,
    _positions_set_before_backward,
    _edits_and_error_set_before_backward,
    _losses_of_several_k_summed,
    _runs_accumulated,
    _another_run_between,
)


@pytest.mark.parametrize("reentrant", [True, False])
@pytest.mark.parametrize("step", STEPS)
def test_gradients_are_those_without_checkpointing(llama, reentrant, step):
    expected = _gradient(llama, None, step)
    gradient = _gradient(llama, reentrant, step)
    assert expected.abs().max() > 0.1
    torch.testing.assert_close(gradient, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("reentrant", [True, False])
def test_a_repetition_knows_its_tokens_and_its_padding(llama, reentrant):
    tokens = tiny.tokens()
    mask = torch.ones_like(tokens)
    mask[1, :3] = 0

    def step(model, spliced):
        labels = tokens.where(mask.bool(), -100)
        model(tokens, attention_mask=mask, labels=labels).loss.backward()

    # BOS is left alone, which takes the run's token ids.
    special = {site: tiny.sae(exclude_special_tokens=True) for site in SITES}
    gradients = []
    for how in (None, reentrant):
        _set_checkpointing(llama, how)
        llama.zero_grad()
        with sle.splice(llama, special) as spliced:
            step(llama, spliced)
        gradients.append(llama.model.embed_tokens.weight.grad.clone())
    _set_checkpointing(llama, None)
    torch.testing.assert_close(gradients[1], gradients[0], rtol=0, atol=1e-5)


def test_a_repetition_leaves_the_codes_of_the_last_run(llama):
    _set_checkpointing(llama, False)
    tokens = [tiny.tokens(), tiny.tokens(rows=1, seed=3)]
    sae = tiny.sae()
    with sle.splice(llama, {SITES[0]: sae}, k=8) as spliced:
        loss = _loss(llama, tokens[0])
        spliced.k = 2
        llama(tokens[1])
        before = spliced.codes[SITES[0]]
        loss.backward()
        assert spliced.codes[SITES[0]] is before
    _set_checkpointing(llama, None)


class _Stack(torch.nn.Module):
    """Blocks behind an embedding, which are checkpointed as the caller likes."""

    def __init__(self, run):
        super().__init__()
        torch.manual_seed(0)
        self.embed = torch.nn.Embedding(96, 32)
        self.layers = torch.nn.ModuleList(
            torch.nn.Sequential(torch.nn.Linear(32, 32), torch.nn.Tanh())
            for _ in range(4)
        )
        self.run = run

    def get_input_embeddings(self):
        return self.embed

    def forward(self, tokens):
        return self.run(self.layers, self.embed(tokens))


def _plain(layers, hidden):
    for layer in layers:
        hidden = layer(hidden)
    return hidden


def _of_one_layer(layers, hidden):
    for layer in layers:
        hidden = checkpoint(layer, hidden, use_reentrant=False)
    return hidden


def _of_two_layers(layers, hidden):
    return checkpoint_sequential(layers, 2, hidden, use_reentrant=False)


@pytest.mark.parametrize("run", [_of_one_layer, _of_two_layers])
@pytest.mark.parametrize("site", ["layers.1", "layers.3", "layers.2.input"])
def test_blocks_may_be_checkpointed_alone_or_in_groups(run, site):
    gradients = []
    for how in (_plain, run):
        model = _Stack(how)
        total = 0
        with sle.splice(model, {site: tiny.sae()}) as spliced:
            for k in (1, 3, 8):
                spliced.k = k
                spliced.positions = slice(k - 1, None)
                total = total + model(tiny.tokens()).square().sum()
            spliced.k = 2
            total.backward()
        gradients.append(model.embed.weight.grad)
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-5, atol=1e-5)


def test_a_whole_model_may_be_checkpointed():
    """Then only the token ids tell runs apart, and runs repeat in reverse order."""
    gradients = []
    for is_checkpointed in (False, True):
        model = _Stack(_plain)
        total = 0
        with sle.splice(model, {"layers.1": tiny.sae()}) as spliced:
            tokens = tiny.tokens()
            for k in (1, 3, 8):
                spliced.k = k
                if is_checkpointed:
                    hidden = checkpoint(model, tokens, use_reentrant=False)
                else:
                    hidden = model(tokens)
                total = total + hidden.square().sum()
            spliced.k = 2
            total.backward()
        gradients.append(model.embed.weight.grad)
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-5, atol=1e-5)


def test_a_bridge_repeats_runs_as_well():
    gradients = []
    for reentrant in (None, False):
        model = tiny.bridge("gpt2")
        model.original_model.config.use_cache = False
        for block in model.blocks:
            layer = block.original_component
            layer.train()
            layer.gradient_checkpointing = reentrant is not None
            layer._gradient_checkpointing_func = lambda function, *arguments: (
                checkpoint(function, *arguments, use_reentrant=False)
            )
        model.requires_grad_(True)
        for module in model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        total = 0
        with sle.splice(model, {"blocks.1.hook_mlp_out": tiny.sae()}) as spliced:
            for k in (1, 8):
                spliced.k = k
                total = total + model(tiny.tokens()).square().sum()
            spliced.k = 3
            total.backward()
        gradients.append(model.embed.weight.grad.clone())
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("inside", [False, True])
def test_nnsight_repeats_runs_inside_and_outside_of_a_trace(llama, inside):
    gradients = []
    for reentrant in (None, False):
        _set_checkpointing(llama, reentrant)
        llama.zero_grad()
        # Copied, because nnsight leaves wrappers in the modules that it has traced.
        module = copy.deepcopy(llama)
        model = nnsight.NNsight(module)
        total = 0
        with sle.splice(model, {SITES[0]: tiny.sae()}) as spliced:
            for k in (1, 8):
                spliced.k = k
                with model.trace(tiny.tokens()):
                    loss = nnsight.save(model.output.logits.square().sum())
                    if inside:
                        loss.backward()
                total = total + loss
            spliced.k = 3
            if not inside:
                total.backward()
        gradients.append(module.model.embed_tokens.weight.grad)
    _set_checkpointing(llama, None)
    scale = gradients[0].abs().max()
    torch.testing.assert_close(gradients[1] / scale, gradients[0] / scale)
