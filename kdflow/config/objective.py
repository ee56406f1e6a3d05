"""What the steps that distil take."""

from typing import Annotated, Any, Literal

from pydantic import Field, ValidationInfo, create_model, field_validator

from kdflow.catalogue.losses import LOSSES
from kdflow.config.base import HOW_TO_RUN, Config, Seed, canonical, one_of
from kdflow.config.precision import PrecisionConfig
from kdflow.config.reading import OwnTeacherConfig
from kdflow.config.views import AveragedConfig, ViewCount, ViewSetConfig

LossName = Annotated[str, one_of(LOSSES)]
ReusePolicy = Literal["same_code", "any", "never"]


class LossConfig(Config):
    """Which soft term is minimised."""

    loss: LossName = Field(
        "kd",
        description="the soft term: "
        + "; ".join(f"{loss.name} ({loss.summary})" for loss in LOSSES.values()),
    )


WEIGHTS: dict[str, Any] = {
    name: (
        float,
        Field(weight.default, ge=0, le=1000, description=f"of loss={loss.name}: {weight.help}"),
    )
    for loss in LOSSES.values()
    for name, weight in loss.weights.items()
}


def _check_weight_is_used(cls: type[Config], weight: float, info: ValidationInfo) -> float:
    loss, name = info.data.get("loss"), str(info.field_name)
    default = cls.model_fields[name].default
    if loss and name not in LOSSES[loss].weights and weight != default:
        raise ValueError(
            f"expected no value, or {canonical(default)}, with loss={loss}, which does not use it"
        )
    return weight


WeightsConfig = create_model(
    "WeightsConfig",
    __base__=LossConfig,
    __validators__={"check_weight_is_used": field_validator(*WEIGHTS)(_check_weight_is_used)},
    **WEIGHTS,
)
"""The loss and the parameters that one loss alone has, a field each."""


class ObjectiveConfig(WeightsConfig, ViewSetConfig, AveragedConfig):  # type: ignore[valid-type,misc]
    """What every step that distils takes."""

    temp: float = Field(4, ge=0.01, le=1000, description="temperature T of the soft targets")
    alpha: float = Field(0.9, ge=0, le=1, description="weight of the soft term")
    t_squared: bool = Field(
        True, description="multiply the soft term by T^2 (true), or not (false)"
    )
    views: ViewCount = Field(
        1, description="train on this many views of the images, each with its own cached logits"
    )

    @property
    def weights(self) -> dict[str, float]:
        """The parameters that the chosen loss alone has, by name."""
        return {name: getattr(self, name) for name in LOSSES[self.loss].weights}

    def used(self) -> dict[str, Any]:
        """Without the weights of other losses."""
        others = set(WEIGHTS) - set(self.weights)
        return {name: value for name, value in super().used().items() if name not in others}

    @property
    def objective(self) -> str:
        """What is minimised, as runs are named: `T=8 alpha=0.5`, or `dkd T=8 alpha=0.5`."""
        named = "" if self.loss == "kd" else f"{self.loss} "
        return f"{named}T={self.temp:.4g} alpha={self.alpha:.4g}"


class ReuseConfig(Config):
    """What a step that trains several networks takes."""

    reuse: ReusePolicy = Field(
        "same_code",
        description="which earlier trainings are reused in the comparison: same_code (made by the"
        " same code on the same hardware), any, or never",
        json_schema_extra=HOW_TO_RUN,
    )


class ThenDeployConfig(Config):
    """Parameters of a step that can deploy its student."""

    deploy: bool = Field(
        False,
        description="deploy the student afterwards, as a child run at the default settings of the"
        " step `deploy`",
        json_schema_extra=HOW_TO_RUN,
    )


class ChainConfig(ObjectiveConfig, ReuseConfig, OwnTeacherConfig, PrecisionConfig):
    """What a step that trains networks one from another takes."""

    epochs: int = Field(
        0,
        ge=0,
        lt=2**31,
        description="passes over the training images; 0 is the default of each network",
    )
    seed: Seed = 0

    @property
    def budget(self) -> dict[str, int]:
        """What each training gets."""
        return {"seed": self.seed} | ({"epochs": self.epochs} if self.epochs else {})
