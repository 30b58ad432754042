"""A splice works around and inside every way in which nnsight runs a model."""

import copy
import subprocess
import sys

import nnsight
import pytest
import tiny
import torch
import transformers
from nnsight.modeling.transformers import TransformersModel
from paths import TESTS

import sae_lens_ext as sle

SITE = "blocks.1.hook_resid_post"


@pytest.fixture(scope="module")
def lm():
    return tiny.hosted("transformers_model")


@pytest.fixture
def sae():
    return tiny.sae(exclude_special_tokens=True)


def _expected(tokens, sae, **options):
    plain = tiny.hf_model("gemma2")
    with torch.no_grad(), sle.splice(plain, sae, **options):
        return plain(tokens).logits


def test_a_trace_sees_the_spliced_value_at_the_site_and_after_it(lm, sae):
    tokens = tiny.tokens()
    with sle.splice(lm, sae, k=3) as spliced:
        with lm.trace(tokens):
            at_site = lm.model.layers[1].output.save()
            next_input = lm.model.layers[2].input.save()
            logits = lm.output.logits.save()
        code = spliced.codes[SITE]
    torch.testing.assert_close(at_site[:, 1:], sae.decode(code)[:, 1:])
    assert torch.equal(at_site, next_input)
    torch.testing.assert_close(logits, _expected(tokens, sae, k=3))


def test_a_splice_and_a_trace_fit_on_one_line(lm, sae):
    tokens = tiny.tokens()
    with sle.splice(lm, sae, k=3), lm.trace(tokens):
        logits = lm.output.logits.save()
    torch.testing.assert_close(logits, _expected(tokens, sae, k=3))


def test_the_user_s_changes_come_after_the_splice(lm, sae):
    tokens = tiny.tokens()
    with sle.splice(lm, sae, k=3) as spliced, lm.trace(tokens):
        lm.model.layers[1].output = lm.model.layers[1].output * 2
        later = lm.model.layers[2].input.save()
    torch.testing.assert_close(later[:, 1:], 2 * sae.decode(spliced.codes[SITE])[:, 1:])


def test_k_turns_between_traces_and_between_the_steps_of_a_generation(lm, sae):
    tokens = tiny.tokens()
    with sle.splice(lm, sae, k=8) as spliced:
        for k in (8, 2):
            spliced.k = k
            with lm.trace(tokens):
                logits = lm.output.logits.save()
            torch.testing.assert_close(logits, _expected(tokens, sae, k=k))
        with lm.generate(tokens, max_new_tokens=3, do_sample=False) as tracer:
            ks = [].save()
            for step in tracer.iter[:3]:
                _ = lm.model.layers[1].output
                ks.append(spliced.codes[SITE].k)
                spliced.k = step + 4
    assert ks == [2, 4, 5]


def test_apply_splices_a_trace_from_inside(lm, sae):
    tokens = tiny.tokens()
    with lm.trace(tokens):
        sle.splice(lm, sae, k=3).apply()
        logits = lm.output.logits.save()
    torch.testing.assert_close(logits, _expected(tokens, sae, k=3))
    with lm.trace(tokens):
        bare = lm.output.logits.save()
    assert torch.equal(bare, tiny.logits(tiny.hosted("nnsight"), tokens))


def test_apply_splices_every_step_of_a_generation(lm, sae):
    tokens = tiny.tokens()
    with (
        sle.splice(lm, sae, k=3),
        lm.generate(tokens, max_new_tokens=4, do_sample=False) as tracer,
    ):
        around = tracer.result.save()
    with lm.generate(tokens, max_new_tokens=4, do_sample=False) as tracer:
        for _ in tracer.iter[:4]:
            sle.splice(lm, sae, k=3).apply()
        inside = tracer.result.save()
    assert torch.equal(around, inside)


def test_several_sites_inside_a_trace_are_met_in_order(lm, sae):
    saes = {"blocks.2.hook_mlp_out": tiny.sae(seed=1), SITE: sae}
    tokens = tiny.tokens()
    with lm.trace(tokens):
        sle.splice(lm, saes, k=3).apply()
        logits = lm.output.logits.save()
    torch.testing.assert_close(logits, _expected(tokens, saes, k=3))


