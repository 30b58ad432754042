"""SAEs and transcoders to train, with their batches; and how gradients are compared."""

import tiny
import torch

D_OUT = 20
FORMS = {
    "sae": {},
    "transcoder": {"d_out": D_OUT},
    "skip": {"d_out": D_OUT, "skip_connection": True},
}


def batch(form, n=13):
    """Input and target in float64; the target of an SAE is None."""
    u = torch.randn(n, 32, dtype=torch.float64)
    if form == "sae":
        return u, None
    return u, torch.randn(n, D_OUT, dtype=torch.float64)


def sae_for(kind, form, **config):
    """A random SAE in float64 with 48 features, some thresholds near activations."""
    sae = tiny.sae_of_kind(kind, **FORMS[form], **config)
    if kind == "jumprelu":
        sae.threshold.data.abs_()
    return sae


def value_and_gradients(loss, sae):
    """A loss and its gradients; zeros where a tensor has no part in it."""
    weights = sae.weights()
    gradients = torch.autograd.grad(
        loss, list(weights.values()), allow_unused=True, materialize_grads=True
    )
    return {"loss": loss.detach(), **dict(zip(weights, gradients, strict=True))}


def assert_equals_oracle(objective, oracle, sae, u, target, k, **options):
    loss = objective(sae, u, k, target=target, **options)
    what = u if target is None else target
    expected = value_and_gradients(oracle(sae, u, what, k), sae)
    found = value_and_gradients(loss.value, sae)
    for name, truth in expected.items():
        torch.testing.assert_close(
            found[name],
            truth,
            rtol=1e-10,
            atol=1e-12,
            msg=lambda text, name=name: f"{name}: {text}",
        )
    return loss
