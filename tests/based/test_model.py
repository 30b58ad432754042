"""Based and ReBased as language models: sizes as published, forms that agree, edits that act, generation from a state."""

import copy
import json
import subprocess
import sys

import numpy
import pytest
import torch
import transformers
from transformers import DynamicCache

import sae_lens_ext as sle
from sae_lens_ext.based import FEATURE_MAPS, BasedCache, BasedConfig, BasedForCausalLM
from sae_lens_ext.based.mixers.linear_attention import LinearAttention

LAYERS = [
    "conv",
    "linear_attention",
    "sliding_attention",
    "full_attention",
    "linear_attention",
]


def tiny_model(kernel="rebased", **changes):
    torch.manual_seed(0)
    shape = {
        "vocab_size": 50,
        "hidden_size": 24,
        "num_hidden_layers": 5,
        "num_attention_heads": 3,
        "feature_dim": 4,
    }
    config = BasedConfig(
        kernel=kernel,
        **{
            **shape,
            "layer_types": LAYERS,
            "sliding_window": 3,
            "initializer_range": 0.3,
            **changes,
        },
    )
    return BasedForCausalLM(config).double().eval()


def tokens(pos=11):
    return torch.randint(0, 50, (2, pos), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("kernel", FEATURE_MAPS)
def test_whatever_is_watched_the_numbers_are_the_same(kernel):
    model = tiny_model(kernel)
    bare = model(tokens()).logits
    for name, tap in model.named_modules():
        if name.rpartition(".")[2].startswith("hook_"):
            handle = tap.register_forward_hook(lambda *_: None)
            torch.testing.assert_close(
                model(tokens()).logits, bare, rtol=1e-9, atol=1e-9, msg=name
            )
            handle.remove()


@pytest.mark.parametrize("kernel", FEATURE_MAPS)
def test_an_edit_at_every_tap_changes_the_output(kernel):
    model = tiny_model(kernel)
    bare = model(tokens()).logits
    for name, tap in model.named_modules():
        # As long as beta is 0, the size of a query cancels.
        is_used = not name.endswith("ln_q.hook_scale")
        if (
            name.rpartition(".")[2].startswith("hook_")
            and "result" not in name
            and is_used
        ):
            # Nothing that a norm would take away again.
            handle = tap.register_forward_hook(
                lambda _, __, output: (
                    output + torch.arange(output.numel()).view(output.shape).sin()
                )
            )
            assert (model(tokens()).logits - bare).abs().max() > 1e-6, name
            handle.remove()


def test_an_edit_in_place_counts_too():
    model = tiny_model()
    bare, tap = model(tokens()).logits, model.model.layers[1].mixer.hook_state

    def double(_, __, output):
        output.mul_(2)
        output[..., 0].add_(1)

    handle = tap.register_forward_hook(double)
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            assert (model(tokens()).logits - bare).abs().max() > 1e-6, mode
    handle.remove()


@pytest.mark.parametrize("name", ["hook_pattern", "hook_state", "hook_phi_q"])
def test_a_hook_that_returns_no_tensor_is_told(name):
    model = tiny_model()
    getattr(model.model.layers[1].mixer, name).register_forward_hook(lambda *_: 5)
    with pytest.raises(
        sle.InvalidArgument,
        match=r"a hook returns a tensor in place of the one \[2, .*\] it was given, or None; got 5",
    ):
        model(tokens())


def test_an_error_of_a_hook_on_the_embedding_stays_what_it_is():
    model = tiny_model()

    def fail(*_):
        raise IndexError("by a hook")

    model.model.embed_tokens.register_forward_hook(fail)
    with pytest.raises(IndexError, match="by a hook"):
        model(tokens())


@pytest.mark.parametrize(
    ("form", "shown"),
    [
        ("auto", []),
        ("recurrent", ["hook_state"] * 2),
        ("dense", ["hook_conv_taps", *["hook_pattern"] * 4]),
    ],
)
def test_a_form_passes_the_taps_that_are_its_own(form, shown):
    model, passed = tiny_model(), []
    for name, tap in model.named_modules():
        attribute = name.rpartition(".")[2]
        if attribute in ("hook_conv_taps", "hook_pattern", "hook_state"):
            # As nnsight does, and not by a hook, which would be seen.
            tap.forward = lambda x, attribute=attribute: passed.append(attribute) or x
    model.set_attention_form(form)
    model(tokens())
    assert passed == shown


def test_a_fixed_form_adds_taps_and_takes_none_away():
    model = tiny_model()
    bare = model(tokens()).logits
    model.set_attention_form("dense")
    model.model.layers[1].mixer.hook_state.register_forward_hook(
        lambda _, __, output: output * 0
    )
    assert (model(tokens()).logits - bare).abs().max() > 1e-6


def test_a_write_is_remembered_and_a_state_is_not():
    model = tiny_model()
    mixer, position = model.model.layers[1].mixer, 4
    x = torch.randn(
        1, 9, 24, generator=torch.Generator().manual_seed(2), dtype=torch.float64
    )
    bare = mixer(x)

    def louder(_, __, output):
        changed = output.clone()
        changed[:, position] *= 3
        return changed

    for name, reached in (("hook_write", range(4, 9)), ("hook_state", [4])):
        handle = getattr(mixer, name).register_forward_hook(louder)
        differs = (
            ((mixer(x) - bare).abs().amax((0, 2)) > 1e-12).nonzero().flatten().tolist()
        )
        handle.remove()
        assert differs == list(reached), name


def test_two_ways_to_one_output_are_refused_when_both_are_edited():
    model = tiny_model()
    mixer = model.model.layers[1].mixer
    for tap in (mixer.hook_pattern, mixer.hook_state):
        tap.register_forward_hook(lambda _, __, output: output * 2)
    with pytest.raises(
        sle.InvalidArgument, match="two ways to one output; edit one of them in a run"
    ):
        model(tokens())


@pytest.mark.parametrize("kernel", ["based", "rebased"])
def test_tokens_one_by_one_give_the_same_logits(kernel):
    model, x = tiny_model(kernel), tokens()
    whole, cache, found = model(x, use_cache=False).logits, BasedCache(5), []
    for token in range(x.shape[1]):
        found.append(
            model(x[:, token : token + 1], past_key_values=cache, use_cache=True).logits
        )
    torch.testing.assert_close(torch.cat(found, dim=1), whole, rtol=1e-9, atol=1e-9)
    assert cache.get_seq_length() == x.shape[1]


@pytest.mark.parametrize(
    "options", [{}, {"num_beams": 3}, {"num_return_sequences": 2, "num_beams": 2}]
)
def test_generation_with_and_without_a_state_is_the_same(options):
    model = tiny_model()
    kept, anew = (
        model.generate(
            tokens(), max_new_tokens=7, do_sample=False, use_cache=cache, **options
        )
        for cache in (True, False)
    )
    assert torch.equal(kept, anew)


def test_the_state_does_not_grow():
    model = tiny_model(
        layer_types=[
            "conv",
            "linear_attention",
            "sliding_attention",
            "conv",
            "linear_attention",
        ]
    )
    cache = BasedCache(5)
    model(tokens(6), past_key_values=cache, use_cache=True)
    before = cache.n_elements()
    model(tokens(90), past_key_values=cache, use_cache=True)
    assert cache.n_elements() == before


@pytest.mark.parametrize("form", ["auto", "dense", "recurrent"])
def test_the_cache_holds_no_memory_but_of_what_it_keeps(form):
    model = tiny_model()
    model.set_attention_form(form)
    cache = BasedCache(5)
    for part in tokens(90).split(30, dim=1):
        model(part, past_key_values=cache, use_cache=True)
    for layer, kept in enumerate(cache.layers):
        for name, tensor in kept.items():
            assert tensor.untyped_storage().nbytes() == tensor.nbytes, (layer, name)


def test_a_state_edited_in_place_is_not_remembered():
    model, x = tiny_model(), tokens()
    cache = BasedCache(5)
    handle = model.model.layers[4].mixer.hook_state.register_forward_hook(
        lambda _, __, output: output.mul_(2)
    )
    model(x[:, :6], past_key_values=cache, use_cache=True)
    handle.remove()
    torch.testing.assert_close(
        model(x[:, 6:], past_key_values=cache).logits, model(x).logits[:, 6:]
    )


def test_it_is_saved_and_loaded_by_the_auto_classes(tmp_path):
    model = tiny_model("based")
    model.save_pretrained(tmp_path)
    again = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path, dtype=torch.float64
    )
    assert type(again) is BasedForCausalLM
    assert again.config.to_dict() == {
        **model.config.to_dict(),
        **{
            key: again.config.to_dict()[key]
            for key in ("_name_or_path", "dtype")
            if key in again.config.to_dict()
        },
    }
    torch.testing.assert_close(again(tokens()).logits, model(tokens()).logits)


