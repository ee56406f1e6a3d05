import numpy as np

from kdflow.deploy.tensor import Tensor

INT8 = Tensor("images", (None, 4), "int8", 0.5, -10)


def test_real_values_are_stored_as_the_nearest_integer_within_range() -> None:
    # 1.3 / 0.5 = 2.6, so 3 - 10; 100 / 0.5 = 200, so 190, which is more than 127
    stored = INT8.stored(np.array([[0.0, 1.3, 100.0, -100.0]]))
    assert stored.dtype == np.int8
    assert stored.tolist() == [[-10, -7, 127, -128]]


def test_stored_values_are_real_ones_again() -> None:
    real = INT8.real(np.array([[-10, -7, 127]], np.int8))
    assert real.dtype == np.float32
    assert real.tolist() == [[0.0, 1.5, 68.5]]


def test_floats_stay_as_they_are() -> None:
    plain = Tensor("images", (None, 2), "float32")
    stored = plain.stored(np.array([[1, 2]], np.uint8))
    assert stored.dtype == np.float32
    assert stored.tolist() == [[1.0, 2.0]]
    assert np.array_equal(plain.real(stored), stored)
