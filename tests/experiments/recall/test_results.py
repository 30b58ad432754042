"""Summaries of a table of results, against numbers computed by hand."""

import numpy as np
import pytest
import quick_recall

from sae_lens_ext.experiments.recall import at_best_lr, differences, summary


def test_kernel_counts_at_the_learning_rate_that_is_best_on_average():
    best = at_best_lr(quick_recall.results())
    assert best.groupby("kernel")["lr"].unique().map(list).to_dict() == {
        "based": [1e-2],
        "rebased": [1e-3],
    }

    lines = summary(quick_recall.results()).set_index("kernel")
    assert list(lines.index) == ["based", "rebased"]
    assert lines.loc["based"].to_dict() == pytest.approx(
        {
            "lr": 1e-2,
            "runs": 2,
            "accuracy": 0.4,
            "std": 0.02**0.5,
            "se": 0.1,
            "solved": 0,
            "steps_to_solve": np.nan,
            "seconds": 0.02,
        },
        nan_ok=True,
    )
    columns = ["runs", "solved", "steps_to_solve"]
    expected = [3, 2 / 3, 200]
    assert lines.loc["rebased", columns].tolist() == pytest.approx(expected)


def test_difference_has_its_standard_error():
    lines = differences(quick_recall.results())
    assert lines[["first", "second"]].to_numpy().tolist() == [["based", "rebased"]]

    spread = np.std([0.95, 0.85, 0.99], ddof=1)
    se = (0.1**2 + spread**2 / 3) ** 0.5
    difference = np.mean([0.95, 0.85, 0.99]) - 0.4
    expected = [difference, se, difference / se]
    columns = ["difference", "se", "t"]
    assert lines.loc[0, columns].tolist() == pytest.approx(expected)


def test_single_seed_has_no_standard_error():
    results = quick_recall.results()
    single = results[results["seed"] == 0]
    assert summary(single)["se"].isna().all()
    assert np.isnan(differences(single).loc[0, "t"])
    assert differences(single[single["kernel"] == "based"]).empty
