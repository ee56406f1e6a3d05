import gc
from collections.abc import Generator
from typing import Any

import keras
import numpy as np
import pytest
from fitting import equal_weights, fitted, without_times
from scipy.special import softmax

from kdflow.catalogue.losses import LOSSES
from kdflow.config.fitting import Settings
from kdflow.config.views import Views
from kdflow.dataset import Dataset, Images
from kdflow.errors import KdflowError
from kdflow.evaluate.metrics import nll, predict_logits
from kdflow.network import build, weights_sha256
from kdflow.training import loop
from kdflow.training.loop import fit
from kdflow.training.objective import Distillation, Labels
from kdflow.training.order import epoch_data, epoch_order
from kdflow.training.progress import Metrics


def weights_of(loss: str) -> dict[str, float]:
    """Of a loss, at their defaults."""
    return {name: weight.default for name, weight in LOSSES[loss].weights.items()}


def linear(regulariser: keras.Regularizer | None = None, initial: float = 0) -> keras.Model:
    """A linear network of 8x8x3 pixels and three classes, whose gradients have a closed form."""
    inputs = keras.Input((8, 8, 3), dtype="uint8")
    flat = keras.layers.Flatten()(keras.layers.Rescaling(1 / 255)(inputs))
    layer = keras.layers.Dense(
        3,
        kernel_initializer=keras.initializers.Constant(initial),
        kernel_regularizer=regulariser,
    )
    return keras.Model(inputs, layer(flat))


@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0])
def test_weights_after_three_epochs_are_those_of_a_hand_written_descent(
    train: Images, validation: Images, teacher_logits: np.ndarray, alpha: float
) -> None:
    # full batches with Nesterov momentum
    temp, rate, momentum = 3.0, 0.05, 0.9
    network = linear()
    settings = Settings("sgd", rate, epochs=3, batch_size=54, seed=0)
    list(fit(network, train, validation, Distillation(teacher_logits, temp, alpha), settings))

    x = train.images[train.indices].reshape(54, -1) / 255
    y = np.eye(3)[train.labels[train.indices]]
    p = softmax(teacher_logits[0, train.indices].astype(float) / temp, axis=1)
    w, b = np.zeros((192, 3)), np.zeros(3)
    velocity_w, velocity_b = np.zeros_like(w), np.zeros_like(b)
    for _ in range(3):
        z = x @ w + b
        by_z = (1 - alpha) * (softmax(z, axis=1) - y) + alpha * temp * (
            softmax(z / temp, axis=1) - p
        )
        gradient_w, gradient_b = x.T @ by_z / 54, by_z.mean(axis=0)
        velocity_w = momentum * velocity_w - rate * gradient_w
        velocity_b = momentum * velocity_b - rate * gradient_b
        w += momentum * velocity_w - rate * gradient_w
        b += momentum * velocity_b - rate * gradient_b
    kernel, bias = network.get_weights()
    np.testing.assert_allclose(kernel, w, atol=1e-6)
    np.testing.assert_allclose(bias, b, atol=1e-6)


def test_the_regularisers_of_layers_count(train: Images, validation: Images) -> None:
    # all weights are 0.02, so that the logits of the classes are equal: a cross-entropy of ln 3
    network = linear(keras.regularizers.L2(0.5), initial=0.02)
    settings = Settings("sgd", 0.05, epochs=1, batch_size=54, seed=0)
    ((_, metrics),) = fit(network, train, validation, Labels(), settings)
    assert metrics["train_loss"] == pytest.approx(np.log(3) + 0.5 * 192 * 3 * 0.02**2, rel=1e-5)

    x = train.images[train.indices].reshape(54, -1) / 255
    y = np.eye(3)[train.labels[train.indices]]
    gradient = x.T @ (1 / 3 - y) / 54 + 2 * 0.5 * 0.02
    # Nesterov's first step is 1.9 times that of plain descent
    np.testing.assert_allclose(network.get_weights()[0], 0.02 - 1.9 * 0.05 * gradient, atol=1e-6)


