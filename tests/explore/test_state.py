"""What the dial shows is what splices by hand compute."""

import json
import sys

import pytest
import tiny
import torch

import sae_lens_ext as sle

SITE = "blocks.1.hook_resid_post"
OTHER = "blocks.2.hook_resid_post"
TEXT = "w1 w2 w3 w4 w5"


@pytest.fixture(scope="module")
def model():
    return tiny.bridge()


@pytest.fixture(scope="module")
def sae():
    return tiny.sae()


def log_probs(model):
    with torch.no_grad():
        return model(TEXT)[0].double().log_softmax(-1)


def kls(reference, other):
    return (reference.exp() * (reference - other)).sum(-1)


def words(pairs):
    return [word for word, _ in pairs]


def likeliest(log_probs, n=8):
    return [tiny.WORDS[number] for number in log_probs.topk(n).indices.tolist()]


def test_the_view_is_that_of_a_splice_by_hand(model, sae):
    state = sle.DialState(model, sae, TEXT, k=3)
    state.look_at(2)
    view = state.view()
    bare = log_probs(model)
    with sle.splice(model, sae, k=3) as spliced:
        own = log_probs(model)
        code = spliced.codes[SITE][0, 2]

    assert view["tokens"] == ["<bos>", *TEXT.split()]
    assert words(view["bare"]) == likeliest(bare[2])
    assert words(view["spliced"]) == likeliest(own[2])
    torch.testing.assert_close(
        torch.tensor(view["kl"]).double(), kls(bare, own), rtol=1e-3, atol=1e-5
    )
    assert [item["feature"] for item in view["features"]] == code.indices.tolist()
    values = [item["value"] for item in view["features"]]
    torch.testing.assert_close(torch.tensor(values), code.values.detach())
    assert json.loads(json.dumps(view, allow_nan=False)) == view
    assert tiny.hooks_of(model) == tiny.hooks_of(tiny.bridge())


def test_turning_and_steering_are_those_of_a_splice(model, sae):
    state = sle.DialState(model, sae, TEXT, k=3)
    state.turn(6)
    state.pin(5, by=4.0)
    state.pin(7)
    bare = log_probs(model)
    with sle.splice(model, sae, k=6, edits=[sle.Steer(5, by=4.0)]):
        steered = log_probs(model)
    torch.testing.assert_close(
        state.kls().double(), kls(bare, steered), rtol=1e-3, atol=1e-5
    )
    pins = state.view()["pins"]
    assert [(pin["feature"], pin["by"]) for pin in pins] == [(5, 4.0), (7, 0.0)]

    state.unpin(5)
    with sle.splice(model, sae, k=6):
        own = log_probs(model)
    torch.testing.assert_close(
        state.kls().double(), kls(bare, own), rtol=1e-3, atol=1e-5
    )


def test_sites_turn_together_or_alone(model):
    saes = {SITE: tiny.sae(), OTHER: tiny.sae(k=4, seed=1)}
    state = sle.DialState(model, saes, TEXT)
    assert state.k == {SITE: 8, OTHER: 4}
    state.turn(6)
    assert state.k == {SITE: 6, OTHER: 4}
    state.turn({OTHER: 2})
    assert state.k == {SITE: 6, OTHER: 2}
    bare = log_probs(model)
    with sle.splice(model, saes, k={SITE: 6, OTHER: 2}):
        own = log_probs(model)
    torch.testing.assert_close(
        state.kls().double(), kls(bare, own), rtol=1e-3, atol=1e-5
    )


def test_labels_stand_beside_their_features(model, sae):
    label = "<script>alert(1)</script>"
    state = sle.DialState(model, sae, TEXT, labels={5: label})
    state.pin(5)
    assert state.view()["pins"][0]["label"] == label


def test_every_kind_has_a_dial(model):
    sae = tiny.sae_of_kind("jumprelu", hook_name=SITE).float()
    state = sle.DialState(model, sae, TEXT)
    with sle.splice(model, sae) as spliced, torch.no_grad():
        model(TEXT)
        widest = int(spliced.codes[SITE].l0().max())
    assert state.k == {SITE: widest}
    state.turn(2)
    assert len(state.view()["features"]) <= 2


def test_a_failed_request_says_why_and_changes_nothing(model, sae):
    state = sle.DialState(model, sae, TEXT, k=3)
    before = state.view()
    for request, reason in [
        ({"k": {SITE: 99}}, "k must be an integer from 1 to largest_k=8; got 99"),
        ({"k": {"there": 1}}, "there is no k at there"),
        ({"position": 77, "k": {SITE: 2}}, "position must be an integer from 0 to 5"),
        ({"pins": [{"site": SITE, "feature": 48, "by": 1.0}]}, "feature must be"),
        ({"pins": [{"feature": 4}]}, "KeyError"),
    ]:
        view = state.updated(request)
        assert reason in view.pop("error")
        assert view == {name: before[name] for name in view}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"text": ["w1 w2", "w3"]}, "the dial shows one text; got 2"),
        ({"k": 0}, "k must be an integer from 1 to largest_k=8; got 0"),
    ],
)
def test_rejects_invalid_arguments(model, sae, options, message):
    with pytest.raises((sle.InvalidArgument, sle.InvalidK), match=message):
        sle.DialState(model, sae, **{"text": TEXT, **options})


def test_the_widget_answers_requests(model, sae):
    widget = sle.dial(model, sae, TEXT, k=3)
    assert widget.view["answers"] == 0
    widget.request = {"number": 4, "k": {SITE: 2}, "position": 1, "pins": []}
    assert widget.view["answers"] == 4
    assert widget.state.k == {SITE: 2}
    assert widget.view["position"] == 1
    widget.request = {"number": 5, "k": {SITE: 0}}
    assert "k must be an integer" in widget.view["error"]


def test_without_anywidget_the_extra_is_named(model, sae, monkeypatch):
    monkeypatch.setitem(sys.modules, "anywidget", None)
    monkeypatch.delitem(sys.modules, "sae_lens_ext.viz.dial_widget", raising=False)
    with pytest.raises(sle.MissingDependency, match="sae-lens-ext\\[viz\\]"):
        sle.dial(model, sae, TEXT)
