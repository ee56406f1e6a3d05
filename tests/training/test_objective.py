"""What a training minimises, against a NumPy reference that goes through probabilities."""

import keras
import numpy as np
import pytest
import references
from keras import ops
from references import EXACT, FLOAT, WEIGHTS, softmax

from kdflow.catalogue.losses import LOSSES
from kdflow.losses import cross_entropy
from kdflow.training.objective import Distillation, Labels, distillation_loss

Batch = tuple[np.ndarray, np.ndarray, np.ndarray]

TEMPS = [1, 2, 8, 14]
ALPHAS = [0, 0.3, 0.5, 0.9, 1]


def reference(
    labels: np.ndarray, teacher: np.ndarray, student: np.ndarray, temp: float, alpha: float
) -> np.ndarray:
    losses = []
    for y, zt, zs in zip(labels, teacher, student, strict=True):
        hard = -np.log(softmax(zs[None])[0, y])
        p, q = softmax(zt[None] / temp)[0], softmax(zs[None] / temp)[0]
        soft = sum(p[k] * np.log(p[k] / q[k]) for k in range(len(p)))
        losses.append((1 - alpha) * hard + alpha * temp**2 * soft)
    return np.array(losses)


@pytest.fixture
def batch() -> Batch:
    rng = np.random.default_rng(0)
    teacher, student = (rng.normal(0, scale, (32, 10)).astype(FLOAT) for scale in (5, 3))
    return rng.integers(10, size=32), teacher, student


@pytest.mark.parametrize("alpha", ALPHAS)
@pytest.mark.parametrize("temp", TEMPS)
def test_distillation_loss_is_the_formula(batch: Batch, temp: float, alpha: float) -> None:
    labels, teacher, student = batch
    expected = reference(labels, teacher, student, temp, alpha)
    in_float64 = distillation_loss(labels, teacher, student, temp=temp, alpha=alpha).total
    np.testing.assert_allclose(ops.convert_to_numpy(in_float64), expected, rtol=EXACT)
    in_float32 = distillation_loss(
        labels, teacher.astype("float32"), student.astype("float32"), temp=temp, alpha=alpha
    ).total
    np.testing.assert_allclose(ops.convert_to_numpy(in_float32), expected, rtol=2e-6)


@pytest.mark.parametrize("t_squared", [True, False])
@pytest.mark.parametrize("loss", LOSSES)
def test_the_total_weighs_hard_and_soft_term_alike_in_every_loss(
    batch: Batch, loss: str, t_squared: bool
) -> None:
    labels, teacher, student = batch
    found = distillation_loss(
        *batch, temp=3, alpha=0.3, t_squared=t_squared, loss=loss, **WEIGHTS[loss]
    )
    soft = references.SOFT_TERMS[loss](labels, teacher, student, 3) * (9 if t_squared else 1)
    hard = np.asarray(cross_entropy(labels, student))
    np.testing.assert_allclose(found.hard, hard, rtol=EXACT)
    np.testing.assert_allclose(found.soft, soft, rtol=EXACT)
    np.testing.assert_allclose(found.total, 0.7 * hard + 0.3 * soft, rtol=EXACT)


def test_a_worked_case() -> None:
    # T = 2 halves the logits: teacher (2 ln 3, 0) becomes (3/4, 1/4), student (0, 0) (1/2, 1/2)
    loss = distillation_loss(
        np.array([0]),
        np.array([[2 * np.log(3), 0]], FLOAT),
        np.zeros((1, 2), FLOAT),
        temp=2,
        alpha=0.5,
    )
    soft = 4 * (0.75 * np.log(1.5) + 0.25 * np.log(0.5))
    assert float(loss.hard[0]) == pytest.approx(np.log(2))
    assert float(loss.soft[0]) == pytest.approx(soft)
    assert float(loss.total[0]) == pytest.approx((np.log(2) + soft) / 2)


def test_without_t_squared_the_soft_term_is_that_much_smaller(batch: Batch) -> None:
    labels, teacher, student = batch
    scaled = distillation_loss(labels, teacher, student, temp=8, alpha=1)
    plain = distillation_loss(labels, teacher, student, temp=8, alpha=1, t_squared=False)
    np.testing.assert_allclose(scaled.total, 64 * np.asarray(plain.total), rtol=EXACT)


@pytest.mark.parametrize("temp", TEMPS)
def test_a_constant_added_to_an_examples_teacher_logits_changes_nothing(
    batch: Batch, temp: float
) -> None:
    labels, teacher, student = batch
    shifted = teacher + np.random.default_rng(2).integers(-99, 100, (len(teacher), 1)).astype(FLOAT)
    np.testing.assert_allclose(
        distillation_loss(labels, teacher, student, temp=temp, alpha=0.9).total,
        distillation_loss(labels, shifted, student, temp=temp, alpha=0.9).total,
        rtol=EXACT,
    )


