"""What runs are called, in the console and in the MLflow UI, which may show the first
characters alone."""

import string
from pathlib import Path

LONGEST = 40  # characters


def run_name(*parts: str) -> str:
    """A run's name of at most `LONGEST` characters.

    Args:
        parts: what differs between runs of one step first; empty ones are left out.
    """
    name = " ".join(part for part in parts if part)
    return name if len(name) <= LONGEST else f"{name[: LONGEST - 3]}..."


def short_source(source: str) -> str:
    """What a run's name calls a model: the first characters of a run's id, a file without its
    folder."""
    if ":/" in source:
        return source
    name = Path(source).name
    is_id = len(name) == 32 and set(name) <= set(string.hexdigits)
    return name[:8] if is_id else name