def test_a_model_with_one_norm_for_queries_and_keys_is_saved_and_loaded(tmp_path):
    model = tiny_model(norm_layout="shared", tie_word_embeddings=False)
    torch.nn.init.normal_(model.model.layers[1].mixer.ln_q.weight)
    model.save_pretrained(tmp_path)
    again = BasedForCausalLM.from_pretrained(tmp_path, dtype=torch.float64)
    torch.testing.assert_close(again(tokens()).logits, model(tokens()).logits)


@pytest.mark.parametrize(("rescaled", "share"), [(True, 10**-0.5), (False, 1.0)])
def test_what_writes_into_the_stream_begins_smaller(rescaled, share):
    model = tiny_model(
        hidden_size=192, initializer_range=0.1, rescale_prenorm_residual=rescaled
    )
    stds = {
        name: weight.std().item()
        for name, weight in model.named_parameters()
        if name.endswith("proj.weight")
    }
    writers = {
        name
        for name in stds
        if name.split(".")[-2] in ("o_proj", "out_proj", "down_proj")
    }
    assert len(writers) == 2 * 5
    for name, std in stds.items():
        assert std == pytest.approx(
            0.1 * (share if name in writers else 1), rel=0.05
        ), name


def test_a_trainer_divides_an_accumulated_loss_itself(tmp_path):
    rows = [{"input_ids": row, "labels": row} for row in torch.randint(0, 50, (8, 12))]
    losses = []
    for size, steps in ((8, 1), (2, 4)):
        options = {
            "per_device_train_batch_size": size,
            "gradient_accumulation_steps": steps,
            "max_steps": 1,
            "report_to": [],
        }
        arguments = transformers.TrainingArguments(
            tmp_path, use_cpu=True, logging_steps=1, save_strategy="no", **options
        )
        trainer = transformers.Trainer(
            tiny_model().float(), arguments, train_dataset=rows
        )
        trainer.train()
        losses.append(trainer.state.log_history[0]["loss"])
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)


