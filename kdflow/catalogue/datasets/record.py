"""What the catalogue states of a data set."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kdflow.dataset import Dataset


@dataclass(frozen=True)
class DatasetRecord:
    """A data set of the catalogue, or a kind of file that holds one.

    Attributes:
        name: what a user types; of a kind of file, what is to be typed, in words.
        load: from what the user typed, and the options, to the images.
        teacher: the network that teaches where none is named and none comes with kdflow.
        student: the network that learns where none is named.
        pupil: the network that the student teaches as an assistant where none is named.
        recipe: changes of every network's recipe.
        recognises: of a kind of file, whether a user who typed this means such a file; None of a
            single data set.
        options: the parameters of steps that `load` takes too, by keyword.
    """

    name: str
    load: Callable[..., Dataset]
    teacher: str = "vgg"
    student: str = "student"
    pupil: str = "pupil"
    recipe: Mapping[str, Any] = field(default_factory=dict)
    recognises: Callable[[str], bool] | None = None
    options: tuple[str, ...] = ()

    def matches(self, typed: str) -> bool:
        """Whether a user who typed this means this record."""
        return self.recognises(typed) if self.recognises else typed == self.name
