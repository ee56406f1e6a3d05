import numpy as np
import pytest

from kdflow.config.fitting import Settings
from kdflow.training.schedules import SCHEDULES, schedule


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


def test_a_warmup_rises_linearly_to_what_the_schedule_gives() -> None:
    settings = Settings("adam", 0.5, 10, 1, 0, schedule="cosine", warmup=2)
    warmed = schedule(settings, 100)
    plain = SCHEDULES["cosine"](0.5, 1000)
    steps = [0, 49, 99, 199, 200, 999]
    shares = [1 / 200, 50 / 200, 100 / 200, 1, 1, 1]
    expected = [share * float(plain(step)) for share, step in zip(shares, steps, strict=True)]
    assert [float(warmed(step)) for step in steps] == pytest.approx(expected, rel=1e-5)
    constant = schedule(settings._replace(schedule="constant"), 100)
    assert [float(constant(step)) for step in (0, 99, 500)] == pytest.approx([0.0025, 0.25, 0.5])
