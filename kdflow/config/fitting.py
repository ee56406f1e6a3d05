"""The settings of a training, and the parameters that few trainings need."""

from typing import Any, Literal, NamedTuple

from pydantic import Field, ValidationInfo, field_validator

from kdflow.config.base import Config, rarely_used
from kdflow.config.views import ONE_VIEW, Views
from kdflow.hardware import Precision

DECAYING = ("adamw", "muon")  # the optimisers that take `weight_decay`

Keep = Literal["last", "best_loss", "best_accuracy"]


class Settings(NamedTuple):
    """How `training.loop.fit` and `training.hint.fit_hint` train.

    Attributes:
        optimizer, schedule: see `training.optimizers` and `training.schedules`.
        learning_rate: the largest that the schedule gives.
        views: each image is shown in one of these.
        weight_decay, warmup, clip_norm, ema, keep, patience: see `FittingConfig`.
        precision: what the layers compute in, see `precision.computing_in`.
    """

    optimizer: str
    learning_rate: float
    epochs: int
    batch_size: int
    seed: int
    schedule: str = "constant"
    views: Views = ONE_VIEW
    weight_decay: float = 0.0
    warmup: int = 0
    clip_norm: float = 0.0
    ema: float = 0.0
    keep: Keep = "last"
    patience: int = 0
    precision: Precision = "float32"


class FittingConfig(Config):
    """Parameters that change nothing at their defaults."""

    weight_decay: float = Field(
        0,
        ge=0,
        le=1,
        description="of optimizer=adamw or muon: each step subtracts learning_rate * weight_decay *"
        " weight from each weight, except from biases and normalisation",
        json_schema_extra=rarely_used(0),
    )
    warmup: int = Field(
        0,
        ge=0,
        description="epochs in which the learning rate rises linearly from 0 to what the schedule"
        " gives",
        json_schema_extra=rarely_used(0),
    )
    clip_norm: float = Field(
        0,
        ge=0,
        description="clip the global norm of the gradients to this value; 0 turns clipping off",
        json_schema_extra=rarely_used(0),
    )
    ema: float = Field(
        0,
        ge=0,
        lt=1,
        description="validate and log an exponential moving average of the weights with this decay"
        " per step, for example 0.999; 0 turns averaging off",
        json_schema_extra=rarely_used(0),
    )
    label_smoothing: float = Field(
        0,
        ge=0,
        lt=1,
        description="share of each label that is spread evenly over all classes",
        json_schema_extra=rarely_used(0),
    )
    class_weight: Literal["none", "balanced"] = Field(
        "none",
        description="balanced: weight the labels' term so that every class counts the same, however"
        " many training images it has",
        json_schema_extra=rarely_used("none"),
    )
    keep: Keep = Field(
        "last",
        description="which weights a training ends with: last (the last epoch's), best_loss or"
        " best_accuracy (those of the epoch with the best val_loss or val_accuracy)",
        json_schema_extra=rarely_used("last"),
    )
    patience: int = Field(
        0,
        ge=0,
        description="stop after this many epochs without a better val_loss (val_accuracy with"
        " keep=best_accuracy); 0 trains all epochs",
        json_schema_extra=rarely_used(0),
    )

    @field_validator("keep", "patience")
    @classmethod
    def _check_validation_exists(cls, value: Any, info: ValidationInfo) -> Any:
        neutral = cls.model_fields[str(info.field_name)].default
        if value != neutral and info.data.get("holdout") == 0:
            raise ValueError(f"expected {neutral} with holdout=0, whose validation is the test set")
        return value