@pytest.mark.parametrize("loss", LOSSES)
def test_alpha_0_is_the_cross_entropy_bit_for_bit_and_alpha_1_uses_no_label_but_for_dkd(
    batch: Batch, loss: str
) -> None:
    labels, teacher, student = batch

    def total(labels: np.ndarray, alpha: float) -> np.ndarray:
        return np.asarray(
            distillation_loss(
                labels, teacher, student, temp=8, alpha=alpha, loss=loss, **WEIGHTS[loss]
            ).total
        )

    assert np.array_equal(total(labels, alpha=0), cross_entropy(labels, student))
    same = np.array_equal(total(labels, alpha=1), total((labels + 1) % 10, alpha=1))
    assert same == (loss != "dkd")


@pytest.mark.parametrize("loss", LOSSES)
def test_gradients_are_finite_at_extreme_and_at_equal_logits(loss: str) -> None:
    # the weights of this network are the student's logits, and a step of rate 1 is the gradient
    labels, signs = np.arange(16) % 10, np.random.default_rng(4).choice([-1, 1], (2, 16, 10))
    network = keras.Sequential([keras.Input((16,)), keras.layers.Dense(10, use_bias=False)])
    network.compile(
        keras.optimizers.SGD(1.0),
        lambda teacher, student: (
            distillation_loss(
                labels, teacher, student, temp=1, alpha=0.9, loss=loss, **WEIGHTS[loss]
            ).total
        ),
    )
    for student in (0, 1, 100):
        for teacher in (0, 1, 100):
            network.set_weights([student * signs[0]])
            network.train_on_batch(np.eye(16), teacher * signs[1].astype("float32"))
            moved = network.get_weights()[0] - student * signs[0]
            assert np.isfinite(moved).all(), (student, teacher)
            assert moved.any(), (student, teacher)


def test_extreme_logits_give_finite_losses() -> None:
    extreme = np.array([[1e4, -1e4, 0.0]], dtype="float32")
    loss = distillation_loss(np.array([1]), extreme, -extreme, temp=1, alpha=0.5)
    assert np.isfinite(loss.total).all()


def test_labels_smooth_their_cross_entropy_as_asked(batch: Batch) -> None:
    labels, _, student = batch
    terms = Labels(label_smoothing=0.2).terms({"labels": labels}, student)
    expected = keras.losses.categorical_crossentropy(
        np.eye(10, dtype=FLOAT)[labels], student, from_logits=True, label_smoothing=0.2
    )
    assert set(terms) == {"loss", *Labels.reported}
    np.testing.assert_allclose(terms["loss"], expected, rtol=1e-6)


def test_distillation_reports_the_hard_and_the_soft_term(batch: Batch) -> None:
    labels, teacher, student = batch
    objective = Distillation(teacher[None], temp=3, alpha=0.3)
    terms = objective.terms({"labels": labels, "teacher_logits": teacher}, student)
    hard = -np.take_along_axis(references.log_softmax(student), labels[:, None], axis=-1)[:, 0]
    soft = 3**2 * references.kd(labels, teacher, student, 3)
    expected = {"loss": 0.7 * hard + 0.3 * soft, "hard_loss": hard, "soft_loss": soft}
    assert terms.keys() == expected.keys() == {"loss", *Distillation.reported}
    for name, values in expected.items():
        np.testing.assert_allclose(terms[name], values, rtol=1e-5)


def test_the_targets_are_the_logits_of_each_image_in_the_view_that_is_shown() -> None:
    logits = np.arange(2 * 5 * 3, dtype=np.float16).reshape(2, 5, 3)
    order, shown = np.array([4, 0, 2]), np.array([1, 0, 1])
    targets = Distillation(logits, temp=1, alpha=1).targets(order, shown)
    assert targets["teacher_logits"].tolist() == [[27, 28, 29], [0, 1, 2], [21, 22, 23]]
    assert targets["teacher_logits"].dtype == np.float32
    assert Labels().targets(order, shown) == {}


def test_class_weights_and_smoothing_are_of_the_labels_term_alone() -> None:
    rng = np.random.default_rng(3)
    labels = np.array([0, 1, 2, 1], np.uint8)  # as data sets have them
    teacher, student = rng.normal(size=(2, 4, 3)).astype("float32")
    hard_term = Labels(0.3, (2.0, 0.5, 1.0))
    found = distillation_loss(labels, teacher, student, temp=2, alpha=0.4, hard_term=hard_term)
    target = 0.7 * np.eye(3)[labels] + 0.1
    cross_entropies = -(target * np.log(softmax(student))).sum(axis=1)
    expected = np.array([2.0, 0.5, 1.0])[labels] * cross_entropies
    np.testing.assert_allclose(found.hard, expected, rtol=1e-5)
    plain = distillation_loss(labels, teacher, student, temp=2, alpha=0.4)
    np.testing.assert_array_equal(found.soft, plain.soft)
    np.testing.assert_allclose(found.total, 0.6 * expected + 0.4 * plain.soft, rtol=1e-5)
