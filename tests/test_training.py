import time
from collections.abc import Iterator
from pathlib import Path

import keras
import numpy as np
import pytest
from scipy.special import softmax
from sklearn.neighbors import NearestCentroid

from kdflow import views
from kdflow.data import Dataset
from kdflow.errors import KdflowError
from kdflow.evaluate import predict_logits
from kdflow.hints import Hints
from kdflow.losses import SOFT_TERMS
from kdflow.models import build, features
from kdflow.training import (
    SCHEDULES,
    WEIGHT_DECAY,
    Distillation,
    Images,
    Metrics,
    SpeedrunSGD,
    batches_at_once,
    epoch_data,
    epoch_order,
    fit,
    fit_hint,
)

MEASURED = {"epoch_seconds", "images_per_second"}
WEIGHTS = {
    "dkd": {"dkd_alpha": 1.0, "dkd_beta": 8.0},
    "dist": {"dist_beta": 1.0, "dist_gamma": 1.0},
}


@pytest.fixture
def train(tiny: Dataset) -> Images:
    return Images(tiny.x_train, tiny.y_train, np.arange(6, 60))


@pytest.fixture
def validation(tiny: Dataset) -> Images:
    return Images(tiny.x_train, tiny.y_train, np.arange(6))


@pytest.fixture
def teacher_logits() -> np.ndarray:
    return np.random.default_rng(5).normal(0, 3, (2, 60, 3)).astype(np.float16)


def fitted(
    train: Images,
    validation: Images,
    distillation: Distillation | None = None,
    seed: int = 0,
    network_name: str = "student",
    view_count: int = 1,
) -> tuple[keras.Model, list[Metrics]]:
    """A small student after two epochs, and its metrics without the measured times."""
    network = build(network_name, train.images[train.indices], 3, seed=seed)
    history = fit(
        network,
        train,
        validation,
        optimizer="adam",
        learning_rate=0.001,
        epochs=2,
        batch_size=16,
        seed=seed,
        view_count=view_count,
        distillation=distillation,
    )
    return network, [{k: v for k, v in epoch.items() if k not in MEASURED} for epoch in history]


def equal_weights(a: keras.Model, b: keras.Model) -> bool:
    return all(map(np.array_equal, a.get_weights(), b.get_weights()))


def test_an_epochs_order_is_a_permutation_that_follows_from_seed_and_epoch_alone() -> None:
    indices = np.arange(100, 200)
    order, shown = epoch_order(indices, seed=1, epoch=2, view_count=3)
    np.random.seed(0)
    again = epoch_order(indices, seed=1, epoch=2, view_count=3)
    assert sorted(order) == list(indices)
    assert set(shown) == {0, 1, 2}
    assert np.array_equal(order, again[0])
    assert np.array_equal(shown, again[1])
    for seed, epoch in [(1, 3), (2, 2), (2, 1)]:
        assert not np.array_equal(order, epoch_order(indices, seed, epoch)[0])


