"""A padded batch gives what each of its texts gives alone, on every host.

Sixteen texts of sixteen lengths, padded on the left and on the right: logits, codes,
edits at positions, tables, means and generation.
"""

import nnsight
import pandas
import pytest
import tiny
import torch

import sae_lens_ext as sle
from sae_lens_ext.training import collect_activations

SITE = "blocks.1.hook_resid_post"
SIDES = ("left", "right")
CLOSE = {"rtol": 0, "atol": 1e-5}


def _texts(n=16, step=1):
    """Texts of n to 1 words behind a BOS, none of them alike."""
    lengths = range(n, 0, -step)
    return [tiny.tokens(1, 1 + length, seed=length)[0] for length in lengths]


def _padded(texts, side):
    """A tokenizer's output for these texts."""
    width = max(len(text) for text in texts)
    ids = torch.zeros(len(texts), width, dtype=torch.int64)
    mask = torch.zeros(len(texts), width, dtype=torch.int64)
    for row, text in enumerate(texts):
        columns = slice(width - len(text), None) if side == "left" else slice(len(text))
        ids[row, columns] = text
        mask[row, columns] = 1
    return {"input_ids": ids, "attention_mask": mask}


@pytest.fixture(scope="module", params=tiny.HOSTS)
def model(request):
    """A tiny Gemma 2, as each host opens it."""
    return tiny.hosted(request.param)


@pytest.fixture(scope="module")
def sae():
    """An SAE that was trained with special tokens."""
    return tiny.sae()


def _run(model, batch):
    """The logits of the host's own call on a tokenizer's output."""
    ids, mask = batch["input_ids"], batch["attention_mask"]
    # As generate and tokenizers of padded batches would have it.
    position_ids = (mask.cumsum(1) - 1).clamp(min=0)
    if hasattr(model, "trace"):
        with model.trace(ids, attention_mask=mask, position_ids=position_ids):
            logits = nnsight.save(model.output.logits)
        return logits
    if hasattr(model, "original_model"):
        return model(ids, attention_mask=mask)
    return model(ids, attention_mask=mask, position_ids=position_ids).logits


def _hidden(model, batch):
    """The activation at the site, as the host's own means show it."""
    ids, mask = batch["input_ids"], batch["attention_mask"]
    if hasattr(model, "trace"):
        with model.trace(ids, attention_mask=mask):
            output = nnsight.save(model.model.layers[1].output)
        return output[0] if isinstance(output, tuple) else output
    if hasattr(model, "original_model"):
        _, cache = model.run_with_cache(ids, attention_mask=mask, names_filter=SITE)
        return cache[SITE]
    output = model(ids, attention_mask=mask, output_hidden_states=True)
    return output.hidden_states[2]


_EDITS = {
    "k": {"k": 3},
    "k by position": {"k": torch.tensor([8, 1, 2, 3] * 5)},
    "k by rule": {"k": sle.until_fvu(0.3)},
    "a slice": {"positions": slice(1, -1)},
    "the last": {"positions": [-1]},
    "numbers": {"positions": [0, 2, -2]},
    "error term": {
        "error_term": True,
        "edits": [
            sle.Steer(3, by=5.0, positions=[-1, 1]),
            sle.Scale(range(20), by=3.0, positions=slice(2, None)),
        ],
    },
    "the reference": {"k": 2, "error_term": "reference"},
    "a direction": {
        "edits": [sle.AddDirection(torch.arange(32.0), positions=slice(None, 3))]
    },
}


@pytest.mark.parametrize("name", _EDITS)
def test_spliced_runs_are_those_of_each_text_alone(model, sae, name):
    options = _EDITS[name]
    # All of them once; of the others, every third shows the same.
    texts = _texts(step=1 if name == "error term" else 3)
    with torch.no_grad(), sle.splice(model, sae, **options) as spliced:

        def run(batch):
            return _run(model, batch), spliced.codes[SITE].dense()

        batches = {side: _padded(texts, side) for side in SIDES}
        together = {side: run(batch) for side, batch in batches.items()}
        # A text alone has no padding on any side.
        alone = [run(_padded([text], "left")) for text in texts]

    for side, (logits, codes) in together.items():
        mask = batches[side]["attention_mask"].bool()
        assert not codes[~mask].any(), side
        for row, expected in enumerate(alone):
            found = logits[row, mask[row]], codes[row, mask[row]]
            for tensor, of_text in zip(found, expected, strict=True):
                torch.testing.assert_close(tensor, of_text[0], **CLOSE)