def test_epochs_are_trained_as_they_are_taken(train: Images, validation: Images) -> None:
    settings = Settings("adam", 0.001, epochs=1, batch_size=16, seed=0)
    alone = build("pupil", train, 3, seed=0)
    ((_, metrics),) = fit(alone, train, validation, Labels(), settings)

    network = build("pupil", train, 3, seed=0)
    before = network.get_weights()
    epochs = fit(network, train, validation, Labels(), settings._replace(epochs=5))
    assert all(map(np.array_equal, network.get_weights(), before))
    epoch, first = next(epochs)
    assert isinstance(epochs, Generator)
    epochs.close()
    assert epoch == 1
    assert first["train_loss"] == metrics["train_loss"]
    assert equal_weights(network, alone)


def test_the_rate_of_a_schedule_is_followed_and_logged(train: Images, validation: Images) -> None:
    settings = Settings("adam", 0.01, epochs=2, batch_size=16, seed=0, schedule="cosine")
    epochs = fit(build("pupil", train, 3, seed=0), train, validation, Labels(), settings)
    # as each epoch begins
    rates = [metrics["learning_rate"] for _, metrics in epochs]
    assert rates == pytest.approx([0.01, 0.005], abs=1e-8)


@pytest.fixture(scope="module")
def baselines() -> dict[str, tuple[keras.Model, list[Metrics]]]:
    """What training from labels has given, by the network's name."""
    return {}


@pytest.mark.parametrize(
    ("network_name", "loss"),
    [
        pytest.param("fast", "kd", marks=pytest.mark.slow),
        ("pupil", "kd"),
        *(pytest.param("pupil", loss, marks=pytest.mark.slow) for loss in LOSSES if loss != "kd"),
    ],
)
def test_alpha_0_is_the_baseline_bit_for_bit(
    train: Images,
    validation: Images,
    teacher_logits: np.ndarray,
    baselines: dict[str, tuple[keras.Model, list[Metrics]]],
    network_name: str,
    loss: str,
) -> None:
    if network_name not in baselines:
        baselines[network_name] = fitted(train, validation, network_name=network_name)
    baseline, alone = baselines[network_name]
    objective = Distillation(teacher_logits, temp=8, alpha=0, loss=loss, weights=weights_of(loss))
    distilled, taught = fitted(train, validation, objective, network_name=network_name)
    assert equal_weights(baseline, distilled)
    assert [{name: epoch[name] for name in alone[0]} for epoch in taught] == alone


def test_alpha_1_uses_no_label(
    train: Images, validation: Images, teacher_logits: np.ndarray
) -> None:
    distillation = Distillation(teacher_logits, temp=8, alpha=1)
    network, _ = fitted(train, validation, distillation)
    mislabelled = Images(train.images, (train.labels + 1) % 3, train.indices)
    assert equal_weights(network, fitted(mislabelled, validation, distillation)[0])


@pytest.mark.slow
@pytest.mark.parametrize("loss", LOSSES)
def test_every_loss_brings_the_student_closer_to_its_teacher(
    tiny: Dataset, train: Images, validation: Images, loss: str
) -> None:
    # the teacher ranks the classes by how close their brightness is to the image's
    brightness = tiny.x_train.mean(axis=(1, 2, 3))[:, None] / 80
    teacher_logits = -3 * abs(brightness - np.array([0.5, 1.5, 2.5]))[None]
    network = build("student", train, 3, seed=0)
    objective = Distillation(teacher_logits, temp=2, alpha=1, loss=loss, weights=weights_of(loss))
    settings = Settings("adam", 0.001, epochs=30, batch_size=18, seed=0)
    history = [metrics for _, metrics in fit(network, train, validation, objective, settings)]
    first, last = (epoch["train_soft_loss"] for epoch in (history[0], history[-1]))
    assert 0 < last < first / 3
    student = predict_logits(network, train.images[train.indices])
    agreed = student.argmax(axis=1) == teacher_logits[0, train.indices].argmax(axis=1)
    assert agreed.mean() > 0.9


@pytest.mark.slow
def test_the_same_seed_gives_the_same_metrics_and_another_seed_does_not(
    train: Images, validation: Images, teacher_logits: np.ndarray
) -> None:
    distillation = Distillation(teacher_logits, temp=4, alpha=0.5)
    first, metrics = fitted(train, validation, distillation, seed=1, views=2)
    keras.utils.set_random_seed(77)
    second, again = fitted(train, validation, distillation, seed=1, views=2)
    assert metrics == again
    assert equal_weights(first, second)
    assert fitted(train, validation, distillation, seed=2, views=2)[1] != metrics