def test_gradients_flow_to_every_weight():
    for kernel, (_, _, has_gamma, _) in FEATURE_MAPS.items():
        model = tiny_model(kernel).train()
        model(tokens(), labels=tokens()).loss.backward()
        missing = [
            name
            for name, parameter in model.named_parameters()
            if parameter.grad is None or not parameter.grad.abs().sum() > 0
        ]
        assert not missing, (kernel, has_gamma)


@pytest.mark.parametrize("kernel", FEATURE_MAPS)
def test_autocast_gives_nearly_the_same_logits_and_gradients(kernel):
    model = tiny_model(kernel).float()
    plain = model(tokens()).logits
    with torch.autocast("cpu", torch.bfloat16):
        found = model(tokens(), labels=tokens())
    assert not torch.equal(found.logits, plain)
    assert (found.logits - plain).norm() < 0.03 * plain.norm()
    found.loss.backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


def test_padding_on_the_right_changes_nothing_before_it_and_other_padding_is_refused():
    model, x = tiny_model(), tokens()
    mask = torch.ones_like(x)
    mask[0, 8:] = 0
    torch.testing.assert_close(model(x, attention_mask=mask).logits, model(x).logits)
    with pytest.raises(
        sle.InvalidArgument,
        match="cannot skip padding before a token: pad on the right",
    ):
        model(x, attention_mask=mask.flip(1))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"kernel": "rebase"},
            "kernel must be one of based, rebased, square, .*; got 'rebase'",
        ),
        ({"hidden_size": 0}, "hidden_size must be a whole number from 1 on; got 0"),
        (
            {"hidden_size": 8},
            "hidden_size=8 leaves nothing for each of num_attention_heads=12 heads",
        ),
        (
            {"layer_types": ["conv"]},
            "layer_types must name one of conv, .* for each of num_hidden_layers=18 layers",
        ),
        ({"layer_types": 5}, "layer_types must name one of conv, .*; got 5"),
        ({"mlp": "gelu"}, "mlp must be one of swiglu, identity; got 'gelu'"),
        (
            {"sliding_window": -1},
            "sliding_window must be a whole number from 0 on; got -1",
        ),
        (
            {"sliding_window": None},
            "sliding_window must be a whole number from 0 on; got None",
        ),
        (
            {"intermediate_size": 0},
            "intermediate_size must be a whole number from 1 on; got 0",
        ),
        (
            {"max_position_embeddings": 0},
            "max_position_embeddings must be a whole number from 1 on; got 0",
        ),
        ({"rope_theta": 0}, "rope_theta must be a number above 0; got 0"),
        ({"norm_eps": -1.0}, "norm_eps must be a number from 0 on; got -1.0"),
        (
            {"initializer_range": float("inf")},
            "initializer_range must be a number from 0 on; got inf",
        ),
        ({"embedding_dropout": 2.0}, "embedding_dropout must be below 1; got 2.0"),
        ({"use_rope": "no"}, "use_rope must be True or False; got 'no'"),
        (
            {"tie_word_embeddings": 1},
            "tie_word_embeddings must be True or False; got 1",
        ),
        ({"use_cache": None}, "use_cache must be True or False; got None"),
        (
            {"rescale_prenorm_residual": "false"},
            "rescale_prenorm_residual must be True or False; got 'false'",
        ),
        (
            {"hidden_size": None},
            "hidden_size must be a whole number from 1 on; got None",
        ),
        (
            {"hidden_size": 1, "num_attention_heads": 1, "conv_expansion": 1},
            "conv_expansion=1 times hidden_size=1 leaves nothing for the",
        ),
        (
            {"attention_eps": 0},
            "attention_eps must be above 0, and at least 1.2e-38, the smallest of float32; got 0.0",
        ),
        (
            {"dtype": "float33"},
            "dtype must be the name of one of torch, such as 'float32'; got 'float33'",
        ),
        (
            {"torch_dtype": "Tensor"},
            "dtype must be the name of one of torch, .*; got 'Tensor'",
        ),
    ],
)
@pytest.mark.usefixtures("without_shape_checks")
def test_a_config_that_makes_no_model_is_refused(changes, said):
    with pytest.raises(sle.InvalidArgument, match=said):
        BasedConfig(**changes)


