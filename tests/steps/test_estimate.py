"""How long a plan says that a training takes."""

import pytest
from helpers import parameters

from kdflow.dataset import Dataset
from kdflow.needs import Planned
from kdflow.steps import estimate
from kdflow.steps.baseline import BaselineConfig
from kdflow.steps.run import ALL_STEPS


@pytest.mark.parametrize(
    ("epochs", "batch_size", "expected"),
    [
        (10, 64, ", under a minute"),
        # 54 images; small networks wait for their batches, however few the multiply-adds
        (10_000, 1, ", about 9 minutes"),
        (10_000, 64, ", under a minute"),
    ],
)
def test_many_small_batches_take_their_time(
    epochs: int, batch_size: int, expected: str, tiny: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(estimate, "seconds_per_image", lambda *_: 0.001)
    config = parameters(
        BaselineConfig, dataset="digits", student="pupil", epochs=epochs, batch_size=batch_size
    )
    planned = Planned(ALL_STEPS["baseline"], config)
    assert estimate.duration_estimator(tiny)(planned) == expected
