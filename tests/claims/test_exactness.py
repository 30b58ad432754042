"""No sequence of what a user can do with splices leaves anything in a model.

Random sequences run on two hosts at once.
"""

import pytest
import tiny
import torch
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

import sae_lens_ext as sle
from sae_lens_ext.interventions import Splice

SITES = ["blocks.0.hook_resid_post", "blocks.2.hook_mlp_out", "blocks.3.hook_resid_pre"]
TOKENS = tiny.tokens(rows=2, length=6)
HOSTS = ("lens", "transformers_model")


def _marks(model):
    """Everything a splice could leave in a model.

    Hooks, names of tensors, edits and hook points.
    """
    module = getattr(model, "_module", model)
    return (
        [
            (
                name,
                len(part._forward_hooks),
                len(part._forward_pre_hooks),
                len(getattr(part, "fwd_hooks", ())),
            )
            for name, part in module.named_modules()
        ],
        list(module.state_dict()),
        len(getattr(model, "_edits", ())),
        sorted(model.hook_dict) if hasattr(model, "hook_dict") else [],
    )


class SplicesOnTwoHosts(RuleBasedStateMachine):
    """Every step is done on both hosts.

    Every run must give the same numbers on both, and those of the bare model when
    nothing is attached.
    """

    @initialize()
    def start(self):
        self.models = {host: tiny.hosted(host) for host in HOSTS}
        # Wrapping leaves marks of its own, so a first run comes before the first look.
        self.bare = {
            host: tiny.logits(model, TOKENS).detach()
            for host, model in self.models.items()
        }
        self.marks = {host: _marks(model) for host, model in self.models.items()}
        self.splices = []

    @rule(
        sites=st.lists(st.sampled_from(SITES), min_size=1, max_size=2, unique=True),
        k=st.integers(1, 8),
        error_term=st.sampled_from([False, True, "reference"]),
    )
    @precondition(lambda self: len(self.splices) < 3)
    def attach(self, sites, k, error_term):
        saes = {site: tiny.sae(seed=SITES.index(site)) for site in sites}
        self.splices.append(
            {
                host: sle.splice(model, saes, k=k, error_term=error_term).attach()
                for host, model in self.models.items()
            }
        )

    @rule(data=st.data(), k=st.one_of(st.integers(1, 8), st.just(sle.until_fvu(0.5))))
    @precondition(lambda self: self.splices)
    def turn(self, data, k):
        for spliced in data.draw(st.sampled_from(self.splices)).values():
            spliced.k = k

    @rule(data=st.data(), feature=st.integers(0, 47), by=st.floats(-4, 4))
    @precondition(lambda self: self.splices)
    def edit(self, data, feature, by):
        for spliced in data.draw(st.sampled_from(self.splices)).values():
            spliced.edits = {
                next(iter(spliced.saes)): [
                    sle.Steer(feature, by=by),
                    sle.Ablate((feature + 1) % 48),
                ]
            }

    @rule(data=st.data())
    @precondition(lambda self: self.splices)
    def detach(self, data):
        spliced = data.draw(st.sampled_from(self.splices))
        self.splices.remove(spliced)
        for splice in spliced.values():
            splice.detach()

    @rule()
    def run(self):
        with torch.no_grad():
            logits = {
                host: tiny.logits(model, TOKENS) for host, model in self.models.items()
            }
        torch.testing.assert_close(
            logits[HOSTS[1]], logits[HOSTS[0]], rtol=0, atol=1e-5
        )

    @rule()
    @precondition(lambda self: self.splices)
    def raise_in_a_run(self):
        for model in self.models.values():
            try:
                with sle.splice(
                    model,
                    {"blocks.1.hook_resid_pre": tiny.sae()},
                    positions=torch.ones(5, dtype=torch.bool),
                ):
                    tiny.logits(model, TOKENS)
            except sle.ShapeMismatch:
                continue
            raise AssertionError("a mask of another shape must be refused")

    @invariant()
    def nothing_is_left_when_nothing_is_attached(self):
        if getattr(self, "splices", None) == []:
            for host, model in self.models.items():
                assert torch.equal(tiny.logits(model, TOKENS), self.bare[host]), host
                assert _marks(model) == self.marks[host], host

    def teardown(self):
        for spliced in getattr(self, "splices", []):
            for splice in spliced.values():
                splice.detach()
        self.splices = []
        if hasattr(self, "models"):
            self.nothing_is_left_when_nothing_is_attached()


TestSplicesOnTwoHosts = SplicesOnTwoHosts.TestCase
TestSplicesOnTwoHosts.settings = settings(
    max_examples=15,
    stateful_step_count=12,
    deadline=None,
    derandomize=True,
    database=None,
)


def test_a_splice_that_stays_is_caught(monkeypatch):
    monkeypatch.setattr(Splice, "detach", lambda self: None)
    with pytest.raises((AssertionError, ExceptionGroup)):
        run_state_machine_as_test(
            SplicesOnTwoHosts,
            settings=settings(TestSplicesOnTwoHosts.settings, phases=[Phase.generate]),
        )