@pytest.mark.slow
@pytest.mark.parametrize(("network_name", "optimizer"), [("student", "adam"), ("fast", "speedrun")])
@pytest.mark.parametrize("part", [1, 3])
def test_an_epoch_in_parts_gives_the_weights_of_an_epoch_in_one(
    train: Images,
    validation: Images,
    teacher_logits: np.ndarray,
    monkeypatch: pytest.MonkeyPatch,
    network_name: str,
    optimizer: str,
    part: int,
) -> None:
    # 54 images are 7 batches; the rate changes with every step, and views are drawn anew
    settings = Settings(
        optimizer, 0.01, epochs=2, batch_size=8, seed=3, schedule="cosine", views=Views(4)
    )
    logits = np.tile(teacher_logits, (2, 1, 1))
    objective = Distillation(logits, temp=4, alpha=0.9)
    asked: list[int] = []

    def recorded(*given: Any, **named: Any) -> Any:
        images, targets = epoch_data(*given, **named)
        asked.append(len(images))
        return images, targets

    def trained() -> tuple[str, list[Metrics]]:
        asked.clear()
        network = build(network_name, train, 3, seed=3)
        history = [m for _, m in fit(network, train, validation, objective, settings)]
        return weights_sha256(network), without_times(history)

    monkeypatch.setattr(loop, "epoch_data", recorded)
    whole, expected = trained()
    assert max(asked) == 54
    monkeypatch.setattr(loop, "batches_in_part", lambda _: part)
    in_parts, found = trained()
    assert max(asked) == 8 * part
    assert in_parts == whole
    for one, other in zip(expected, found, strict=True):
        assert one == pytest.approx(other, rel=1e-5)


