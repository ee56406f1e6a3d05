"""What the steps take that may learn from a teacher which kdflow did not train."""

from typing import Literal, NamedTuple

from pydantic import Field

from kdflow.adapt import PixelRange
from kdflow.config.base import HOW_TO_RUN, Config, rarely


class Reading(NamedTuple):
    """How a teacher is read.

    Attributes:
        pixels: what a model of one's own expects of a pixel.
        values: what a folder of one's own holds.
        allow_weak: whether the teacher may be no better than chance.
    """

    pixels: PixelRange = "0..255"
    values: Literal["logits", "probabilities"] = "logits"
    allow_weak: bool = False


class BroughtModelConfig(Config):
    """How a model of one's own is read."""

    pixels: PixelRange = Field(
        "0..255",
        description="what a model of your own expects of a pixel; imagenet is its mean and"
        " standard deviation per channel",
        json_schema_extra=rarely("0..255"),
    )
    allow_weak_teacher: bool = Field(
        False,
        description="use a model that is no better than chance, too",
        json_schema_extra=HOW_TO_RUN,
    )

    @property
    def reading(self) -> Reading:
        """How the teacher is read."""
        return Reading(self.pixels, allow_weak=self.allow_weak_teacher)


class BroughtTeacherConfig(BroughtModelConfig):
    """How a teacher of one's own is read, a model or a folder."""

    values: Literal["logits", "probabilities"] = Field(
        "logits",
        description="what a folder of your own holds: logits, or probabilities, whose logarithm is"
        " taken",
        json_schema_extra=rarely("logits"),
    )

    @property
    def reading(self) -> Reading:
        """How the teacher is read."""
        return Reading(self.pixels, self.values, self.allow_weak_teacher)
