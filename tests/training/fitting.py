"""What the tests of training share."""

import keras
import numpy as np

from kdflow.config.fitting import Settings
from kdflow.config.views import Views
from kdflow.dataset import Images
from kdflow.network import build
from kdflow.training.loop import fit
from kdflow.training.objective import Labels, Objective
from kdflow.training.progress import Metrics

MEASURED = {"epoch_seconds", "images_per_second"}


def without_times(history: list[Metrics]) -> list[Metrics]:
    """The metrics that do not depend on the machine's speed."""
    return [{k: v for k, v in metrics.items() if k not in MEASURED} for metrics in history]


def fitted(
    train: Images,
    validation: Images,
    objective: Objective | None = None,
    seed: int = 0,
    network_name: str = "pupil",
    views: int = 1,
) -> tuple[keras.Model, list[Metrics]]:
    """A small student after two epochs, and its metrics without the measured times."""
    network = build(network_name, train, 3, seed=seed)
    settings = Settings("adam", 0.001, epochs=2, batch_size=16, seed=seed, views=Views(views))
    epochs = fit(network, train, validation, objective or Labels(), settings)
    return network, without_times([metrics for _, metrics in epochs])


def equal_weights(a: keras.Model, b: keras.Model) -> bool:
    return all(map(np.array_equal, a.get_weights(), b.get_weights()))
