"""Pages of HTML, in which all that is filled in is escaped."""

from pathlib import Path
from typing import Any

import jinja2


def rendered(template: Path, **values: Any) -> str:
    """The page that a Jinja template makes.

    Args:
        template: next to the code that fills it in.
        values: all that it names.
    """
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.from_string(template.read_text(encoding="utf-8")).render(values)
