"""The losses against a NumPy reference that goes through probabilities, in float64."""

import keras
import numpy as np
import pytest
from keras import ops

from kdflow.losses import (
    cross_entropy,
    distillation_loss,
    hint_loss,
    soft_cross_entropy,
    soft_targets,
)

TEMPS = [1, 2, 8, 14]
ALPHAS = [0, 0.3, 0.5, 0.9, 1]


def softmax(z: np.ndarray) -> np.ndarray:
    powers = np.exp(z - z.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))


def reference(
    labels: np.ndarray, teacher: np.ndarray, student: np.ndarray, temp: float, alpha: float
) -> np.ndarray:
    losses = []
    for y, zt, zs in zip(labels, teacher, student, strict=True):
        hard = -np.log(softmax(zs[None])[0, y])
        p, q = softmax(zt[None] / temp)[0], softmax(zs[None] / temp)[0]
        soft = -sum(p[k] * np.log(q[k]) for k in range(len(p)))
        losses.append((1 - alpha) * hard + alpha * temp**2 * soft)
    return np.array(losses)


@pytest.fixture
def batch() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.integers(10, size=32), rng.normal(0, 5, (32, 10)), rng.normal(0, 3, (32, 10))


@pytest.mark.parametrize("alpha", ALPHAS)
@pytest.mark.parametrize("temp", TEMPS)
def test_distillation_loss_is_the_formula(
    batch: tuple[np.ndarray, ...], temp: float, alpha: float
) -> None:
    labels, teacher, student = batch
    expected = reference(labels, teacher, student, temp, alpha)
    in_float64 = distillation_loss(labels, teacher, student, temp=temp, alpha=alpha).total
    np.testing.assert_allclose(ops.convert_to_numpy(in_float64), expected, rtol=0, atol=1e-6)
    in_float32 = distillation_loss(
        labels, teacher.astype("float32"), student.astype("float32"), temp=temp, alpha=alpha
    ).total
    np.testing.assert_allclose(ops.convert_to_numpy(in_float32), expected, rtol=1e-6)


def test_a_worked_case() -> None:
    # T = 2 halves the logits: teacher (2 ln 3, 0) becomes (3/4, 1/4), student (0, 0) (1/2, 1/2)
    loss = distillation_loss(
        np.array([0]), np.array([[2 * np.log(3), 0]]), np.zeros((1, 2)), temp=2, alpha=0.5
    )
    assert float(loss.hard[0]) == pytest.approx(np.log(2))
    assert float(loss.soft[0]) == pytest.approx(4 * np.log(2))
    assert float(loss.total[0]) == pytest.approx(2.5 * np.log(2))


def test_without_t_squared_the_soft_term_is_that_much_smaller(
    batch: tuple[np.ndarray, ...],
) -> None:
    labels, teacher, student = batch
    scaled = distillation_loss(labels, teacher, student, temp=8, alpha=1)
    plain = distillation_loss(labels, teacher, student, temp=8, alpha=1, t_squared=False)
    np.testing.assert_allclose(scaled.total, 64 * np.asarray(plain.total), rtol=1e-12)


def test_soft_targets_sum_to_one_over_each_examples_classes() -> None:
    # the notebook divided by the sum over the whole array
    logits = np.random.default_rng(1).normal(size=(500, 10))
    sums = ops.convert_to_numpy(ops.sum(soft_targets(logits, 4), axis=-1))
    np.testing.assert_allclose(sums, np.ones(500), rtol=1e-6)


@pytest.mark.parametrize("temp", TEMPS)
def test_a_constant_added_to_an_examples_teacher_logits_changes_nothing(
    batch: tuple[np.ndarray, ...], temp: float
) -> None:
    labels, teacher, student = batch
    shifted = teacher + np.random.default_rng(2).normal(0, 100, (len(teacher), 1))
    np.testing.assert_allclose(
        distillation_loss(labels, teacher, student, temp=temp, alpha=0.9).total,
        distillation_loss(labels, shifted, student, temp=temp, alpha=0.9).total,
        rtol=1e-6,
    )


def test_alpha_0_is_the_cross_entropy_bit_for_bit_and_alpha_1_uses_no_label(
    batch: tuple[np.ndarray, ...],
) -> None:
    labels, teacher, student = batch
    at_0 = distillation_loss(labels, teacher, student, temp=8, alpha=0).total
    assert np.array_equal(at_0, cross_entropy(labels, student))
    at_1 = distillation_loss(labels, teacher, student, temp=8, alpha=1).total
    other_labels = distillation_loss((labels + 1) % 10, teacher, student, temp=8, alpha=1).total
    assert np.array_equal(at_1, other_labels)


def test_cross_entropy_is_keras_own(batch: tuple[np.ndarray, ...]) -> None:
    labels, _, student = batch
    expected = keras.losses.sparse_categorical_crossentropy(labels, student, from_logits=True)
    np.testing.assert_allclose(cross_entropy(labels, student), expected, rtol=1e-6)


def test_label_smoothing_is_keras_own(batch: tuple[np.ndarray, ...]) -> None:
    labels, _, student = batch
    expected = keras.losses.categorical_crossentropy(
        np.eye(10)[labels], student, from_logits=True, label_smoothing=0.2
    )
    np.testing.assert_allclose(cross_entropy(labels, student, 0.2), expected, rtol=1e-6)


def test_soft_cross_entropy_is_smallest_where_the_student_equals_the_teacher() -> None:
    teacher = np.array([[3.0, 0.0, -1.0]])
    p = softmax(teacher / 5)
    entropy = -(p * np.log(p)).sum()
    assert float(soft_cross_entropy(teacher, teacher, 5)[0]) == pytest.approx(entropy)
    assert float(soft_cross_entropy(teacher, teacher * 1.5, 5)[0]) > entropy


def test_extreme_logits_give_finite_losses() -> None:
    extreme = np.array([[1e4, -1e4, 0.0]], dtype="float32")
    loss = distillation_loss(np.array([1]), extreme, -extreme, temp=1, alpha=0.5)
    assert np.isfinite(loss.total).all()


def test_hint_loss_is_the_mean_of_the_squares_of_each_example() -> None:
    rng = np.random.default_rng(0)
    hints, regressed = rng.normal(size=(2, 5, 4, 3, 6))
    loss = ops.convert_to_numpy(hint_loss(hints, regressed))
    expected = [
        sum((r - h) ** 2 for r, h in zip(a.flat, b.flat, strict=True)) / 72
        for a, b in zip(hints, regressed, strict=True)
    ]
    np.testing.assert_allclose(loss, expected, rtol=1e-12)
    # FitNets, eq. 3: half the squared norm of the difference
    paper = [0.5 * np.linalg.norm(h - r) ** 2 for h, r in zip(hints, regressed, strict=True)]
    np.testing.assert_allclose(loss * (4 * 3 * 6) / 2, paper, rtol=1e-12)