@pytest.mark.usefixtures("without_shape_checks")
def test_numbers_of_numpy_can_be_saved():
    given = {
        "rope_theta": numpy.float32(500.0),
        "use_rope": numpy.bool_(False),
        "hidden_size": numpy.int64(24),
        "norm_eps": numpy.float64(1e-6),
    }
    config = BasedConfig(
        **given, tie_word_embeddings=numpy.bool_(False), use_cache=numpy.bool_(False)
    )
    again = BasedConfig.from_dict(json.loads(config.to_json_string(use_diff=False)))
    assert (
        again.rope_theta,
        again.use_rope,
        again.hidden_size,
        again.tie_word_embeddings,
        again.use_cache,
    ) == (
        500.0,
        False,
        24,
        False,
        False,
    )


@pytest.mark.parametrize("eps", [1.2e-38, 1e-12])
def test_what_a_config_allows_for_a_sum_is_allowed_by_every_form(eps):
    model = tiny_model(attention_eps=eps).float()
    wanted = model(tokens()).logits
    for form in ("dense", "recurrent"):
        model.set_attention_form(form)
        torch.testing.assert_close(model(tokens()).logits, wanted, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (
            {"input_ids": torch.zeros(4, dtype=torch.int64)},
            r"input_ids must be \[batch, pos\] .*; got \[4\]; for one text",
        ),
        (
            {"input_ids": torch.zeros(2, 0, dtype=torch.int64)},
            r"at least one token each; got \[2, 0\]",
        ),
        (
            {"input_ids": [[1, 2]]},
            "input_ids must be a tensor of whole numbers, of int64 or int32, .*; got a list",
        ),
        (
            {"input_ids": numpy.zeros((2, 3), dtype=int)},
            "input_ids must be a tensor of whole numbers, .*; got a ndarray",
        ),
        (
            {"input_ids": torch.zeros(2, 3)},
            "input_ids must be a tensor of whole numbers, .*; got torch.float32",
        ),
        (
            {"input_ids": torch.tensor([[1, 50, 51]])},
            "input_ids must be from 0 to 49, by the vocabulary; got 50",
        ),
        (
            {"input_ids": torch.tensor([[1, -3]])},
            "input_ids must be from 0 to 49, by the vocabulary; got -3",
        ),
        (
            {"attention_mask": torch.full((2, 11), 0.5)},
            "attention_mask must be 1 for text and 0 for padding; it holds other numbers",
        ),
        (
            {"attention_mask": [[1] * 11] * 2},
            "attention_mask must be a tensor; got a list",
        ),
        ({"input_ids": None}, "give either input_ids or inputs_embeds"),
        ({"atention_mask": torch.ones(2, 11)}, "this model takes no atention_mask"),
        (
            {"output_attentions": True},
            "this model returns no attentions; read them with hooks",
        ),
        (
            {"attention_mask": torch.ones(2, 1, 11, 11)},
            r"attention_mask must be \[batch, pos\], \[2, 11\]; got \[2, 1, 11, 11\]",
        ),
        (
            {"past_key_values": DynamicCache()},
            "past_key_values must be the BasedCache .* got a DynamicCache",
        ),
        ({"past_key_values": BasedCache(1)}, "past_key_values must be the BasedCache"),
        (
            {"logits_to_keep": -1},
            r"logits_to_keep is how many of the last positions get logits, 0 for all, .*; got -1",
        ),
        (
            {"logits_to_keep": 2.5},
            r"logits_to_keep is how many .*, or a tensor \[n\] of positions; got 2.5",
        ),
        ({"logits_to_keep": True}, "logits_to_keep is how many .*; got True"),
        (
            {"logits_to_keep": torch.tensor([0, 11])},
            "names positions that are not there: .* 11 .*; there are 11",
        ),
        (
            {"position_ids": torch.arange(1, 12)[None]},
            "counts positions itself, here from 0 to 10 .*no other position_ids; leave them out",
        ),
        ({"position_ids": torch.arange(10)[None]}, "takes no other position_ids"),
        ({"position_ids": list(range(11))}, "takes no other position_ids"),
        (
            {"logits_to_keep": 1, "labels": torch.zeros(2, 11, dtype=torch.int64)},
            r"the tokens that get logits, \[2, 1\]; got \[2, 11\]",
        ),
    ],
)
@pytest.mark.usefixtures("without_shape_checks")
def test_what_is_no_input_is_refused(options, said):
    with pytest.raises(sle.InvalidArgument, match=said):
        tiny_model()(**{"input_ids": tokens(), **options})


