import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdflow.config.base import canonical

NUMBERS = st.one_of(st.integers(), st.floats(allow_nan=False, allow_infinity=False))


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (8.0, "8"),
        (8, "8"),
        (0.1, "0.1"),
        (-0.0, "0"),
        (1e-05, "1e-05"),
        (1e22, "10000000000000000000000"),
        (True, "true"),
        (False, "false"),
        ("8.0", "8.0"),
        ("kd", "kd"),
    ],
)
def test_a_value_is_written_as_a_user_would(value: object, text: str) -> None:
    assert canonical(value) == text


@given(NUMBERS)
def test_a_number_is_read_back_as_the_same_number(number: float) -> None:
    text = canonical(number)
    assert (float(text) if isinstance(number, float) else int(text)) == number


@given(NUMBERS, NUMBERS)
def test_two_numbers_have_the_same_text_only_if_they_are_equal(one: float, other: float) -> None:
    assert (canonical(one) == canonical(other)) == (one == other)


@given(st.integers(-(2**53), 2**53))
def test_an_integer_has_the_same_text_as_the_float_that_it_is_given_as(number: int) -> None:
    assert canonical(number) == canonical(float(number))
