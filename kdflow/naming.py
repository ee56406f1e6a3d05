"""What runs are called, in the console and in the MLflow UI, which may show the first
characters alone; and what names a model or logits that no run made."""

import re
import string
from pathlib import Path

LONGEST = 40  # characters
MOST_NAMED = 10  # classes in a message
_HASH = "sha256:"


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


def scope_name(text: str) -> str:
    """`text` as the name of a Keras model: TensorFlow refuses most other characters."""
    name = re.sub(r"[^A-Za-z0-9_.-]", "_", text)
    return name if name[:1].isalnum() else f"own{name}"


def named_by_hash(digest: str) -> str:
    """What names a model or logits that no run made, by the SHA-256 of their content."""
    return _HASH + digest


def is_hash(source: str) -> bool:
    """Whether this names a model or logits that no run made."""
    return source.startswith(_HASH)
