"""What the steps that train a network take. A field without a default gets it from the recipes of
the network and the data set before validation, so that a step only ever sees resolved values."""

from typing import Any, ClassVar, Literal, Self

from pydantic import Field, ValidationInfo, field_validator, model_validator

from kdflow.catalogue.datasets import find_dataset
from kdflow.catalogue.datasets.record import DatasetRecord
from kdflow.catalogue.networks import find_network, is_network, network_name
from kdflow.catalogue.networks.own import FORMS
from kdflow.catalogue.networks.record import Recipe
from kdflow.config.base import (
    BatchSize,
    Config,
    Epochs,
    LearningRate,
    NetworkName,
    Seed,
    rarely_used,
)
from kdflow.config.fitting import DECAYING, FittingConfig, Settings
from kdflow.config.precision import PrecisionConfig
from kdflow.config.views import ViewCount, ViewSetConfig

OptimizerName = Literal["adam", "adamw", "muon", "sgd", "speedrun"]
ScheduleName = Literal["constant", "cosine", "triangular"]


def recipe(dataset: str, network: str) -> Recipe:
    """The default training settings of `network` on `dataset`: the network's, changed by the data
    set's, changed by the network's for that data set."""
    record, data = find_network(network), find_dataset(dataset)
    changes = dict(data.recipe if data else {}) | dict(record.recipes.get(dataset, {}))
    return record.recipe._replace(**changes)


def default_teacher(dataset: str) -> str:
    """The network that teaches on `dataset` where none is named and none comes with kdflow."""
    return _record(dataset).teacher


def default_student(dataset: str) -> str:
    """The network that learns on `dataset` where none is named."""
    return _record(dataset).student


def default_pupil(dataset: str) -> str:
    """The network that the student teaches on `dataset` where none is named."""
    return _record(dataset).pupil


def _record(dataset: str) -> DatasetRecord:
    record = find_dataset(dataset)
    assert record, dataset
    return record


def is_automatic(source: str) -> bool:
    """Whether `source` names a teacher to find or train, rather than a run, a folder, or a `.keras`
    file, which as a teacher is one that is trained already."""
    return source == "auto" or (is_network(source) and not source.endswith(".keras"))


class TrainingConfig(FittingConfig, ViewSetConfig, PrecisionConfig):
    """What every step that trains a network takes."""

    network_field: ClassVar[str]

    epochs: Epochs
    batch_size: BatchSize
    learning_rate: LearningRate
    optimizer: OptimizerName = Field(
        description="adam, adamw or muon (see weight_decay), sgd with Nesterov momentum 0.9, or"
        " speedrun: sgd as in Jordan 2024, for networks with batch normalisation"
    )
    schedule: ScheduleName = Field(
        description="how the learning rate changes; learning_rate is its largest value: constant,"
        " cosine (down to 0), or triangular (from a fifth of it up for 23 % of the steps, then down"
        " to 0.07 of it)"
    )
    dropout: float = Field(
        ge=0,
        lt=1,
        description="share of the last layer's inputs that are dropped in training; 0 in a network"
        " without a dropout layer there, and in one of your own",
    )
    seed: Seed = 0
    initial_weights: Literal["fresh", "kept"] = Field(
        "fresh",
        description="of a .keras file of your own: fresh (its architecture, initialised from seed)"
        " or kept (starts from its weights)",
        json_schema_extra=rarely_used("fresh"),
    )
    evaluate_test: bool = Field(True, description="read the test set once, at the end")

    @field_validator("evaluate_test")
    @classmethod
    def _check_evaluate_test(cls, evaluate_test: bool, info: ValidationInfo) -> bool:
        if not evaluate_test and info.data.get("holdout") == 0:
            raise ValueError("expected true with holdout=0, which validates on the test set")
        return evaluate_test

    @model_validator(mode="before")
    @classmethod
    def _fill_in_recipe(cls, given: dict[str, Any]) -> dict[str, Any]:
        dataset = cls.known_dataset(given)
        if dataset is None:
            return given
        network = given.get(cls.network_field) or cls.default_network(dataset)
        # an unknown name is refused by its own validator
        known = network if is_network(network) else "student"
        rate = find_network(known).dropout or 0
        defaults = recipe(dataset, known)._asdict() | {"dropout": rate}
        required = {name for name, field in cls.model_fields.items() if field.is_required()}
        fitting = {name: value for name, value in defaults.items() if name in required}
        return {cls.network_field: network, **fitting, **given}

    @model_validator(mode="after")
    def _check_combination(self) -> Self:
        if self.weight_decay and self.optimizer not in DECAYING:
            raise ValueError(
                f"weight_decay: expected 0 with optimizer={self.optimizer}, got {self.weight_decay}"
            )
        if self.warmup and self.schedule == "triangular":
            raise ValueError(
                "warmup: expected 0 with schedule=triangular, which has a warmup, got"
                f" {self.warmup}"
            )
        if self.warmup and self.warmup >= self.epochs:
            raise ValueError(
                f"warmup: expected fewer epochs than all {self.epochs}, got {self.warmup}"
            )
        return self

    @classmethod
    def default_network(cls, dataset: str) -> str:
        """The network that is trained on `dataset` unless the user says otherwise."""
        return default_student(dataset)

    @property
    def network(self) -> str:
        """The name of the network that this step trains."""
        return str(getattr(self, self.network_field))

    @property
    def keeps_weights(self) -> bool:
        """Whether it starts from the weights that its file has."""
        return self.initial_weights == "kept"

    @property
    def settings(self) -> Settings:
        """How that network is trained."""
        return Settings(
            optimizer=self.optimizer,
            learning_rate=self.learning_rate,
            epochs=self.epochs,
            batch_size=self.batch_size,
            seed=self.seed,
            schedule=self.schedule,
            views=self.shown,
            weight_decay=self.weight_decay,
            warmup=self.warmup,
            clip_norm=self.clip_norm,
            ema=self.ema,
            keep=self.keep,
            patience=self.patience,
            precision=self.computed_in,
        )


class StudentConfig(Config):
    """Parameters of a step that trains several networks, a student among them."""

    student: NetworkName = Field(description="the network to train, or one of your own: " + FORMS)

    @model_validator(mode="before")
    @classmethod
    def _fill_in_networks(cls, given: dict[str, Any]) -> dict[str, Any]:
        dataset = cls.known_dataset(given)
        if dataset is None:
            return given
        defaults = cls.default_networks(dataset)
        return {name: it for name, it in defaults.items() if name in cls.model_fields} | given

    @property
    def student_name(self) -> str:
        """The student as runs are named: a file without its folder."""
        return network_name(self.student)

    @classmethod
    def default_networks(cls, dataset: str) -> dict[str, str]:
        """The networks that are trained on `dataset` unless the user says otherwise."""
        return {"student": default_student(dataset), "pupil": default_pupil(dataset)}


class LabelsConfig(TrainingConfig):
    """What training from labels alone takes."""

    views_field = "augment"

    augment: ViewCount = Field(
        description="train on this many views of the images: 2 adds mirror images, 18 shifts by up"
        " to 1 pixel, 50 by up to 2, 162 by up to 4 (see view_set)"
    )