@pytest.mark.parametrize("side", SIDES)
def test_padding_keeps_its_bits(model, sae, side):
    batch = _padded(_texts(6), side)
    mask = batch["attention_mask"].bool()
    with torch.no_grad(), sle.splice(model, sae):
        spliced = _hidden(model, batch)
    with torch.no_grad():
        bare = _hidden(model, batch)
    assert torch.equal(spliced[~mask], bare[~mask])
    assert not torch.isclose(spliced[mask], bare[mask]).all(-1).any()


@pytest.mark.parametrize("side", SIDES)
def test_means_are_over_the_text(model, sae, side):
    batch = _padded(_texts(5), side)
    mask = batch["attention_mask"].bool()
    edits = [sle.Ablate(range(48), to="mean")]
    with torch.no_grad():
        with sle.splice(model, sae, edits=edits) as spliced:
            by_mean = _run(model, batch)
            means = spliced.codes[SITE].dense()[mask].mean(0)
        numbers = [sle.Ablate(range(48), to=means.tolist())]
        with sle.splice(model, sae, edits=numbers):
            by_numbers = _run(model, batch)
    torch.testing.assert_close(by_mean[mask], by_numbers[mask], **CLOSE)


@pytest.mark.parametrize("side", SIDES)
def test_a_mask_in_columns_is_in_columns(model, sae, side):
    texts = _texts(4)
    batch = _padded(texts, side)
    mask = batch["attention_mask"].bool()
    chosen = torch.rand(mask.shape, generator=torch.Generator().manual_seed(0)) < 0.5
    with torch.no_grad(), sle.splice(model, sae, positions=chosen) as spliced:
        _run(model, batch)
        active = spliced.codes[SITE].l0() > 0
    assert torch.equal(active, chosen & mask)


@pytest.mark.parametrize("side", SIDES)
def test_a_run_is_that_of_each_text_alone(model, sae, side):
    texts = _texts()
    batch = _padded(texts, side)
    mask = batch["attention_mask"].bool()
    run = sle.Run.capture(model, batch, sae)
    assert run.mask(SITE).equal(mask)
    assert run == sle.Run.from_dict(run.to_dict())
    codes = run.codes[SITE].dense()
    assert not codes[~mask].any()
    alone = [sle.Run.capture(model, text, sae) for text in texts]
    for row, expected in enumerate(alone):
        dense = expected.codes[SITE].dense()
        torch.testing.assert_close(codes[row, mask[row]], dense[0], **CLOSE)
    features = [0, 5, 7]
    weighted = sum(
        expected.mean_activations(SITE, features) * len(text)
        for expected, text in zip(alone, texts, strict=True)
    )
    torch.testing.assert_close(
        run.mean_activations(SITE, features), weighted / mask.sum(), **CLOSE
    )


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("edit", [sle.Patch, sle.Ablate])
def test_activations_of_another_run_come_from_the_same_position(model, sae, side, edit):
    texts = _texts(6)
    others = [(text + 7) % 90 + 4 for text in texts]
    source = "source" if edit is sle.Patch else "to"
    # The runs are padded on one side and applied to a batch padded on the other.
    other = "left" if side == "right" else "right"
    run = sle.Run.capture(model, _padded(others, other), sae)
    batch = _padded(texts, side)
    mask = batch["attention_mask"].bool()
    with torch.no_grad():
        edits = [edit(range(24), **{source: run})]
        with sle.splice(model, sae, edits=edits):
            logits = _run(model, batch)
        for row, text in enumerate(texts):
            alone = sle.Run.capture(model, others[row], sae)
            edits = [edit(range(24), **{source: alone})]
            with sle.splice(model, sae, edits=edits):
                expected = _run(model, _padded([text], side))
            torch.testing.assert_close(logits[row, mask[row]], expected[0], **CLOSE)


