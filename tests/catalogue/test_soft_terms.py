"""The soft term of every loss against float64 NumPy references, over all that is allowed."""

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

import keras
import numpy as np
import pytest
import references
from helpers import parameters
from keras import ops
from references import EXACT, FLOAT, WEIGHTS, kl, softmax

from kdflow.catalogue.losses import LOSSES
from kdflow.config.objective import ObjectiveConfig
from kdflow.losses import kl_divergence

Batch = tuple[np.ndarray, np.ndarray, np.ndarray]

TEMPS = [1, 2, 8, 14]
ALL_TEMPS = [0.01, 0.1, 1, 8, 100, 1000]
SCALES = [0.1, 1, 10, 100, 1e4]


def soft_term(
    loss: str, labels: np.ndarray, teacher: np.ndarray, student: np.ndarray, temp: float
) -> np.ndarray:
    term = LOSSES[loss].term(labels, teacher, student, temp, **WEIGHTS[loss])
    return np.asarray(ops.convert_to_numpy(term))


def gradient(term: Callable[[Any], Any], at: np.ndarray) -> np.ndarray:
    """The gradient of the sum of `term` by the student's logits, on any backend: the weights of
    this network are what is added to the logits, and a step of rate 1 is the gradient."""
    network = keras.Sequential([keras.Input(at.shape[:1]), keras.layers.Dense(at.shape[1])])
    network.compile(
        keras.optimizers.SGD(1.0),
        lambda logits, added: term(logits + added),
        run_eagerly=True,
    )
    network.layers[0].set_weights([np.zeros((len(at), at.shape[1])), np.zeros(at.shape[1])])
    network.train_on_batch(np.eye(len(at)), at)
    return np.asarray(-network.get_weights()[0] * len(at))


@pytest.fixture
def batch() -> Batch:
    rng = np.random.default_rng(0)
    teacher, student = (rng.normal(0, scale, (32, 10)).astype(FLOAT) for scale in (5, 3))
    return rng.integers(10, size=32), teacher, student


def batch_of(scale: float, examples: int = 32) -> Batch:
    """Labels, and the logits of a teacher and of a student that knows nothing of it."""
    rng = np.random.default_rng(round(10 * scale))
    teacher, student = rng.normal(0, scale, (2, examples, 10)).astype("f4")
    return rng.integers(10, size=examples), teacher, student


# --- values -------------------------------------------------------------------------------------