def test_a_session_is_spliced_from_inside_and_around(lm, sae):
    tokens = tiny.tokens()
    with lm.session():
        with lm.trace(tokens):
            sle.splice(lm, sae, k=3).apply()
            at_3 = lm.output.logits.save()
        with lm.trace(tokens):
            sle.splice(lm, sae, k=2).apply()
            at_2 = lm.output.logits.save()
    torch.testing.assert_close(at_3, _expected(tokens, sae, k=3))
    torch.testing.assert_close(at_2, _expected(tokens, sae, k=2))
    # nnsight reads a session's block from the source, so it has a `with` of its own.
    with sle.splice(lm, sae, k=2):  # noqa: SIM117
        with lm.session():
            with lm.trace(tokens):
                around = lm.output.logits.save()
    assert torch.equal(around, at_2)


def test_several_invokers_are_one_run(lm, sae):
    with sle.splice(lm, sae, k=3) as spliced:
        with lm.trace() as tracer:
            with tracer.invoke("w1 w2 w3 w4"):
                first = lm.output.logits.save()
            with tracer.invoke("w5 w6 w7 w8"):
                second = lm.output.logits.save()
        assert spliced.codes[SITE].values.shape == (2, 5, 3)
    for text, logits in (("w1 w2 w3 w4", first), ("w5 w6 w7 w8", second)):
        ids = tiny.tokenizer()(text, return_tensors="pt").input_ids
        torch.testing.assert_close(logits, _expected(ids, sae, k=3), rtol=0, atol=1e-5)


def test_a_scan_needs_no_numbers(lm, sae):
    with (
        sle.splice(lm, sae, k=3, error_term=True, edits=[sle.Steer(3, by=1.0)]),
        lm.scan(tiny.tokens()),
    ):
        shape = nnsight.save(lm.output.logits.shape)
    assert shape == (2, 10, 96)


_SENT = """
import sys
sys.path.insert(0, {tests!r})
import nnsight
import tiny
import torch
import sae_lens_ext as sle
# All of the package that is loaded is packed with the trace, so this is as well.
import sae_lens_ext.demo, sae_lens_ext.training

nnsight.register("sae_lens_ext")
lm = tiny.hosted("transformers_model")
tokens = tiny.tokens()
sae = tiny.sae(exclude_special_tokens=True)
edits = [sle.Steer(5, by=1.0)]

plain = tiny.hf_model("gemma2")
with torch.no_grad(), sle.splice(plain, sae, k=3, edits=edits):
    expected = plain(tokens).logits

with lm.trace(tokens, remote="local"):
    sle.splice(lm, sae, k=3, edits=edits).apply()
    inside = lm.output.logits.save()
with sle.splice(lm, sae, k=3, edits=edits):
    with lm.trace(tokens, remote="local"):
        around = lm.output.logits.save()

torch.testing.assert_close(inside, expected)
torch.testing.assert_close(around, expected)
"""


def test_a_splice_is_sent_with_a_trace(tmp_path):
    """remote="local" packs everything as for a server.

    It unpacks it where this package's files cannot be seen.
    """
    # In a process of its own, because a package cannot be unregistered; in a file,
    # because nnsight reads the block's source.
    script = tmp_path / "sent.py"
    script.write_text(_SENT.format(tests=str(TESTS)))
    process = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, check=False
    )
    assert process.returncode == 0, process.stderr


def test_leaves_the_state_dict_and_the_model_s_own_edits(sae):
    lm = tiny.hosted("transformers_model")
    names = list(lm._module.state_dict())
    tokens = tiny.tokens()
    with lm.edit(inplace=True):
        lm.model.layers[3].output = lm.model.layers[3].output * 0.5
    with lm.trace(tokens):
        before = lm.output.logits.save()
    with sle.splice(lm, sae):
        assert list(lm._module.state_dict()) == names
        tiny.logits(lm, tokens)
    assert len(lm._edits) == 1
    assert torch.equal(tiny.logits(lm, tokens), before)
    with sle.splice(lm, sae):
        lm.clear_edits()
    assert lm._edits == []