def test_the_weights_do_not_depend_on_how_many_batches_a_call_trains_on(
    train: Images,
    validation: Images,
    teacher_logits: np.ndarray,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    trained = []
    for count in (1, 4, 50):
        monkeypatch.setattr(loop, "batches_at_once", lambda *_, count=count: count)
        objective = Distillation(teacher_logits, temp=4, alpha=0.5)
        trained.append(fitted(train, validation, objective, network_name="student", views=2)[0])
    assert equal_weights(trained[0], trained[1])
    assert equal_weights(trained[0], trained[2])


def test_a_batch_that_spoils_the_loss_is_counted_from_the_epochs_beginning(
    train: Images,
    validation: Images,
    teacher_logits: np.ndarray,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(loop, "batches_in_part", lambda _: 4)
    monkeypatch.setattr(loop, "batches_at_once", lambda *_: 1)
    order, _ = epoch_order(train.indices, seed=0, epoch=1)
    spoiled = teacher_logits.astype(np.float32)
    spoiled[0, order[2 * 9]] = np.nan
    settings = Settings("adam", 0.001, epochs=1, batch_size=2, seed=0)
    objective = Distillation(spoiled, temp=4, alpha=0.5)
    with pytest.raises(KdflowError, match="got nan in epoch 1 of 1, by batch 10 of 27 "):
        list(fit(build("pupil", train, 3, seed=0), train, validation, objective, settings))


def test_only_the_students_weights_move(
    train: Images, validation: Images, teacher_logits: np.ndarray
) -> None:
    given, images = teacher_logits.copy(), train.images.copy()
    objective = Distillation(given, temp=4, alpha=0.5)
    student, _ = fitted(train, validation, objective, network_name="student", views=2)
    initial = build("student", train, 3, seed=0)
    moved = [
        not np.array_equal(a, b) for a, b in zip(student.weights, initial.weights, strict=True)
    ]
    assert all(moved)
    assert np.array_equal(given, teacher_logits)
    assert np.array_equal(train.images, images)


def test_metrics_are_those_of_the_documentation_after_each_epoch(
    train: Images, validation: Images, teacher_logits: np.ndarray
) -> None:
    network = build("student", train, 3, seed=0)
    objective = Distillation(teacher_logits, temp=2, alpha=0.25)
    settings = Settings("adam", 0.002, epochs=3, batch_size=16, seed=0)
    epochs = list(fit(network, train, validation, objective, settings))
    assert [epoch for epoch, _ in epochs] == [1, 2, 3]
    last = epochs[-1][1]
    assert set(last) == {
        *("train_loss", "train_accuracy", "train_hard_loss", "train_soft_loss"),
        *("val_loss", "val_accuracy", "learning_rate", "epoch_seconds", "images_per_second"),
    }
    mixed = 0.75 * last["train_hard_loss"] + 0.25 * last["train_soft_loss"]
    assert last["train_loss"] == pytest.approx(mixed, rel=1e-5)
    assert last["learning_rate"] == pytest.approx(0.002)
    assert last["images_per_second"] * last["epoch_seconds"] == pytest.approx(54)

    probabilities = softmax(np.asarray(network(validation.images[:6])), axis=1)
    of_labels = probabilities[np.arange(6), validation.labels[:6]]
    assert last["val_loss"] == pytest.approx(-np.log(of_labels).mean(), rel=1e-5)
    assert last["val_accuracy"] == (probabilities.argmax(1) == validation.labels[:6]).mean()


def test_the_soft_loss_of_a_student_that_equals_its_teacher_is_0(
    train: Images, validation: Images
) -> None:
    # it is a divergence, so that it shows how much there is left to learn
    network = linear()
    logits = predict_logits(network, train.images)[None]
    settings = Settings("sgd", 0.05, epochs=1, batch_size=18, seed=0)
    objective = Distillation(logits, temp=8, alpha=1)
    ((_, metrics),) = fit(network, train, validation, objective, settings)
    assert metrics["train_soft_loss"] == metrics["train_loss"] == 0
    assert metrics["train_hard_loss"] == pytest.approx(np.log(3))


@pytest.mark.parametrize(("bad_batch", "seen_by"), [(3, 16), (20, 27)])
def test_a_loss_that_is_no_number_stops_the_run_in_its_epoch(
    train: Images,
    validation: Images,
    teacher_logits: np.ndarray,
    monkeypatch: pytest.MonkeyPatch,
    bad_batch: int,
    seen_by: int,
) -> None:
    monkeypatch.setattr(loop, "batches_at_once", lambda *_: 16)
    order, _ = epoch_order(train.indices, seed=0, epoch=2)
    spoiled = teacher_logits.astype(np.float32)
    network = build("pupil", train, 3, seed=0)
    objective = Distillation(spoiled, temp=4, alpha=0.5)
    settings = Settings("adam", 0.001, epochs=5, batch_size=2, seed=0)
    epochs = fit(network, train, validation, objective, settings)
    assert next(epochs)[0] == 1
    spoiled[0, order[2 * (bad_batch - 1)]] = np.nan
    with pytest.raises(
        KdflowError, match=rf"got nan in epoch 2 of 5, by batch {seen_by} of 27 .*learning_rate"
    ):
        next(epochs)


def test_a_last_update_that_spoils_the_weights_stops_the_run(
    train: Images, validation: Images
) -> None:
    # a single batch: its loss was finite, and then the weights became infinite
    settings = Settings("sgd", 1e38, epochs=1, batch_size=54, seed=0)
    with pytest.raises(
        KdflowError, match=r"expected a finite validation loss, got \S+ after epoch 1 of 1"
    ):
        list(fit(build("pupil", train, 3, seed=0), train, validation, Labels(), settings))


@pytest.mark.slow
@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="counts TensorFlow's functions")
def test_a_training_leaves_none_of_its_graphs_in_memory(train: Images, validation: Images) -> None:
    from tensorflow.python.eager import context

    def functions_after_a_training() -> int:
        fitted(train, validation)
        gc.collect()
        return len(context.context().list_function_names())

    before = functions_after_a_training()
    assert [functions_after_a_training() for _ in range(3)] == [before] * 3


def test_a_training_with_a_moving_average_goes_on_after_it_was_evaluated(
    train: Images, validation: Images
) -> None:
    # JAX deletes the arrays that a training is given: an average that it shared would be gone
    settings = Settings("adam", 0.01, 3, 16, seed=0, ema=0.5)
    network = build("pupil", train, 3, seed=0)
    history = [metrics for _, metrics in fit(network, train, validation, Labels(), settings)]
    logits = predict_logits(network, validation.images, validation.indices)
    assert len(history) == 3
    assert history[-1]["val_loss"] == nll(logits, validation.labels[validation.indices])