def test_every_image_is_mirrored_in_every_other_epoch_and_shifted_at_random() -> None:
    indices = np.arange(100, 300)
    shown = []
    for epoch in (1, 2, 3):
        order, chosen = epoch_order(indices, seed=1, epoch=epoch, view_count=50)
        shown.append(chosen[np.argsort(order)])
    flips = np.array([[views.VIEWS[view].flip for view in chosen] for chosen in shown])
    assert np.array_equal(flips[0], ~flips[1])
    assert np.array_equal(flips[0], flips[2])
    assert 60 < flips[0].sum() < 140
    assert np.mean(shown[0] // 2 == shown[1] // 2) < 0.2  # one in 25 by chance
    assert set(shown[0]) | set(shown[1]) | set(shown[2]) == set(range(50))


@pytest.mark.parametrize("view_count", [1, 2, 162])
def test_the_image_that_is_seen_and_the_image_whose_logits_are_taught_are_the_same(
    tiny: Dataset, train: Images, view_count: int
) -> None:
    # this teacher's logits are the first pixels of what it was shown, so they tell the image
    def first_pixels(images: np.ndarray) -> np.ndarray:
        return images.reshape(len(images), -1)[:, :50].astype(np.float32)

    logits = np.stack(
        [first_pixels(views.apply(tiny.x_train, np.full(60, view))) for view in range(view_count)]
    )
    distillation = Distillation(logits, temp=4, alpha=0.9)
    for epoch in (1, 2):
        images, targets = epoch_data(train, distillation, view_count, seed=0, epoch=epoch)
        assert np.array_equal(targets["teacher_logits"], first_pixels(images))
        order, _ = epoch_order(train.indices, 0, epoch, view_count)
        assert np.array_equal(targets["labels"], tiny.y_train[order])


@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0])
def test_weights_after_three_epochs_are_those_of_a_hand_written_descent(
    train: Images, validation: Images, teacher_logits: np.ndarray, alpha: float
) -> None:
    # a linear network in full batches with Nesterov momentum: its gradient has a closed form
    temp, rate, momentum = 3.0, 0.05, 0.9
    inputs = keras.Input((8, 8, 3), dtype="uint8")
    flat = keras.layers.Flatten()(keras.layers.Rescaling(1 / 255)(inputs))
    network = keras.Model(inputs, keras.layers.Dense(3, kernel_initializer="zeros")(flat))
    fit(
        network,
        train,
        validation,
        optimizer="sgd",
        learning_rate=rate,
        epochs=3,
        batch_size=54,
        seed=0,
        distillation=Distillation(teacher_logits, temp, alpha),
    )

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


def test_the_rate_of_a_schedule_is_followed_and_logged(train: Images, validation: Images) -> None:
    history = fit(
        build("pupil", train.images, 3, seed=0),
        train,
        validation,
        optimizer="adam",
        learning_rate=0.01,
        epochs=2,
        batch_size=16,
        seed=0,
        schedule="cosine",
    )
    # as each epoch begins
    assert [epoch["learning_rate"] for epoch in history] == pytest.approx([0.01, 0.005], abs=1e-8)


def test_speedrun_sgd_decays_favours_biases_of_normalisation_and_falls_back_at_times() -> None:
    gradients = np.random.default_rng(0).normal(size=12).astype("float32")
    kernel = keras.Variable(np.array([2.0], "float32"), name="kernel")
    beta = keras.Variable(np.array([2.0], "float32"), name="beta")
    optimizer = SpeedrunSGD(0.1, steps=12)
    optimizer.build([kernel, beta])
    for gradient in gradients:
        optimizer.apply([np.array([gradient])] * 2)
    for variable, rate in ((kernel, 0.1), (beta, 6.4)):
        expected, slow, velocity = 2.0, 2.0, 0.0
        for step, gradient in enumerate(gradients, start=1):
            expected -= expected * WEIGHT_DECAY * 0.1
            velocity = 0.85 * velocity - rate * gradient
            expected += 0.85 * velocity - rate * gradient
            if step in (5, 10, 12):  # every 5 steps and at the last one, further and further
                pull = 0.95**5 * (step / 12) ** 3
                slow = expected = pull * slow + (1 - pull) * expected
        assert float(variable.numpy()[0]) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    ("network_name", "loss"),
    [("fast", "kd"), ("student", "kd"), ("student", "dkd"), ("student", "dist"), ("student", "ls")],
)
def test_alpha_0_is_the_baseline_bit_for_bit(
    train: Images, validation: Images, teacher_logits: np.ndarray, network_name: str, loss: str
) -> None:
    baseline, alone = fitted(train, validation, network_name=network_name)
    distillation = Distillation(
        teacher_logits, temp=8, alpha=0, loss=loss, weights=WEIGHTS.get(loss, {})
    )
    distilled, taught = fitted(train, validation, distillation, network_name=network_name)
    assert equal_weights(baseline, distilled)
    assert [{name: epoch[name] for name in alone[0]} for epoch in taught] == alone


def test_alpha_1_uses_no_label(
    tiny: Dataset, train: Images, validation: Images, teacher_logits: np.ndarray
) -> None:
    distillation = Distillation(teacher_logits, temp=8, alpha=1)
    network, _ = fitted(train, validation, distillation)
    mislabelled = Images(train.images, (train.labels + 1) % 3, train.indices)
    assert equal_weights(network, fitted(mislabelled, validation, distillation)[0])