def test_rejects_partial_runs_of_an_edited_model(lm, sae):
    with (
        sle.splice(lm, sae),
        pytest.raises(sle.UnsupportedHost, match="this nnsight model has edits"),
    ):
        sle.sweep_k(lm, tiny.tokens(), sae, progress=False)


def test_an_error_in_a_trace_leaves_no_edit(lm, sae):
    tokens = tiny.tokens()
    bare = tiny.logits(lm, tokens)

    def broken():
        with sle.splice(lm, sae), lm.trace(tokens):
            lm.model.layers[0].output = lm.model.layers[0].output * float("nan")

    with pytest.raises(sle.NonFinite, match="at blocks.1.hook_resid_post"):
        broken()
    assert lm._edits == []
    assert torch.equal(tiny.logits(lm, tokens), bare)


def test_rejects_apply_outside_a_trace(lm, gpt2, sae):
    with pytest.raises(
        sle.InvalidArgument, match=r"apply\(\) works inside a trace of the model"
    ):
        sle.splice(lm, sae, positions="all").apply()
    with pytest.raises(
        sle.InvalidArgument, match=r"apply\(\) works inside a trace of the model"
    ):
        sle.splice(lm, tiny.sae(exclude_special_tokens=True)).apply()
    with pytest.raises(
        sle.InvalidArgument, match=r"apply\(\) is for traces of nnsight models"
    ):
        sle.splice(gpt2, sae).apply()


def test_rejects_a_splice_opened_inside_a_trace(lm, sae):
    with (
        pytest.raises(
            sle.InvalidArgument,
            match="a trace is running already; open the splice around it, or call its "
            "apply",
        ),
        lm.trace(tiny.tokens()),
    ):
        sle.splice(lm, sae).attach()
    assert lm._edits == []


def test_weights_are_loaded_before_parts_of_a_model_run(tmp_path, sae):
    folder = tmp_path / "tiny"
    tiny.hf_model("gemma2").save_pretrained(folder)
    lm = TransformersModel(
        str(folder),
        tokenizer=tiny.tokenizer(),
        task="text-generation",
        attn_implementation="eager",
    )
    tokens = tiny.tokens()
    with sle.splice(lm, sae, k=3):
        logits = tiny.logits(lm, tokens)
    torch.testing.assert_close(logits, _expected(tokens, sae, k=3), rtol=0, atol=1e-5)
    later = TransformersModel(
        str(folder),
        tokenizer=tiny.tokenizer(),
        task="text-generation",
        attn_implementation="eager",
    )
    frame = sle.sweep_k(later, tokens, copy.deepcopy(sae), ks=[3], progress=False)
    assert frame["ce"].notna().all()


def test_texts_are_accepted_where_token_ids_are(lm, sae):
    tokens = lm.tokenizer("w1 w2 w3", return_tensors="pt").input_ids
    assert sle.Run.capture(lm, "w1 w2 w3", sae) == sle.Run.capture(lm, tokens, sae)


def test_a_site_inside_a_block_is_not_checked_by_a_run_within_a_trace():
    family = transformers.AutoConfig.for_model(
        "bloom", vocab_size=96, hidden_size=32, n_layer=2, n_head=4
    )
    bloom = transformers.AutoModelForCausalLM.from_config(family).eval()
    site = {"blocks.1.hook_attn_out": tiny.sae()}
    unknown = nnsight.NNsight(bloom)
    with (
        pytest.raises(Exception, match="and a trace is running; look the site up once"),
        unknown.trace(tiny.tokens()),
    ):
        sle.splice(unknown, site).apply()

    # Of these it was seen before, or is known by the family's name.
    sle.splice(unknown, site)
    for model in (unknown, tiny.hosted("nnsight")):
        bare = tiny.logits(model, tiny.tokens())
        with model.trace(tiny.tokens()):
            sle.splice(model, site).apply()
            logits = model.output.logits.save()
        assert not torch.allclose(logits, bare, atol=1e-3)