@pytest.mark.parametrize("positions", [None, slice(1, None), [-1, 2]], ids=str)
def test_a_table_is_that_of_each_text_alone(model, sae, positions):
    texts = _texts()
    options = {"ks": [1, 4], "positions": positions, "progress": False}
    alone = [sle.sweep_k(model, text, sae, **options) for text in texts]
    # The last one's text has a single prediction; all are weighted by theirs.
    n_scored = torch.tensor([table.attrs["n_scored"] for table in alone])
    weights = n_scored / n_scored.sum()

    def mean(values):
        return weights @ torch.tensor(values)

    expected_bare = mean([table.attrs["ce_bare"] for table in alone])
    for side in SIDES:
        frame = sle.sweep_k(model, _padded(texts, side), sae, **options)
        n_spliced = sum(table.attrs["n_spliced"] for table in alone)
        assert frame.attrs["n_scored"] == n_scored.sum() == sum(range(1, 17)), side
        assert frame.attrs["n_spliced"] == n_spliced, side
        for name in ("ce", "kl"):
            expected = mean([table[name].tolist() for table in alone])
            found = frame[name].tolist()
            assert found == pytest.approx(expected.tolist(), abs=1e-5), side
        found = frame.attrs["ce_bare"]
        assert found == pytest.approx(expected_bare.item(), abs=1e-5), side


def test_every_form_of_texts_of_any_lengths_gives_the_same_table(model, sae):
    texts = _texts(4)
    forms = [
        _padded(texts, "left"),
        _padded(texts, "right"),
        [text.tolist() for text in texts],
        sle.token_batch(model, texts),
    ]
    options = {"ks": [2], "batch_size": 3, "progress": False}
    tables = [sle.sweep_k(model, form, sae, **options) for form in forms]
    for table in tables[1:]:
        pandas.testing.assert_frame_equal(table, tables[0], rtol=1e-6)


@pytest.mark.parametrize("side", SIDES)
def test_collected_activations_are_those_of_each_text_alone(model, side):
    texts = _texts(5)
    options = {"progress": False, "batch_size": 2}
    together = collect_activations(model, _padded(texts, side), SITE, **options)
    alone = [collect_activations(model, text, SITE, progress=False) for text in texts]
    assert together.n_special == 5, "a BOS each, and no padding"
    torch.testing.assert_close(
        together.values, torch.cat([part.values for part in alone]), **CLOSE
    )


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("positions", [None, [-1], [0, 1]], ids=str)
def test_a_difference_in_means_is_over_the_texts(model, side, positions):
    texts = _texts(6)
    options = {"positions": positions}
    direction = sle.difference_in_means(
        model, SITE, _padded(texts[:3], side), _padded(texts[3:], side), **options
    )
    sums = []
    for part in (texts[:3], texts[3:]):
        rows = []
        for text in part:
            run = torch.arange(1, len(text)) if positions is None else positions
            hidden = _hidden(model, _padded([text], side))
            rows.append(hidden[0, run])
        sums.append(torch.cat(rows).mean(0))
    torch.testing.assert_close(direction, (sums[0] - sums[1]).float(), **CLOSE)


@pytest.fixture(scope="module")
def generator():
    """A tiny Gemma 2 whose generation does not end early, and its prompts."""
    model = tiny.hf_model("gemma2")
    model.generation_config.eos_token_id = None
    return model


def _generated(model, batch, **options):
    options = {"max_new_tokens": 5, "do_sample": False, **options}
    with torch.no_grad():
        return model.generate(**batch, **options)[:, batch["input_ids"].shape[1] :]


@pytest.mark.parametrize("cache", ["dynamic", "static", None])
@pytest.mark.parametrize(
    "options",
    [
        {"k": 2},
        {"k": 2, "positions": slice(3, None)},
        {"k": torch.arange(1, 9).repeat(4)[:24]},
        {"edits": [sle.AddDirection(torch.arange(32.0), positions=slice(4, 20))]},
        {"edits": [sle.Steer(3, by=50.0, positions=[5, 8])]},
    ],
    ids=str,
)
def test_generation_of_padded_prompts_is_that_of_each_prompt_alone(
    generator, sae, options, cache
):
    texts = _texts(6)
    batch = _padded(texts, "left")
    how = {"use_cache": False} if cache is None else {"cache_implementation": cache}
    if cache == "static":
        how["disable_compile"] = True
    with sle.splice(generator, sae, **options):
        together = _generated(generator, batch, **how)
        alone = [
            _generated(generator, _padded([text], "left"), **how) for text in texts
        ]
    assert together.tolist() == torch.cat(alone).tolist()


