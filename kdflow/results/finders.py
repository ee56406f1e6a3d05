"""How each kind of need is named, found and verified."""

from typing import Any, Protocol

from kdflow.dataset import Dataset
from kdflow.needs import LayersOf, LogitsOf, Lookup, ModelOf, Need, Training
from kdflow.results import layers, logits, models, trainings
from kdflow.tracking.find import FoundRun


class Finder(Protocol):
    """How one kind of need is named, found and verified; a module each in this folder."""

    def named(self, need: Any, dataset: Dataset) -> Any:
        """The verified result that the user named by a path; None if it is not named so."""

    def candidates(self, need: Any, lookup: Lookup) -> list[FoundRun]:
        """The runs that may hold the result, best first."""

    def verified(self, need: Any, run: FoundRun, dataset: Dataset) -> Any:
        """The verified result that a run holds. Raises `UnfitError` or `UnreachableError`."""

    def made_by(self, need: Any, dataset: Dataset) -> tuple[str, dict[str, Any]]:
        """The step that makes the result where there is none, and its parameters."""


FINDERS: dict[type[Need], Finder] = {
    ModelOf: models,
    LogitsOf: logits,
    LayersOf: layers,
    Training: trainings,
}