@pytest.mark.parametrize("temp", TEMPS)
@pytest.mark.parametrize("loss", LOSSES)
def test_the_soft_term_is_that_of_its_paper(batch: Batch, loss: str, temp: float) -> None:
    labels, teacher, student = batch
    expected = references.SOFT_TERMS[loss](labels, teacher, student, temp)
    in_float64 = soft_term(loss, labels, teacher, student, temp)
    np.testing.assert_allclose(in_float64, expected, rtol=EXACT)
    in_float32 = soft_term(loss, labels, teacher.astype("f4"), student.astype("f4"), temp)
    np.testing.assert_allclose(in_float32, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("temp", TEMPS)
def test_the_correlations_of_dist_are_pearsons(batch: Batch, temp: float) -> None:
    labels, teacher, student = batch
    p, q = softmax(teacher / temp), softmax(student / temp)
    inter = [1 - np.corrcoef(p[i], q[i])[0, 1] for i in range(32)]
    intra = np.mean([1 - np.corrcoef(p[:, k], q[:, k])[0, 1] for k in range(10)])
    found = soft_term("dist", labels, teacher, student, temp)
    np.testing.assert_allclose(found, 2 * np.array(inter) + 3 * intra, rtol=EXACT)


@pytest.mark.parametrize("temp", ALL_TEMPS)
@pytest.mark.parametrize("loss", LOSSES)
def test_float32_agrees_with_float64_over_the_whole_range_that_is_allowed(
    loss: str, temp: float
) -> None:
    for scale in SCALES:
        labels, teacher, student = batch_of(scale)
        in_float64 = teacher.astype("f8"), student.astype("f8")
        expected = references.SOFT_TERMS[loss](labels, *in_float64, temp)
        found = soft_term(loss, labels, teacher, student, temp)
        # what rounding z / T once changes, or rounding the probabilities, which `dist` divides by
        # their deviations
        largest = 3.0 if loss == "ls" else float(np.abs([teacher, student]).max())
        rounding = 1e-6 + 2**-23 * temp / scale if loss == "dist" else 2**-22 * largest / temp
        np.testing.assert_allclose(
            found, expected, rtol=1e-4, atol=4 * rounding, err_msg=f"{scale}"
        )


@pytest.mark.parametrize("temp", [1, 8])
@pytest.mark.parametrize("loss", ["kd", "dkd", "ls"])
def test_what_is_left_to_learn_does_not_drown_in_rounding(loss: str, temp: float) -> None:
    # in float32 the sum of p (log p - log q), as the papers write it, is off here by up to 2 % at
    # T = 1 and 49 % at T = 8
    labels, teacher, noise = batch_of(1)
    student = teacher + np.float32(0.01) * noise
    in_float64 = teacher.astype("f8"), student.astype("f8")
    expected = references.SOFT_TERMS[loss](labels, *in_float64, temp)
    assert 1e-8 < expected.mean() < 1e-3
    found = soft_term(loss, labels, teacher, student, temp)
    np.testing.assert_allclose(found, expected, rtol=2e-3)


@pytest.mark.parametrize("temp", ALL_TEMPS)
@pytest.mark.parametrize("loss", ["kd", "dkd", "ls"])
def test_a_student_that_equals_its_teacher_has_a_soft_term_of_exactly_0(
    loss: str, temp: float
) -> None:
    for scale in SCALES:
        labels, teacher, _ = batch_of(scale)
        assert not soft_term(loss, labels, teacher, teacher.copy(), temp).any()


def test_kd_is_the_cross_entropy_less_the_teachers_entropy(batch: Batch) -> None:
    labels, teacher, student = batch
    p, log_q = softmax(teacher / 5), references.log_softmax(student / 5)
    expected = (p * np.log(p)).sum(axis=1) - (p * log_q).sum(axis=1)
    np.testing.assert_allclose(soft_term("kd", labels, teacher, student, 5), expected, rtol=EXACT)


@pytest.mark.parametrize("temp", TEMPS)
def test_dkd_is_kd_where_the_other_classes_weigh_what_the_teacher_gives_them(
    batch: Batch, temp: float
) -> None:
    # Zhao et al. 2022, eq. 6
    labels, teacher, student = batch
    for_others = 1 - softmax(teacher / temp)[np.arange(len(labels)), labels].astype(FLOAT)
    term = LOSSES["dkd"].term
    decoupled = term(labels, teacher, student, temp, dkd_alpha=1, dkd_beta=for_others)
    np.testing.assert_allclose(
        decoupled, soft_term("kd", labels, teacher, student, temp), rtol=EXACT
    )


def test_dkds_weights_are_those_of_its_two_parts() -> None:
    # teacher (1/2, 1/3, 1/6), student (1/4, 1/4, 1/2), of which the first is the label's class
    logits = [np.log([shares]).astype(FLOAT) for shares in ([3, 2, 1], [1, 1, 2])]
    target = kl(np.log([1 / 2, 1 / 2]), np.log([1 / 4, 3 / 4]))
    others = kl(np.log([2 / 3, 1 / 3]), np.log([1 / 3, 2 / 3]))
    for dkd_alpha, dkd_beta, expected in [(1, 0, target), (0, 1, others)]:
        found = LOSSES["dkd"].term([0], *logits, 1, dkd_alpha=dkd_alpha, dkd_beta=dkd_beta)
        assert float(found[0]) == pytest.approx(expected)


@pytest.mark.parametrize("loss", LOSSES)
def test_a_student_that_equals_its_teacher_up_to_a_shift_has_nothing_to_learn(
    batch: Batch, loss: str
) -> None:
    labels, teacher, _ = batch
    assert soft_term(loss, labels, teacher, teacher + 5, 4) == pytest.approx(0, abs=100 * EXACT)
    assert soft_term(loss, labels, teacher, -teacher, 4).min() > 0.1


@pytest.mark.parametrize("loss", LOSSES)
def test_a_constant_added_to_an_examples_logits_changes_no_soft_term(
    batch: Batch, loss: str
) -> None:
    labels, teacher, student = batch
    shifts = np.random.default_rng(2).integers(-99, 100, (2, len(teacher), 1)).astype(FLOAT)
    np.testing.assert_allclose(
        soft_term(loss, labels, teacher + shifts[0], student + shifts[1], 4),
        soft_term(loss, labels, teacher, student, 4),
        rtol=EXACT,
    )


def test_the_scale_of_an_examples_logits_does_not_matter_to_ls_alone(batch: Batch) -> None:
    labels, teacher, student = batch
    scales = np.random.default_rng(3).uniform(0.1, 10, (2, len(teacher), 1)).astype(FLOAT)
    changed = {
        loss: abs(
            soft_term(loss, labels, scales[0] * teacher, scales[1] * student, 4)
            - soft_term(loss, labels, teacher, student, 4)
        ).max()
        for loss in LOSSES
    }
    assert changed.pop("ls") < EXACT
    assert min(changed.values()) > 0.1


def test_the_intra_class_term_of_dist_is_the_same_for_every_example(batch: Batch) -> None:
    labels, teacher, student = batch
    term = LOSSES["dist"].term
    intra = term(labels, teacher, student, 4, dist_beta=0, dist_gamma=1)
    assert intra.shape == (32,)
    assert len(set(np.asarray(intra))) == 1
    of_one = term(labels[:1], teacher[:1], student[:1], 4, dist_beta=0, dist_gamma=1)
    assert float(of_one[0]) == 1


# --- gradients ----------------------------------------------------------------------------------


@pytest.mark.parametrize("temp", ALL_TEMPS)
def test_the_gradient_of_kd_is_that_of_the_cross_entropy_which_the_paper_writes(
    temp: float,
) -> None:
    labels, teacher, student = batch_of(5)

    def cross_entropy_form(logits: Any) -> Any:
        p = ops.softmax(teacher / temp, axis=-1)
        return -ops.sum(p * ops.log_softmax(logits / temp, axis=-1), axis=-1)

    of_kd = gradient(lambda logits: LOSSES["kd"].term(labels, teacher, logits, temp), student)
    of_cross_entropy = gradient(cross_entropy_form, student)
    by_hand = (softmax(student.astype("f8") / temp) - softmax(teacher.astype("f8") / temp)) / temp
    atol = 1e-5 * np.abs(by_hand).max()
    np.testing.assert_allclose(of_kd, by_hand, rtol=1e-3, atol=atol)
    np.testing.assert_allclose(of_kd, of_cross_entropy, rtol=1e-3, atol=atol)


@pytest.mark.parametrize("temp", [0.5, 4, 100])
@pytest.mark.parametrize("loss", LOSSES)
def test_the_gradient_is_that_of_the_float64_reference(loss: str, temp: float) -> None:
    labels, teacher, student = batch_of(2, examples=6)
    found = gradient(
        lambda logits: LOSSES[loss].term(labels, teacher, logits, temp, **WEIGHTS[loss]), student
    )
    step, expected = 1e-4, np.zeros(student.shape)
    for position in np.ndindex(student.shape):
        moved = np.zeros(student.shape)
        moved[position] = step
        there, back = (
            references.SOFT_TERMS[loss](labels, teacher.astype("f8"), student + way * moved, temp)
            for way in (1, -1)
        )
        expected[position] = (there - back).sum() / (2 * step)
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3 * np.abs(expected).max())