@pytest.mark.parametrize("loss", SOFT_TERMS)
def test_every_loss_brings_the_student_closer_to_its_teacher(
    tiny: Dataset, train: Images, validation: Images, loss: str
) -> None:
    # the teacher ranks the classes by how close their brightness is to the image's
    brightness = tiny.x_train.mean(axis=(1, 2, 3))[:, None] / 80
    teacher_logits = -3 * abs(brightness - np.array([0.5, 1.5, 2.5]))[None]
    network = build("student", train.images[train.indices], 3, seed=0)
    distillation = Distillation(
        teacher_logits, temp=2, alpha=1, loss=loss, weights=WEIGHTS.get(loss, {})
    )
    history = fit(
        network,
        train,
        validation,
        optimizer="adam",
        learning_rate=0.001,
        epochs=30,
        batch_size=18,
        seed=0,
        distillation=distillation,
    )
    # what is left of kd's cross-entropy at the end is the teacher's entropy
    p = softmax(teacher_logits[0, train.indices] / 2, axis=1)
    least = -4 * (p * np.log(p)).sum(axis=1).mean() if loss == "kd" else 0
    first, last = (epoch["train_soft_loss"] - least for epoch in (history[0], history[-1]))
    assert 0 < last < first / 3
    student = predict_logits(network, train.images[train.indices])
    agreed = student.argmax(axis=1) == teacher_logits[0, train.indices].argmax(axis=1)
    assert agreed.mean() > 0.9


def test_the_same_seed_gives_the_same_metrics_and_another_seed_does_not(
    train: Images, validation: Images, teacher_logits: np.ndarray
) -> None:
    distillation = Distillation(teacher_logits, temp=4, alpha=0.5)
    first, metrics = fitted(train, validation, distillation, seed=1, view_count=2)
    keras.utils.set_random_seed(77)
    second, again = fitted(train, validation, distillation, seed=1, view_count=2)
    assert metrics == again
    assert equal_weights(first, second)
    assert fitted(train, validation, distillation, seed=2, view_count=2)[1] != metrics


def test_only_the_students_weights_move(
    train: Images, validation: Images, teacher_logits: np.ndarray
) -> None:
    given, images = teacher_logits.copy(), train.images.copy()
    student, _ = fitted(train, validation, Distillation(given, temp=4, alpha=0.5), view_count=2)
    initial = build("student", train.images[train.indices], 3, seed=0)
    moved = [
        not np.array_equal(a, b) for a, b in zip(student.weights, initial.weights, strict=True)
    ]
    assert all(moved)
    assert np.array_equal(given, teacher_logits)
    assert np.array_equal(train.images, images)


def test_metrics_are_those_of_the_design_and_told_as_each_epoch_ends(
    train: Images, validation: Images, teacher_logits: np.ndarray
) -> None:
    told: list[tuple[int, Metrics]] = []
    network = build("student", train.images, 3, seed=0)
    history = fit(
        network,
        train,
        validation,
        optimizer="adam",
        learning_rate=0.002,
        epochs=3,
        batch_size=16,
        seed=0,
        distillation=Distillation(teacher_logits, temp=2, alpha=0.25),
        on_epoch=lambda epoch, metrics: told.append((epoch, metrics)),
    )
    assert told == list(enumerate(history, start=1))
    last = history[-1]
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


@pytest.mark.parametrize(("bad_batch", "seen_by"), [(3, 16), (20, 27)])
def test_a_loss_that_is_no_number_stops_the_run_in_its_epoch(
    train: Images,
    validation: Images,
    teacher_logits: np.ndarray,
    bad_batch: int,
    seen_by: int,
) -> None:
    order, _ = epoch_order(train.indices, seed=0, epoch=2)
    spoiled = teacher_logits.astype(np.float32)
    network = build("pupil", train.images, 3, seed=0)

    def spoil(epoch: int, metrics: Metrics) -> None:
        spoiled[0, order[2 * (bad_batch - 1)]] = np.nan

    with pytest.raises(
        KdflowError, match=rf"got nan in epoch 2 of 5, by batch {seen_by} of 27 .*learning_rate"
    ):
        fit(
            network,
            train,
            validation,
            optimizer="adam",
            learning_rate=0.001,
            epochs=5,
            batch_size=2,
            seed=0,
            distillation=Distillation(spoiled, temp=4, alpha=0.5),
            on_epoch=spoil,
        )


