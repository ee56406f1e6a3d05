"""The losses against a NumPy reference that goes through probabilities, in float64."""

from typing import Any, get_args

import keras
import numpy as np
import pytest
from keras import ops

from kdflow import config
from kdflow.losses import (
    SOFT_TERMS,
    cross_entropy,
    distillation_loss,
    hint_loss,
    soft_cross_entropy,
    soft_targets,
)

TEMPS = [1, 2, 8, 14]
ALPHAS = [0, 0.3, 0.5, 0.9, 1]
WEIGHTS: dict[str, dict[str, Any]] = {
    "kd": {},
    "dkd": {"dkd_alpha": 1.5, "dkd_beta": 6},
    "dist": {"dist_beta": 2, "dist_gamma": 3},
    "ls": {},
}


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


def kl(p: np.ndarray, q: np.ndarray) -> float:
    return float(sum(p[k] * np.log(p[k] / q[k]) for k in range(len(p))))


def dkd_reference(
    labels: np.ndarray, teacher: np.ndarray, student: np.ndarray, temp: float
) -> np.ndarray:
    losses = []
    for y, p, q in zip(labels, softmax(teacher / temp), softmax(student / temp), strict=True):
        target = kl(np.array([p[y], 1 - p[y]]), np.array([q[y], 1 - q[y]]))
        others = kl(np.delete(p, y) / (1 - p[y]), np.delete(q, y) / (1 - q[y]))
        losses.append(1.5 * target + 6 * others)
    return np.array(losses)


def dist_reference(
    labels: np.ndarray, teacher: np.ndarray, student: np.ndarray, temp: float
) -> np.ndarray:
    p, q = softmax(teacher / temp), softmax(student / temp)
    inter = [1 - np.corrcoef(p[i], q[i])[0, 1] for i in range(len(p))]
    intra = [1 - np.corrcoef(p[:, k], q[:, k])[0, 1] for k in range(p.shape[1])]
    return np.array(inter) * 2 + float(np.mean(intra)) * 3


def ls_reference(
    labels: np.ndarray, teacher: np.ndarray, student: np.ndarray, temp: float
) -> np.ndarray:
    def z_score(z: np.ndarray) -> np.ndarray:
        return np.asarray((z - z.mean()) / np.sqrt(((z - z.mean()) ** 2).mean()))

    return np.array(
        [
            kl(softmax(z_score(zt)[None] / temp)[0], softmax(z_score(zs)[None] / temp)[0])
            for zt, zs in zip(teacher, student, strict=True)
        ]
    )


REFERENCES = {"dkd": dkd_reference, "dist": dist_reference, "ls": ls_reference}


def soft_term(
    loss: str, labels: np.ndarray, teacher: np.ndarray, student: np.ndarray, temp: float
) -> np.ndarray:
    term = SOFT_TERMS[loss](labels, teacher, student, temp, **WEIGHTS[loss])
    return np.asarray(ops.convert_to_numpy(term))


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


