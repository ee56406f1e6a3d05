"""What the steps take that show a network the images in several views."""

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from kdflow.config.base import Config, rarely_used

MAX_VIEWS = 162

ViewCount = Annotated[int, Field(ge=1, le=MAX_VIEWS)]


@dataclass(frozen=True)
class Views:
    """The first `count` views of a set, a key of `kdflow.views.VIEW_SETS`."""

    count: int = 1
    view_set: str = "shifts"


ONE_VIEW = Views()
"""The image itself."""


class ViewSetConfig(Config):
    """Which views are counted."""

    views_field: ClassVar[str] = "views"

    view_set: Literal["shifts", "photos"] = Field(
        "shifts",
        description="which views are meant: shifts (mirrored and shifted by up to 4 pixels), or"
        " photos (mirrored, crops of 80 % and 90 % of the area, mild changes of colour)",
        json_schema_extra=rarely_used("shifts"),
    )

    @model_validator(mode="after")
    def _check_view_count(self) -> Self:
        if self.view_set != "shifts" and self.view_count == 1:
            raise ValueError(
                f"view_set: expected shifts with {self.views_field}=1, the image itself, got"
                f" {self.view_set} (say {self.views_field}=18)"
            )
        return self

    @property
    def view_count(self) -> int:
        """How many views of the set are shown."""
        return int(getattr(self, self.views_field))

    @property
    def shown(self) -> Views:
        """The views that are shown."""
        return Views(self.view_count, self.view_set)


class AveragedConfig(Config):
    """Whether logits are averaged over mirror images."""

    averaged: bool = Field(
        False,
        description="the teacher's logits of a view: the mean over the view and its mirror image"
        " (true), which makes most teachers more accurate, or those of the view alone (false)",
        json_schema_extra=rarely_used(False),
    )
