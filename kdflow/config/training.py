"""What the steps that train a network take. A field without a default gets it from the recipes of
the network and the data set before validation, so that a step only ever sees resolved values."""

from typing import Any, ClassVar, Literal, NamedTuple

from pydantic import Field, ValidationInfo, field_validator, model_validator

from kdflow.catalogue.datasets import find_dataset
from kdflow.catalogue.networks import NETWORKS
from kdflow.catalogue.networks.record import Recipe
from kdflow.config.base import BatchSize, Config, Epochs, LearningRate, Seed, Views

OptimizerName = Literal["adam", "sgd", "speedrun"]
ScheduleName = Literal["constant", "cosine", "triangular"]


class Settings(NamedTuple):
    """How `training.fit` trains.

    Attributes:
        learning_rate: the largest that the schedule gives.
        views: each image is shown in one of the first `views` of `views.VIEWS`.
    """

    optimizer: str
    learning_rate: float
    epochs: int
    batch_size: int
    seed: int
    schedule: str = "constant"
    views: int = 1


def recipe(dataset: str, network: str) -> Recipe:
    """The default training settings of `network` on `dataset`: the network's, changed by the data
    set's, changed by the network's for that data set."""
    record, data = NETWORKS[network], find_dataset(dataset)
    changes = dict(data.recipe if data else {}) | dict(record.recipes.get(dataset, {}))
    return record.recipe._replace(**changes)


def default_teacher(dataset: str) -> str:
    """The network that teaches on `dataset` where none is named and none comes with kdflow."""
    record = find_dataset(dataset)
    assert record, dataset
    return record.teacher


def is_automatic(source: str) -> bool:
    """Whether `source` names a teacher to find or train, rather than a run or a folder."""
    return source == "auto" or source in NETWORKS


class TrainingConfig(Config):
    """What every step that trains a network takes."""

    network_field: ClassVar[str]

    epochs: Epochs
    batch_size: BatchSize
    learning_rate: LearningRate
    optimizer: OptimizerName = Field(
        description="adam, sgd with Nesterov momentum 0.9, or speedrun: sgd as in Jordan 2024, for"
        " networks with batch normalisation"
    )
    schedule: ScheduleName = Field(
        description="how the learning rate goes on from learning_rate, its largest value: constant,"
        " cosine (down to 0), or triangular (up for the first quarter, then down)"
    )
    dropout: float = Field(
        ge=0,
        lt=1,
        description="share of the last layer's inputs that are dropped in training; 0 in a network"
        " without such a layer",
    )
    seed: Seed = 0
    evaluate_test: bool = Field(
        True, description="read the test set once, at the end (true or false)"
    )

    @field_validator("evaluate_test")
    @classmethod
    def _no_watched_test_set(cls, evaluate_test: bool, info: ValidationInfo) -> bool:
        if not evaluate_test and info.data.get("holdout") == 0:
            raise ValueError("expected true with holdout=0, which watches the test set")
        return evaluate_test

    @model_validator(mode="before")
    @classmethod
    def _fill_in_recipe(cls, given: dict[str, Any]) -> dict[str, Any]:
        dataset = given.get("dataset", cls.model_fields["dataset"].default)
        if not find_dataset(dataset):
            return given  # refused by its own validator
        network = given.get(cls.network_field) or cls.default_network(dataset)
        known = network if network in NETWORKS else "student"  # any other is refused too
        defaults = recipe(dataset, known)._asdict() | {"dropout": NETWORKS[known].dropout or 0}
        fitting = {name: value for name, value in defaults.items() if name in cls.model_fields}
        return {cls.network_field: network, **fitting, **given}

    @classmethod
    def default_network(cls, dataset: str) -> str:
        """The network that is trained on `dataset` unless the user says otherwise."""
        return str(cls.model_fields[cls.network_field].default)

    @property
    def network(self) -> str:
        """The name of the network that this step trains."""
        return str(getattr(self, self.network_field))

    @property
    def settings(self) -> Settings:
        """How that network is trained."""
        shown = getattr(self, "views", 0) or getattr(self, "augment", 1)
        return Settings(
            self.optimizer,
            self.learning_rate,
            self.epochs,
            self.batch_size,
            self.seed,
            self.schedule,
            shown,
        )


class LabelsConfig(TrainingConfig):
    """What training from labels alone takes."""

    augment: Views = Field(
        description="train on this many views of the images: 2 adds mirror images, 50 shifts by up"
        " to 2 pixels, 162 by up to 4"
    )