@pytest.mark.parametrize("temp", [0.01, 1, 1000])
@pytest.mark.parametrize("loss", LOSSES)
def test_gradients_are_finite_over_the_whole_range_that_is_allowed(loss: str, temp: float) -> None:
    labels, teacher, student = batch_of(1, examples=16)
    same, opposite, none = teacher.copy(), -teacher, np.zeros_like(teacher)
    for scale in (1, 100, 1e4):
        for at in (student, same, opposite, none):
            scaled = np.float32(scale) * teacher
            term = partial(LOSSES[loss].term, labels, scaled, temp=temp, **WEIGHTS[loss])
            found = gradient(term, np.float32(scale) * at)
            assert np.isfinite(found).all(), scale


def test_a_student_that_equals_its_teacher_does_not_move() -> None:
    _, teacher, _ = batch_of(3)
    assert not gradient(lambda logits: kl_divergence(teacher, logits), teacher).any()


# --- the records --------------------------------------------------------------------------------


@pytest.mark.parametrize("loss", LOSSES)
def test_the_weights_of_a_record_are_those_that_its_soft_term_takes(loss: str) -> None:
    record = LOSSES[loss]
    arguments = inspect.signature(record.term).parameters.values()
    weights = [p.name for p in arguments if p.kind is inspect.Parameter.KEYWORD_ONLY]
    assert record.name == loss
    assert weights == list(record.weights) == list(WEIGHTS[loss])
    defaults = {name: weight.default for name, weight in record.weights.items()}
    assert parameters(ObjectiveConfig, loss=loss).weights == defaults


@pytest.mark.parametrize("loss", sorted(LOSSES))
@pytest.mark.parametrize("gamma", [0.0, 1.0])
def test_with_the_fewest_classes_that_a_loss_takes_there_is_something_to_learn(
    loss: str, gamma: float
) -> None:
    weights = {name: weight.default for name, weight in LOSSES[loss].weights.items()}
    if "dist_gamma" in weights:
        weights["dist_gamma"] = gamma
    least = LOSSES[loss].smallest_classes(weights)
    rng = np.random.default_rng(0)
    slopes = {}
    for classes in (2, least):
        teacher, student = rng.normal(size=(2, 16, classes)).astype(np.float32)
        labels = np.arange(16) % classes

        def term(logits: Any, teacher: Any = teacher, labels: Any = labels) -> Any:
            return LOSSES[loss].term(labels, teacher, logits, 4.0, **weights)

        slopes[classes] = np.abs(gradient(term, student)).max()
    assert slopes[least] > 1e-4
    assert least == 2 or slopes[2] < 1e-5
