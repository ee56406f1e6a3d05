"""Which epoch's weights a training ends with, and when it stops."""

from collections.abc import Iterator
from pathlib import Path

import keras
import numpy as np
import pytest
from fitting import equal_weights

from kdflow.artifacts import checkpoints
from kdflow.config.fitting import Keep, Settings
from kdflow.dataset import Images
from kdflow.network import build
from kdflow.training import loop
from kdflow.training.loop import fit
from kdflow.training.objective import Labels
from kdflow.training.selection import best_epoch

LOSSES = [3.0, 1.0, 2.0, 1.0, 5.0]
ACCURACIES = [0.1, 0.2, 0.4, 0.4, 0.3]


@pytest.fixture(autouse=True)
def _validation_goes_like_this(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first epochs' metrics are `LOSSES` and `ACCURACIES`, by how far the optimiser is."""
    measured = zip(LOSSES, ACCURACIES, strict=True)

    def validate(*_: object) -> dict[str, float]:
        loss, accuracy = next(measured)
        return {"val_loss": loss, "val_accuracy": accuracy}

    monkeypatch.setattr(loop, "_validate", validate)


def settings(keep: Keep = "last", patience: int = 0) -> Settings:
    return Settings("adam", 0.01, len(LOSSES), 16, seed=0, keep=keep, patience=patience)


def trained(
    train: Images, validation: Images, chosen: Settings
) -> tuple[keras.Model, list[list[np.ndarray]]]:
    """A network after its training, and its weights after each epoch."""
    network = build("pupil", train, 3, seed=0)
    epochs = fit(network, train, validation, Labels(), chosen)
    return network, [network.get_weights() for _ in epochs]


@pytest.mark.parametrize(("keep", "epoch"), [("last", 5), ("best_loss", 2), ("best_accuracy", 3)])
def test_a_training_ends_with_the_weights_that_are_asked_for(
    keep: Keep, epoch: int, train: Images, validation: Images
) -> None:
    network, after = trained(train, validation, settings(keep))
    assert len(after) == 5
    assert all(map(np.array_equal, network.get_weights(), after[epoch - 1]))


@pytest.mark.parametrize(
    ("keep", "patience", "epochs"),
    [("last", 1, 3), ("last", 3, 5), ("best_loss", 2, 4), ("best_accuracy", 2, 5)],
)
def test_a_training_stops_after_that_many_epochs_without_a_better_one(
    keep: Keep, patience: int, epochs: int, train: Images, validation: Images
) -> None:
    _, after = trained(train, validation, settings(keep, patience))
    assert len(after) == epochs


@pytest.mark.slow
@pytest.mark.usefixtures("cache")
@pytest.mark.parametrize("interrupted_after", [1, 3, 4])
def test_a_resumed_training_ends_with_the_same_weights(
    interrupted_after: int, train: Images, validation: Images
) -> None:
    chosen = settings("best_loss", 2)
    whole = build("pupil", train, 3, seed=0)
    with checkpoints.locked("it") as checkpoint:
        epochs: Iterator[object] = fit(whole, train, validation, Labels(), chosen, checkpoint)
        for _ in range(interrupted_after):
            next(epochs)
    with checkpoints.locked("it") as checkpoint:
        resumed = build("pupil", train, 3, seed=1)
        assert len(list(fit(resumed, train, validation, Labels(), chosen, checkpoint))) == 4
    best = trained_for_two_epochs(train, validation)
    assert all(map(np.array_equal, resumed.get_weights(), best))


def trained_for_two_epochs(train: Images, validation: Images) -> list[np.ndarray]:
    network = build("pupil", train, 3, seed=0)
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(loop, "_validate", lambda *_: {"val_loss": 1.0, "val_accuracy": 1.0})
        epochs = fit(network, train, validation, Labels(), settings())
        next(epochs)
        next(epochs)
    weights: list[np.ndarray] = network.get_weights()
    return weights


def test_the_earliest_of_equal_epochs_is_the_best() -> None:
    history = [
        {"val_loss": loss, "val_accuracy": accuracy}
        for loss, accuracy in zip(LOSSES, ACCURACIES, strict=True)
    ]
    assert best_epoch(history, "last") == best_epoch(history, "best_loss") == 2
    assert best_epoch(history, "best_accuracy") == 3
    assert best_epoch([], "best_loss") == 0


@pytest.mark.slow
def test_the_moving_average_is_evaluated_and_kept_and_the_training_goes_on_from_the_weights(
    train: Images, validation: Images, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    one_step = Settings("sgd", 0.01, 5, len(train.indices), seed=0)
    _, after = trained(train, validation, one_step)
    expected = after[0]
    averages = [expected]
    for weights in after[1:]:
        expected = [0.8 * mean + 0.2 * new for mean, new in zip(expected, weights, strict=True)]
        averages.append(expected)
    evaluated = []

    def validate(network: keras.Model, _: Images) -> dict[str, float]:
        evaluated.append(network.get_weights())
        return {"val_loss": 1.0, "val_accuracy": 1.0}

    monkeypatch.setattr(loop, "_validate", validate)
    network, own = trained(train, validation, one_step._replace(ema=0.8))
    for epoch in range(5):
        for found, mean in zip(evaluated[epoch], averages[epoch], strict=True):
            np.testing.assert_allclose(found, mean, rtol=1e-4, atol=1e-6)
        assert all(map(np.array_equal, own[epoch], after[epoch]))
    assert all(map(np.array_equal, network.get_weights(), evaluated[-1]))
    assert not equal_weights(network, build("pupil", train, 3, seed=0))