def test_codes_of_a_padded_generation_are_of_the_newest_tokens(generator, sae):
    batch = _padded(_texts(6), "left")
    with sle.splice(generator, sae, positions=slice(7, None)) as spliced:
        _generated(generator, batch, max_new_tokens=2)
    # The second new token is predicted at positions 7, 6, ... of texts of 7, 6, ...
    active = spliced.codes[SITE].l0()[:, 0] > 0
    assert active.tolist() == [True] + [False] * 5


def test_the_newest_token_is_the_last_of_every_row(generator, sae):
    texts = _texts(4)
    with sle.splice(generator, sae, k=1, positions=[-1]) as spliced:
        together = _generated(generator, _padded(texts, "left"))
        assert (spliced.codes[SITE].l0() > 0).all()
        alone = [_generated(generator, _padded([text], "left")) for text in texts]
    assert together.tolist() == torch.cat(alone).tolist()


@pytest.mark.parametrize("use_cache", [True, False])
def test_rejects_generation_after_padding_on_the_right(generator, sae, use_cache):
    batch = _padded(_texts(3), "right")
    with (
        sle.splice(generator, sae),
        pytest.raises(sle.InvalidArgument, match="pad prompts on the left"),
    ):
        _generated(generator, batch, use_cache=use_cache)


def test_a_bridge_generates_from_texts_of_any_lengths(gemma2, sae):
    prompts = ["w1 w2 w3 w4 w5", "w6", "w7 w8"]
    options = {"max_new_tokens": 4, "do_sample": False, "verbose": False}
    options |= {"stop_at_eos": False, "return_type": "tokens"}
    with sle.splice(gemma2, sae, k=2, positions=slice(2, None)):
        together = gemma2.generate(prompts, **options)[:, -4:]
        alone = [gemma2.generate(prompt, **options)[:, -4:] for prompt in prompts]
    assert together.tolist() == torch.cat(alone).tolist()


def test_nnsight_pads_prompts_of_several_invokes_on_the_left(sae):
    model = tiny.hosted("transformers_model")
    prompts = ["w1 w2 w3 w4 w5", "w6", "w7 w8"]
    logits = []
    with torch.no_grad(), sle.splice(model, sae, k=2, positions=[1, -1]) as spliced:
        with model.trace() as tracer:
            for prompt in prompts:
                with tracer.invoke(prompt):
                    logits.append(nnsight.save(model.output.logits[0, -1]))
        active = spliced.codes[SITE].l0() > 0
        assert active.sum(1).tolist() == [2, 1, 2]
        assert active[:, -1].all()
        for prompt, of_invoke in zip(prompts, logits, strict=True):
            with model.trace(prompt):
                alone = nnsight.save(model.output.logits[0, -1])
            torch.testing.assert_close(of_invoke, alone, **CLOSE)


def test_a_model_that_takes_no_mask_is_run_on_padded_batches_too(sae):
    """Such a model cannot see padding on the right, and a splice leaves it alone."""

    class Wrapped(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = tiny.hf_model("gemma2")

        def get_output_embeddings(self):
            return self.inner.lm_head

        def forward(self, ids):
            return self.inner(ids)

    model = Wrapped()
    texts = _texts(4)
    batch = _padded(texts, "left")
    run = sle.Run.capture(model, batch, sae)
    expected = sle.Run.capture(model.inner, batch, sae)
    torch.testing.assert_close(
        run.codes[SITE].dense(), expected.codes[SITE].dense(), **CLOSE
    )

    # Padding has no part in the means of a splice that is active meanwhile.
    below = {"blocks.0.hook_resid_post": tiny.sae(seed=3)}
    edits = [sle.Ablate(range(48), to="mean")]
    runs = []
    for spliced in (model, model.inner):
        with sle.splice(spliced, below, edits=edits):
            runs.append(sle.Run.capture(spliced, batch, sae).codes[SITE].dense())
    torch.testing.assert_close(*runs, **CLOSE)
