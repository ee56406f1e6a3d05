"""A training that was interrupted ends with the very weights of one that was not."""

from collections.abc import Iterator
from pathlib import Path

import keras
import numpy as np
import pytest
from fitting import without_times

from kdflow.artifacts.checkpoints import Checkpoint
from kdflow.config.fitting import Settings
from kdflow.config.views import Views
from kdflow.dataset import Images
from kdflow.hardware import Precision
from kdflow.network import build, weights_sha256
from kdflow.training import state
from kdflow.training.loop import Epoch, fit
from kdflow.training.objective import Distillation

EPOCHS = 3


class Killed(Exception):
    """The process would end here."""


@pytest.fixture
def checkpoint(tmp_path: Path) -> Checkpoint:
    return Checkpoint(tmp_path)


def training(
    network_name: str,
    optimizer: str,
    train: Images,
    validation: Images,
    teacher_logits: np.ndarray,
    checkpoint: Checkpoint | None,
    precision: Precision = "float32",
) -> tuple[keras.Model, Iterator[Epoch]]:
    network = build(network_name, train, 3, seed=4)
    # a rate that changes with every step, dropout, and views that are drawn for each epoch
    settings = Settings(optimizer, 0.01, EPOCHS, 8, seed=4, schedule="triangular", views=Views(2))
    settings = settings._replace(precision=precision)
    objective = Distillation(teacher_logits, temp=4, alpha=0.9)
    return network, fit(network, train, validation, objective, settings, checkpoint)


@pytest.mark.parametrize(
    ("network_name", "optimizer", "precision"),
    [
        pytest.param("student", "adam", "float32", marks=pytest.mark.slow),
        pytest.param("student", "adam", "bfloat16", marks=pytest.mark.slow),
        pytest.param("student", "muon", "float32", marks=pytest.mark.slow),
        pytest.param("fast", "speedrun", "float32", marks=pytest.mark.slow),
        ("pupil", "sgd", "float32"),
    ],
)
def test_between_epochs(
    network_name: str,
    optimizer: str,
    precision: Precision,
    train: Images,
    validation: Images,
    teacher_logits: np.ndarray,
    checkpoint: Checkpoint,
) -> None:
    given = network_name, optimizer, train, validation, teacher_logits
    whole, epochs = training(*given, None, precision)
    expected = list(epochs)
    _, epochs = training(*given, checkpoint, precision)
    next(epochs), next(epochs)
    resumed, epochs = training(*given, checkpoint, precision)
    found = list(epochs)
    assert weights_sha256(resumed) == weights_sha256(whole)
    assert [epoch for epoch, _ in found] == [1, 2, 3]
    assert without_times([m for _, m in found]) == without_times([m for _, m in expected])


@pytest.mark.slow
@pytest.mark.parametrize("part", [7, 3])
@pytest.mark.parametrize("kept", [1, 4, 9])
def test_within_an_epoch(
    kept: int,
    part: int,
    train: Images,
    validation: Images,
    teacher_logits: np.ndarray,
    checkpoint: Checkpoint,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    given = "student", "adam", train, validation, teacher_logits
    whole, epochs = training(*given, None)
    expected = [metrics for _, metrics in epochs]

    save, states = Checkpoint.save, []

    def killed_after(checkpoint: Checkpoint, *state: object) -> None:
        save(checkpoint, *state)  # type: ignore[arg-type]
        states.append(state)
        if len(states) == kept:
            raise Killed

    monkeypatch.setattr(state, "KEEP_EVERY", 0)
    monkeypatch.setattr("kdflow.training.loop.batches_at_once", lambda *_: 2)
    monkeypatch.setattr("kdflow.training.loop.batches_in_part", lambda _: part)
    with monkeypatch.context() as patch:
        patch.setattr(Checkpoint, "save", killed_after)
        with pytest.raises(Killed):
            list(training(*given, checkpoint)[1])
    loaded = checkpoint.load()
    assert loaded
    # 54 images are 7 batches, 2 at a time; where a part ends, so does a call
    kept_at = {7: [2, 4, 6, 0], 3: [2, 3, 5, 6, 0]}[part]
    assert loaded[1]["batches"] == kept_at[(kept - 1) % len(kept_at)]
    resumed, epochs = training(*given, checkpoint)
    found = [metrics for _, metrics in epochs]
    assert weights_sha256(resumed) == weights_sha256(whole)
    for one, other in zip(expected, found, strict=True):
        for name in ("train_loss", "train_accuracy", "val_loss", "learning_rate"):
            assert one[name] == pytest.approx(other[name], rel=1e-5), name


@pytest.mark.slow
def test_a_damaged_state_starts_again_and_says_so(
    train: Images,
    validation: Images,
    teacher_logits: np.ndarray,
    checkpoint: Checkpoint,
    capsys: pytest.CaptureFixture[str],
) -> None:
    given = "pupil", "adam", train, validation, teacher_logits
    next(training(*given, checkpoint)[1])
    file = checkpoint.folder / "state.npz"
    file.write_bytes(file.read_bytes()[:500])
    whole, epochs = training(*given, None)
    list(epochs)
    again, epochs = training(*given, checkpoint)
    assert len(list(epochs)) == EPOCHS
    assert "cannot be read" in capsys.readouterr().out
    assert weights_sha256(again) == weights_sha256(whole)


def test_a_full_disk_ends_no_training(
    train: Images,
    validation: Images,
    teacher_logits: np.ndarray,
    checkpoint: Checkpoint,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def full(*_: object) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(Checkpoint, "save", full)
    _, epochs = training("pupil", "adam", train, validation, teacher_logits, checkpoint)
    assert len(list(epochs)) == EPOCHS
    assert "could not be saved (No space left on device)" in capsys.readouterr().out