def test_a_cache_of_other_texts_is_refused():
    model = tiny_model()
    cache = model(tokens()).past_key_values
    with pytest.raises(
        sle.InvalidArgument,
        match="the cache remembers 2 texts, and tokens of 1 were given",
    ):
        model(tokens()[:1], past_key_values=cache)


@pytest.mark.parametrize(
    "place", ["model.layers.3", "model.layers.4.mixer.hook_pattern", "model.norm"]
)
def test_a_run_that_raises_leaves_the_cache_as_it_was(place):
    model, x = tiny_model(), tokens()
    cache = model(x[:, :6], use_cache=True).past_key_values

    def fail(*_):
        raise RuntimeError("by a hook")

    handle = model.get_submodule(place).register_forward_hook(fail)
    with pytest.raises(RuntimeError, match="by a hook"):
        model(x[:, 6:9], past_key_values=cache)
    handle.remove()
    assert cache.seen == 6
    torch.testing.assert_close(
        model(x[:, 6:], past_key_values=cache).logits, model(x).logits[:, 6:]
    )


def test_edits_of_two_ways_that_are_refused_leave_the_cache_as_it_was():
    model, x = tiny_model(), tokens()
    cache = model(x[:, :6], use_cache=True).past_key_values
    mixer = model.model.layers[4].mixer
    handles = [
        tap.register_forward_hook(lambda _, __, output: output * 2)
        for tap in (mixer.hook_pattern, mixer.hook_state)
    ]
    with pytest.raises(sle.InvalidArgument, match="two ways to one output"):
        model(x[:, 6:], past_key_values=cache)
    for handle in handles:
        handle.remove()
    torch.testing.assert_close(
        model(x[:, 6:], past_key_values=cache).logits, model(x).logits[:, 6:]
    )