@pytest.mark.parametrize("temp", TEMPS)
@pytest.mark.parametrize("loss", REFERENCES)
def test_the_soft_term_is_that_of_its_paper(
    batch: tuple[np.ndarray, ...], loss: str, temp: float
) -> None:
    labels, teacher, student = batch
    expected = REFERENCES[loss](labels, teacher, student, temp)
    in_float64 = soft_term(loss, labels, teacher, student, temp)
    np.testing.assert_allclose(in_float64, expected, rtol=1e-9)
    in_float32 = soft_term(loss, labels, teacher.astype("f4"), student.astype("f4"), temp)
    np.testing.assert_allclose(in_float32, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("t_squared", [True, False])
@pytest.mark.parametrize("loss", SOFT_TERMS)
def test_the_total_weighs_hard_and_soft_term_alike_in_every_loss(
    batch: tuple[np.ndarray, ...], loss: str, t_squared: bool
) -> None:
    labels, teacher, student = batch
    found = distillation_loss(
        *batch, temp=3, alpha=0.3, t_squared=t_squared, loss=loss, **WEIGHTS[loss]
    )
    soft = soft_term(loss, labels, teacher, student, 3) * (9 if t_squared else 1)
    hard = np.asarray(cross_entropy(labels, student))
    np.testing.assert_allclose(found.soft, soft, rtol=1e-12)
    np.testing.assert_allclose(found.total, 0.7 * hard + 0.3 * soft, rtol=1e-12)


@pytest.mark.parametrize("temp", TEMPS)
def test_dkd_is_kd_where_the_other_classes_weigh_what_the_teacher_gives_them(
    batch: tuple[np.ndarray, ...], temp: float
) -> None:
    # Zhao et al. 2022, eq. 6; kd is a cross-entropy, larger by the teacher's entropy
    labels, teacher, student = batch
    p = softmax(teacher / temp)
    entropy = -(p * np.log(p)).sum(axis=1)
    for_others = 1 - p[np.arange(len(labels)), labels]
    decoupled = SOFT_TERMS["dkd"](labels, teacher, student, temp, dkd_alpha=1, dkd_beta=for_others)
    coupled = np.asarray(soft_cross_entropy(teacher, student, temp)) - entropy
    np.testing.assert_allclose(decoupled, coupled, rtol=1e-9)


def test_dkds_weights_are_those_of_its_two_parts() -> None:
    # teacher (1/2, 1/3, 1/6), student (1/4, 1/4, 1/2), of which the first is the label's class
    logits = np.log([[3.0, 2, 1]]), np.log([[1.0, 1, 2]])
    target = kl(np.array([1 / 2, 1 / 2]), np.array([1 / 4, 3 / 4]))
    others = kl(np.array([2 / 3, 1 / 3]), np.array([1 / 3, 2 / 3]))
    for dkd_alpha, dkd_beta, expected in [(1, 0, target), (0, 1, others)]:
        found = SOFT_TERMS["dkd"]([0], *logits, 1, dkd_alpha=dkd_alpha, dkd_beta=dkd_beta)
        assert float(found[0]) == pytest.approx(expected)


@pytest.mark.parametrize("loss", ["dkd", "dist", "ls"])
def test_a_student_that_equals_its_teacher_up_to_a_shift_has_nothing_to_learn(
    batch: tuple[np.ndarray, ...], loss: str
) -> None:
    labels, teacher, _ = batch
    assert soft_term(loss, labels, teacher, teacher + 5, 4) == pytest.approx(0, abs=1e-9)
    assert soft_term(loss, labels, teacher, -teacher, 4).min() > 0.1


@pytest.mark.parametrize("loss", ["dkd", "dist", "ls"])
def test_a_constant_added_to_an_examples_logits_changes_no_soft_term(
    batch: tuple[np.ndarray, ...], loss: str
) -> None:
    labels, teacher, student = batch
    shifts = np.random.default_rng(2).normal(0, 100, (2, len(teacher), 1))
    np.testing.assert_allclose(
        soft_term(loss, labels, teacher + shifts[0], student + shifts[1], 4),
        soft_term(loss, labels, teacher, student, 4),
        rtol=1e-9,
    )


def test_the_scale_of_an_examples_logits_does_not_matter_to_ls_alone(
    batch: tuple[np.ndarray, ...],
) -> None:
    labels, teacher, student = batch
    scales = np.random.default_rng(3).uniform(0.1, 10, (2, len(teacher), 1))
    changed = {
        loss: abs(
            soft_term(loss, labels, scales[0] * teacher, scales[1] * student, 4)
            - soft_term(loss, labels, teacher, student, 4)
        ).max()
        for loss in SOFT_TERMS
    }
    assert changed.pop("ls") < 1e-9
    assert min(changed.values()) > 0.1


def test_the_intra_class_term_of_dist_is_the_same_for_every_example(
    batch: tuple[np.ndarray, ...],
) -> None:
    labels, teacher, student = batch
    intra = SOFT_TERMS["dist"](labels, teacher, student, 4, dist_beta=0, dist_gamma=1)
    assert intra.shape == (32,)
    assert len(set(np.asarray(intra))) == 1
    of_one = SOFT_TERMS["dist"](labels[:1], teacher[:1], student[:1], 4, dist_beta=0, dist_gamma=1)
    assert float(of_one[0]) == 1


@pytest.mark.parametrize("loss", SOFT_TERMS)
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


@pytest.mark.parametrize("loss", SOFT_TERMS)
def test_alpha_0_is_the_cross_entropy_bit_for_bit_and_alpha_1_uses_no_label_but_for_dkd(
    batch: tuple[np.ndarray, ...], loss: str
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


def test_the_losses_and_their_weights_are_those_of_the_config(
    batch: tuple[np.ndarray, ...],
) -> None:
    assert tuple(SOFT_TERMS) == get_args(config.LossName) == tuple(config.LOSS_WEIGHTS)
    assert {name: tuple(weights) for name, weights in WEIGHTS.items()} == config.LOSS_WEIGHTS


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