def test_python_has_its_turn_several_times_a_second_and_not_after_each_small_batch() -> None:
    images = np.zeros((10, 32, 32, 3), np.uint8)
    networks = {name: build(name, images, 10, seed=0) for name in ("student", "fitnet", "vgg")}
    # the student multiplies 1.9 million times for an image, fitnet 30 million, vgg 300 million
    assert batches_at_once(networks["student"], 64) == 16
    assert batches_at_once(networks["student"], 512) == 4
    assert batches_at_once(networks["fitnet"], 64) == 2
    assert batches_at_once(networks["vgg"], 128) == 1


def test_a_long_training_says_how_long_it_will_take(
    train: Images,
    validation: Images,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    ticks = iter(range(0, 10_000, 6))  # each look at the clock is 6 seconds after the one before
    monkeypatch.setattr(time, "perf_counter", lambda: next(ticks))
    network = build("pupil", train.images, 3, seed=0)
    fit(
        network,
        train,
        validation,
        optimizer="adam",
        learning_rate=0.001,
        epochs=10,
        batch_size=2,
        seed=0,
    )
    # the 11 batches after the first 16 in 6 seconds, and 10 epochs of 27 batches
    assert "this training will take about 2 minutes" in capsys.readouterr().out


# --- hints --------------------------------------------------------------------------------------


@pytest.fixture
def hints(tmp_path: Path) -> Iterator[Hints]:
    """Hints of 4x4x5 numbers for each of the 60 images of `tiny`."""
    maps = np.random.default_rng(3).normal(0, 2, (60, 4, 4, 5)).astype(np.float16)
    with (tmp_path / "hints").open("w+b", buffering=0) as file:
        maps.tofile(file)
        yield Hints(file, (60, 4, 4, 5))


def hinted(
    train: Images, validation: Images, hints: Hints, seed: int = 0, learning_rate: float = 0.001
) -> tuple[keras.Model, list[Metrics]]:
    """A pupil after two epochs on hints, and its metrics without the measured times."""
    network = build("pupil", train.images[train.indices], 3, seed=seed)
    history = fit_hint(
        features(network, "pool1"),
        train,
        validation,
        train_hints=hints,
        validation_hints=hints,
        learning_rate=learning_rate,
        epochs=2,
        batch_size=16,
        seed=seed,
    )
    return network, [{k: v for k, v in epoch.items() if k not in MEASURED} for epoch in history]


def test_weights_after_hints_are_those_of_a_hand_written_adam(
    train: Images, validation: Images, tmp_path: Path
) -> None:
    # guided layer and regressor are both linear, so that each gradient is two products
    epochs, rate, seed = 4, 0.01, 7
    images = keras.Input((8, 8, 3), dtype="uint8")
    small = keras.layers.AveragePooling2D(2)(keras.layers.Rescaling(1 / 255)(images))
    guided = keras.Model(images, keras.layers.Conv2D(2, 1, kernel_initializer="ones")(small))
    maps = np.random.default_rng(3).normal(0, 2, (60, 4, 4, 5)).astype(np.float16)
    with (tmp_path / "hints").open("w+b", buffering=0) as file:
        maps.tofile(file)
        given = Hints(file, maps.shape)
        history = fit_hint(
            guided,
            train,
            validation,
            train_hints=given,
            validation_hints=given,
            learning_rate=rate,
            epochs=epochs,
            batch_size=54,  # all of them, so that their order does not matter
            seed=seed,
        )

    pooled = (train.images / 255).reshape(60, 4, 2, 4, 2, 3).mean(axis=(2, 4))
    x, target = pooled[train.indices].reshape(-1, 3), maps[train.indices].astype(float)
    target = target.reshape(-1, 5)
    drawn = keras.initializers.GlorotNormal(seed)((1, 1, 2, 5))
    weights = [np.ones((3, 2)), np.zeros(2), np.asarray(drawn, float)[0, 0], np.zeros(5)]
    m, v = [np.zeros_like(w) for w in weights], [np.zeros_like(w) for w in weights]
    for step in range(1, epochs + 1):
        kernel, bias, regressor, regressor_bias = weights
        features_of_x = x @ kernel + bias
        residual = features_of_x @ regressor + regressor_bias - target
        assert history[step - 1]["hint_loss"] == pytest.approx((residual**2).mean(), rel=1e-5)
        by_output = 2 * residual / residual.size
        by_features = by_output @ regressor.T
        gradients = [
            x.T @ by_features,
            by_features.sum(axis=0),
            features_of_x.T @ by_output,
            by_output.sum(axis=0),
        ]
        for i, gradient in enumerate(gradients):  # Kingma and Ba 2015, algorithm 1
            m[i] = 0.9 * m[i] + 0.1 * gradient
            v[i] = 0.999 * v[i] + 0.001 * gradient**2
            corrected = rate * np.sqrt(1 - 0.999**step) / (1 - 0.9**step)
            weights[i] = weights[i] - corrected * m[i] / (np.sqrt(v[i]) + 1e-7)
        kernel, bias, regressor, regressor_bias = weights
        seen = pooled[validation.indices].reshape(-1, 3)
        error = (seen @ kernel + bias) @ regressor + regressor_bias
        error -= maps[validation.indices].reshape(-1, 5)
        assert history[step - 1]["val_hint_loss"] == pytest.approx((error**2).mean(), rel=1e-4)
    found_kernel, found_bias = guided.get_weights()
    np.testing.assert_allclose(found_kernel[0, 0], weights[0], atol=1e-4)
    np.testing.assert_allclose(found_bias, weights[1], atol=1e-4)


def test_only_the_layers_up_to_the_guided_one_move(
    train: Images, validation: Images, hints: Hints
) -> None:
    network, _ = hinted(train, validation, hints)
    initial = build("pupil", train.images[train.indices], 3, seed=0)
    moved = [
        not np.array_equal(a, b) for a, b in zip(network.weights, initial.weights, strict=True)
    ]
    assert moved == [True, True, False, False, False, False]


@pytest.mark.filterwarnings("ignore:self.within_class_std_dev_")  # of ReLUs that never fire
def test_the_probe_is_scikit_learns_nearest_centroid_on_the_guided_features(
    tiny: Dataset, hints: Hints
) -> None:
    order = np.random.default_rng(0).permutation(60)
    labels = order % 3  # which the images do not tell, so that the probe is often wrong
    train, validation = order[:35], order[35:]
    network, history = hinted(
        Images(tiny.x_train, labels, train), Images(tiny.x_train, labels, validation), hints
    )
    maps = np.asarray(features(network, "pool1")(tiny.x_train), float).reshape(60, -1)
    probe = NearestCentroid().fit(maps[train], labels[train])
    expected = probe.score(maps[validation], labels[validation])
    assert 0.1 < expected < 0.7
    assert history[-1]["val_probe_accuracy"] == pytest.approx(expected)


def test_a_seed_repeats_the_metrics_of_hints_and_another_does_not(
    train: Images, validation: Images, hints: Hints
) -> None:
    first, metrics = hinted(train, validation, hints, seed=1)
    keras.utils.set_random_seed(77)
    second, again = hinted(train, validation, hints, seed=1)
    assert metrics == again
    assert equal_weights(first, second)
    assert hinted(train, validation, hints, seed=2)[1] != metrics
    assert set(metrics[0]) == {
        *("hint_loss", "val_hint_loss", "val_probe_accuracy", "learning_rate"),
    }


def test_a_hint_loss_that_is_no_number_stops_the_run(
    train: Images, validation: Images, hints: Hints
) -> None:
    with pytest.raises(KdflowError, match=r"expected a finite loss, got (nan|inf) in epoch 1 of 2"):
        hinted(train, validation, hints, learning_rate=1e30)
