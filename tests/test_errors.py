import pytest

from kdflow.errors import KdflowError, UnfitError, UnreachableError, about


@pytest.mark.parametrize("kind", [KdflowError, UnfitError, UnreachableError])
def test_an_error_keeps_its_kind_when_the_parameter_is_named(kind: type[KdflowError]) -> None:
    # a stored result is made again where it is unfit, never where it is unreachable
    cause = kind("expected one, got none")
    with pytest.raises(KdflowError) as raised, about("teacher"):
        raise cause
    assert type(raised.value) is kind
    assert str(raised.value) == "teacher: expected one, got none"
    assert raised.value.__cause__ is cause


def test_an_error_without_a_parameter_stays_as_it_is() -> None:
    cause = UnfitError("expected one, got none")
    with pytest.raises(UnfitError) as raised, about(""):
        raise cause
    assert raised.value is cause


def test_any_other_error_stays_as_it_is() -> None:
    cause = ValueError("a fault of the program")
    with pytest.raises(ValueError, match=r"^a fault of the program$") as raised, about("teacher"):
        raise cause
    assert raised.value is cause


def test_nothing_happens_without_an_error() -> None:
    with about("teacher"):
        reached = True
    assert reached