def test_logits_can_be_had_of_chosen_positions():
    model, chosen = tiny_model(), torch.tensor([0, 3])
    torch.testing.assert_close(
        model(tokens(), logits_to_keep=chosen).logits, model(tokens()).logits[:, chosen]
    )
    torch.testing.assert_close(
        model(tokens(), logits_to_keep=2).logits, model(tokens()).logits[:, -2:]
    )


@pytest.mark.parametrize("number", [numpy.int64(2), torch.tensor(2)])
@pytest.mark.usefixtures("without_shape_checks")
def test_how_many_logits_may_be_a_number_of_any_kind(number):
    model = tiny_model()
    torch.testing.assert_close(
        model(tokens(), logits_to_keep=number).logits, model(tokens()).logits[:, -2:]
    )


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"layer_types": LAYERS[1:] + LAYERS[:1]},
            r"for a layer that keeps conv \[2, 48\] .* it holds kv \[3, 10, 8\] .*, k \[3, 10\]",
        ),
        (
            {"layer_types": LAYERS[:1] + LAYERS[2:] + LAYERS[1:2]},
            r"keeps kv \[3, 10, 8\], k \[3, 10\] .* it holds keys .*, seen \[\]",
        ),
        (
            {"layer_types": [*LAYERS[:2], "conv", *LAYERS[3:]]},
            r"keeps keys .* it holds conv \[2, 48\]",
        ),
        ({"hidden_size": 48}, r"keeps conv \[2, 48\] .* it holds conv \[2, 96\]"),
        ({"conv_kernel_size": 4}, r"it holds conv \[3, 48\]"),
        ({"feature_dim": 5}, r"it holds kv \[3, 15, 8\]"),
        ({"num_attention_heads": 2}, r"it holds kv \[2, 10, 12\]"),
        (
            {"sliding_window": 2},
            r"keeps keys \[3, 3, 8\], .* it holds keys \[2, 3, 8\]",
        ),
    ],
)
def test_a_cache_of_another_model_is_refused(changes, said):
    model, x = tiny_model(), tokens()
    cache = tiny_model(**changes)(x).past_key_values
    with pytest.raises(
        sle.InvalidArgument,
        match=rf"past_key_values must be the BasedCache that this model returned; .*{said}",
    ):
        model(x, past_key_values=cache)


