import numpy as np
import pytest

from kdflow.training.schedules import SCHEDULES


@pytest.mark.parametrize(
    ("schedule", "progress", "share"),
    [
        ("constant", 0.0, 1.0),
        ("constant", 0.9, 1.0),
        ("cosine", 0.0, 1.0),
        ("cosine", 0.5, 0.5),
        ("cosine", 0.75, (1 - np.sqrt(0.5)) / 2),
        ("cosine", 1.0, 0.0),
        ("triangular", 0.0, 0.2),
        ("triangular", 0.115, 0.6),
        ("triangular", 0.23, 1.0),
        ("triangular", 0.615, 0.535),
        ("triangular", 1.0, 0.07),
    ],
)
def test_a_schedule_gives_a_share_of_the_largest_rate(
    schedule: str, progress: float, share: float
) -> None:
    rate = SCHEDULES[schedule](0.5, 1000)
    given = rate if schedule == "constant" else float(rate(round(1000 * progress)))
    assert given == pytest.approx(0.5 * share, abs=1e-7)
