"""What a result is handed over as, and the checks that several kinds share."""

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import keras

from kdflow import network
from kdflow.artifacts import logits
from kdflow.dataset import Dataset
from kdflow.errors import UnfitError
from kdflow.naming import is_hash
from kdflow.sources import code_of
from kdflow.tags import WEIGHTS_TAG
from kdflow.tracking import artifacts
from kdflow.tracking.find import FoundRun, other_code


class TrainedModel(NamedTuple):
    """A network, and where it is from.

    Attributes:
        source: the id of its run, or `sha256:` and the hash of its weights and architecture.
        weights_sha256: verified.
        holdout: the share of training images that it was not trained on, where known.
        words: what the console calls it.
        epochs: how many it was trained for, where known.
    """

    source: str
    network: keras.Model
    weights_sha256: str
    holdout: float | None
    words: str
    epochs: int | None = None

    @property
    def digest(self) -> str:
        """Its identifier in keys: the source if that is a hash, else the SHA-256 of its weights."""
        return self.source if is_hash(self.source) else self.weights_sha256


@dataclass(frozen=True)
class TeacherLogits:
    """Verified logits.

    Attributes:
        source: the id of an export's run, or `sha256:` and the hash of a folder's manifest.
        views: how many of their views are used.
        remark: on the code that made them.
    """

    source: str
    logits: logits.Logits
    views: int
    remark: str = ""

    @cached_property
    def digest(self) -> str:
        """What names them in keys: the content of the views that are used."""
        return logits.digest(self.logits, self.views)

    @property
    def words(self) -> str:
        """What the console calls them."""
        manifest = self.logits.manifest
        return (
            f"logits of {manifest.network}, {self.source}, train accuracy"
            f" {manifest.accuracy['train']:.4f}, test accuracy"
            f" {manifest.accuracy['test']:.4f}{self.remark}"
        )


class StepResult(NamedTuple):
    """A finished step: its run, and that run's last metrics.

    Attributes:
        title: the run's name.
        remark: on the code that made it.
    """

    run_id: str
    metrics: dict[str, float]
    title: str = ""
    remark: str = ""

    @property
    def source(self) -> str:
        """The run's id."""
        return self.run_id

    @property
    def words(self) -> str:
        """What the console calls it."""
        return f"{self.title}, run {self.run_id}{self.remark}"


def verified_model(run: FoundRun) -> TrainedModel:
    """The model that a run logged, once its weights are shown to be those of that run.

    Raises:
        UnfitError: it cannot be loaded, or has other weights.
        UnreachableError: it cannot be read, though it may be intact.
    """
    model = artifacts.load_model(run)
    expected, found = run.tags[WEIGHTS_TAG], network.weights_sha256(model)
    if expected != found:
        raise UnfitError(
            f"expected weights with SHA-256 {expected} in run {run.run_id}, got {found}"
        )
    accuracy = run.metrics.get("test_accuracy")
    accuracy_words = f", test accuracy {accuracy:.4f}" if accuracy is not None else ""
    words = f"{model.name}, run {run.run_id}{accuracy_words}{remark(run)}"
    epochs = int(float(run.params["epochs"]))
    return TrainedModel(run.run_id, model, found, run.holdout, words, epochs)


def current_model(run: FoundRun, name: str, dataset: Dataset) -> TrainedModel:
    """The model that a run logged, once it is shown to compute what the network of that name
    computes in this version of the code.

    Raises:
        UnfitError: it does not, cannot be loaded, or has other weights than those of the run.
        UnreachableError: it cannot be read, though it may be intact.
    """
    there = verified_model(run)
    here = network.untrained(name, dataset.image_shape, dataset.classes)
    if network.architecture_sha256(here) != network.architecture_sha256(there.network):
        raise UnfitError(
            f"expected the present architecture of {name}, got run {run.run_id}, whose layers or"
            f" settings differ{remark(run)}"
        )
    return there


def remark(run: FoundRun) -> str:
    """A remark on the code that made a run, empty if it is what runs now."""
    return other_code(run, code_of(run.step, run.params))