@pytest.mark.parametrize("layer", ["conv", "linear_attention", "sliding_attention"])
@pytest.mark.parametrize(
    ("mine", "theirs"),
    [
        (torch.float32, torch.float64),
        (torch.float64, torch.float32),
        (torch.bfloat16, torch.float64),
    ],
)
def test_a_cache_of_another_type_is_refused(layer, mine, theirs):
    model, other = (
        tiny_model(num_hidden_layers=1, layer_types=[layer]).to(dtype)
        for dtype in (mine, theirs)
    )
    with pytest.raises(
        sle.InvalidArgument, match=rf"of every text \({mine}\) it holds .* {theirs}"
    ):
        model(tokens(), past_key_values=other(tokens()).past_key_values)


@pytest.mark.parametrize("first", [True, False])
def test_a_cache_may_come_out_of_autocast_or_go_into_it(first):
    model, x = tiny_model().float(), tokens()
    cache = BasedCache(5)
    for part, autocast in ((x[:, :6], first), (x[:, 6:], not first)):
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            found = model(part, past_key_values=cache, use_cache=True).logits
    wanted = model(x).logits[:, 6:]
    assert (found - wanted).norm() < 0.05 * wanted.norm()


def test_its_own_positions_are_taken_also_behind_text():
    model, x = tiny_model(), tokens()
    mask = torch.ones_like(x)
    mask[0, 8:] = 0
    own = torch.arange(x.shape[1])
    for positions in (
        own,
        own[None],
        own.expand(2, -1),
        (mask.cumsum(1) - 1).masked_fill(mask == 0, 1),
    ):
        torch.testing.assert_close(
            model(x, attention_mask=mask, position_ids=positions).logits,
            model(x).logits,
        )
    cache = model(x[:, :6], use_cache=True).past_key_values
    torch.testing.assert_close(
        model(x[:, 6:], past_key_values=cache, position_ids=own[None, 6:]).logits,
        model(x).logits[:, 6:],
    )
    generated = (
        model.generate(x, max_new_tokens=5, do_sample=False, **more)
        for more in ({}, {"position_ids": own.expand(2, -1)})
    )
    assert torch.equal(*generated)


def test_a_tuple_can_be_had():
    model, x = tiny_model(), tokens()
    named = model(x, labels=x, output_hidden_states=True)
    loss, logits, cache, states = model(
        x, labels=x, output_hidden_states=True, return_dict=False
    )
    assert torch.equal(loss, named.loss)
    assert torch.equal(logits, named.logits)
    assert cache.seen == x.shape[1]
    assert len(states) == len(named.hidden_states)
    model.config.return_dict = False
    assert torch.equal(model(x)[0], named.logits)
    assert torch.equal(
        model.model(x, return_dict=True).last_hidden_state, model.model(x)[0]
    )
    assert torch.equal(
        model.generate(x, max_new_tokens=3, do_sample=False)[:, : x.shape[1]], x
    )


_COMPILED = """
import torch
from sae_lens_ext.based import BasedConfig, BasedForCausalLM

shape = {"vocab_size": 50, "hidden_size": 24, "num_hidden_layers": 4, "num_attention_heads": 3, "feature_dim": 4}
kinds = ["conv", "linear_attention", "sliding_attention", "full_attention"]
model, x = BasedForCausalLM(BasedConfig(layer_types=kinds, **shape)).eval(), torch.randint(50, (2, 11))
compiled = torch.compile(model, backend="eager", fullgraph=True)
for options in ({}, {"logits_to_keep": 2}, {"position_ids": torch.arange(11)[None]}, {"labels": x}, {"return_dict": False}):
    found, plain = (one(x, use_cache=False, **options) for one in (compiled, model))
    torch.testing.assert_close(found[0], plain[0])
model = BasedForCausalLM(BasedConfig(layer_types=kinds[:2] * 2, **shape)).eval()
compiled = torch.compile(model, backend="eager", fullgraph=True)
cache = compiled(x[:, :6]).past_key_values
torch.testing.assert_close(compiled(x[:, 6:], past_key_values=cache).logits, model(x).logits[:, 6:])
"""


