"""Learning rate and k follow their schedules, and saved configs keep their k."""

import pytest
import small_training
from small_training import CONFIG

from sae_lens_ext.training import TrainConfig
from sae_lens_ext.training.schedules import active_features, learning_rate


def test_learning_rate_rises_stays_and_falls():
    rates = [
        learning_rate(step, 20, peak=2.0, warmup=0.2, decay=0.5) for step in range(20)
    ]
    assert rates[:4] == pytest.approx([0.5, 1.0, 1.5, 2.0])
    assert rates[4:11] == [2.0] * 7
    assert rates[11:] == pytest.approx([1.8 - 0.2 * i for i in range(9)])


def test_k_goes_linearly_to_its_end_and_stays_there():
    ks = [active_features(step, 10, first=12, last=4, share=0.4) for step in range(10)]
    assert ks == [12, 10, 8, 6, 4, 4, 4, 4, 4, 4]
    assert active_features(0, 10, first=12, last=4, share=0.0) == 4


def test_k_without_a_start_is_constant():
    assert {CONFIG.k_at(step, 20) for step in range(20)} == {4}


def test_the_k_schedule_trains_at_each_k_and_leaves_the_config(monkeypatch):
    seen = []
    objective = type(CONFIG.objective)
    call = objective.__call__

    def watched(self, sae, u, k, **options):
        seen.append(k)
        return call(self, sae, u, k, **options)

    monkeypatch.setattr(objective, "__call__", watched)
    config = TrainConfig(d_sae=32, k=4, batch_size=32, k_start=12, k_decay=0.2)
    trained = small_training.run(config=config)

    assert seen == [12, 10, 8, 6] + [4] * 16
    assert trained.sae.config.k == 4
    assert trained.sae.config.levels == (1, 2, 3, 4)
    assert config.k_start == 12
