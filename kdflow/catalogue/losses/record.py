"""What the catalogue states of a loss."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple


class Weight(NamedTuple):
    """A parameter that one loss alone has, from 0 to 1000."""

    default: float
    help: str


@dataclass(frozen=True)
class Loss:
    """A soft term: what a student learns from its teacher's logits.

    Attributes:
        term: from (labels, teacher_logits, student_logits, temp, **weights) to one value per
            example.
        summary: where it comes from, with what it compares, in a few words.
        weights: its own parameters, by name.
        smallest_classes: from the values of `weights` to the fewest classes with which it teaches
            anything.
    """

    name: str
    term: Callable[..., Any]
    summary: str
    weights: dict[str, Weight]
    smallest_classes: Callable[[Mapping[str, float]], int] = lambda _: 2