def test_it_compiles_whole():
    # In a process of its own: what checks shapes in tests cannot be compiled.
    subprocess.run(
        [sys.executable, "-c", _COMPILED],
        check=True,
        capture_output=True,
        text=True,
        timeout=300,
    )


def test_a_mask_of_yes_and_no_is_a_mask():
    model, x = tiny_model(), tokens()
    mask = torch.ones_like(x, dtype=torch.bool)
    mask[0, 8:] = False
    torch.testing.assert_close(model(x, attention_mask=mask).logits, model(x).logits)


@pytest.mark.parametrize("form", ["auto", "dense", "recurrent"])
def test_half_precision_around_a_model_leaves_its_sums_wide(form):
    model, x = tiny_model().float(), tokens(300)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = [hooked_layer(model, x, form), hooked_layer(model, x, "auto")]
        model.set_attention_form(form)
        past = model(x[:, :200], use_cache=True).past_key_values
        model(x[:, 200:], past_key_values=past, use_cache=True)
    # What goes in is bfloat16 in all forms, so they differ by float32 and one rounding to bfloat16 at the end.
    assert (found[0].float() - found[1].float()).abs().max() <= 2**-7 * found[
        1
    ].abs().max()


def hooked_layer(model, x, form):
    """What the heads of the first layer of linear attention find."""
    seen = []
    mixer = next(
        block.mixer
        for block in model.model.layers
        if isinstance(block.mixer, LinearAttention)
    )
    mixer.form = form
    handle = mixer.hook_z.register_forward_hook(lambda tap, given, z: seen.append(z))
    with torch.no_grad():
        model(x)
    handle.remove()
    return seen[0]


@pytest.mark.parametrize(
    "names",
    [
        ["hook_phi_q", "hook_phi_k"],
        ["hook_write"],
        ["hook_state"],
        ["hook_attn_scores", "hook_kernel"],
    ],
)
def test_taps_of_one_form_have_the_gradients_that_make_its_output(names):
    model, x, taps, held = tiny_model().double(), tokens(), [], {}
    mixer = next(
        block.mixer
        for block in model.model.layers
        if isinstance(block.mixer, LinearAttention)
    )
    for name in names:

        def keep(tap, given, out, name=name):
            out.retain_grad()
            held[name] = out

        taps.append(getattr(mixer, name).register_forward_hook(keep))
    model(x).logits.square().sum().backward()
    moved, step = dict(held), 1e-6
    for tap in taps:
        tap.remove()
    for name, tensor in moved.items():
        assert tensor.grad is not None, name
        direction = torch.randn_like(tensor)
        if name == "hook_kernel":
            direction = direction.tril()
        at = []
        for sign in (1, -1):
            handle = getattr(mixer, name).register_forward_hook(
                lambda tap, given, out, s=sign, d=direction: out + s * step * d
            )
            at.append(model(x).logits.square().sum().item())
            handle.remove()
        expected = (tensor.grad * direction).sum().item()
        assert (at[0] - at[1]) / (2 * step) == pytest.approx(expected, rel=1e-4)


def test_too_many_tokens_for_learned_positions_are_refused():
    model = tiny_model(max_position_embeddings=8)
    with pytest.raises(
        sle.InvalidArgument,
        match="this model has learned 8 positions; 11 tokens do not fit",
    ):
        model(tokens())


def test_a_model_can_be_copied():
    model = tiny_model()
    torch.testing.assert_close(
        copy.deepcopy(model)(tokens()).logits, model(tokens()).logits
    )
