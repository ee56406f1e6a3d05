"""What a command is: like a step on the command line, but it opens no run."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict

from kdflow.config.base import Traceback
from kdflow.errors import KdflowError


class CommandConfig(BaseModel):
    """What every command takes."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    traceback: Traceback = False


def check_square(shape: tuple[int, int, int]) -> None:
    """Refuse the images of a network that photos are not resized to.

    Args:
        shape: (height, width, channels).

    Raises:
        KdflowError: they are not square, or have neither one channel nor three.
    """
    height, width, channels = shape
    if height != width or channels not in (1, 3):
        raise KdflowError(
            "expected a network that takes square images of one or three channels, got one for"
            f" {height}x{width}x{channels}"
        )


@dataclass(frozen=True)
class Command:
    """A command.

    Attributes:
        config: its parameters.
        run: does it.
    """

    name: str
    config: type[CommandConfig]
    run: Callable[[Any], None]
