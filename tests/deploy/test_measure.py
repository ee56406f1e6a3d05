"""What a student is compared with."""

import keras
import numpy as np
import pytest
from helpers import needs_deploy

from kdflow.dataset import Dataset
from kdflow.deploy.measure import Side, measured
from kdflow.evaluate.metrics import accuracy, predict_logits

pytestmark = needs_deploy


@pytest.mark.parametrize("is_known", [True, False])
def test_a_student_is_compared_with_the_logits_that_taught_it_where_they_are_known(
    is_known: bool, tiny: Dataset, small_network: keras.Model
) -> None:
    taught = 9 * np.eye(3, dtype=np.float32)[tiny.y_test]  # averaged, and better than the model
    sides = [Side("student", small_network, []), Side("teacher", small_network, [])]
    student, teacher = measured(sides, tiny, 0.01, 1, taught if is_known else None)
    own = accuracy(predict_logits(small_network, tiny.x_test), tiny.y_test)
    assert own < 0.9
    assert student.judged.against_teacher is not None
    expected = own - 1 if is_known else 0
    assert student.judged.against_teacher.difference == pytest.approx(expected)
    assert (teacher.judged.accuracy, teacher.judged.against_teacher) == (own, None)
