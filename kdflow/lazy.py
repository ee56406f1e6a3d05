"""Modules that are imported at their first use."""

import importlib
from typing import Any


class _LazyModule:
    def __init__(self, module: str) -> None:
        self._module = module

    def __getattr__(self, name: str) -> Any:
        return getattr(importlib.import_module(self._module), name)


def lazy_import(module: str) -> Any:
    """A stand-in for a module that takes seconds to import, such as Keras. The catalogue uses it,
    so that `--help` and refused arguments answer without Keras (PEP 810 makes it a keyword).

    Args:
        module: its full name.
    """
    return _LazyModule(module)
