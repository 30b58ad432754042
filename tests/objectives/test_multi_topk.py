"""MultiTopK's second level ends at d_sae."""

import pytest
import tiny

import sae_lens_ext as sle
from sae_lens_ext.objectives import MultiTopK, TopK


@pytest.mark.parametrize(("k", "second"), [(11, 44), (12, 48), (20, 48), (48, 48)])
def test_the_second_level_ends_at_d_sae(u, k, second):
    sae = tiny.sae(k=48)
    loss, code = MultiTopK(weight=0.5)(sae, u, k)
    expected = TopK()(sae, u, k).value + TopK()(sae, u, second).value / 2
    assert loss.item() == pytest.approx(expected.item())
    assert code.k == k


@pytest.mark.parametrize("options", [{"factor": 1}, {"weight": 0.0}])
def test_rejects_invalid_options(options):
    with pytest.raises(sle.InvalidArgument, match=f"{next(iter(options))} must be a"):
        MultiTopK(**options)
