"""A sweep as text."""

import pandas

from sae_lens_ext.viz import sweep_as_text


def test_shows_a_sweep_between_its_ends():
    sweep = pandas.DataFrame(
        {
            "k": [1, 32, None],
            "l0": [1.0, 31.96, 85.5],
            "fvu": [0.5, 0.1234, 0.1],
            "ce": [4.0, 3.2, 3.1],
            "ce_recovered": [0.6, 0.96, 0.98],
            "ce_recovered_zero": [0.9, 0.98, 0.99],
            "kl": [1.0, 0.2, 0.1],
        }
    )
    sweep.attrs.update(ce_bare=3.0, ce_mean=8.6, ce_zero=23.8)
    assert sweep_as_text(sweep).splitlines() == [
        "             k     l0     fvu      ce  recovered (zero end)      kl",
        "    bare model          0.000   3.000      1.000      1.000   0.000",
        "             1    1.0   0.500   4.000      0.600      0.900   1.000",
        "            32   32.0   0.123   3.200      0.960      0.980   0.200",
        "           all   85.5   0.100   3.100      0.980      0.990   0.100",
        "  mean-ablated          1.000   8.600      0.000",
        "  zero-ablated                 23.800                 0.000",
    ]
