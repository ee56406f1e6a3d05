"""The parameters of a sweep: its own, and those of the `distill` trainings that it runs."""

import os
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from kdflow.catalogue.datasets import find_dataset
from kdflow.catalogue.networks import find_network
from kdflow.catalogue.networks.own import APPLICATIONS
from kdflow.config.base import how_to_run, validated
from kdflow.config.objective import ReusePolicy
from kdflow.config.reading import OwnTeacherConfig
from kdflow.config.training import is_automatic
from kdflow.errors import KdflowError
from kdflow.steps.distill import DistillConfig
from sweeps.driver.study import Study

C = TypeVar("C", bound=BaseModel)

# Not parameters of a sweep: trials never read the test set, and the finals always do; a study is
# resumed by its name.
FIXED_FIELDS = ("evaluate_test", "resume")
# The parameters that are left out would choose another teacher, other images, other views, other
# logits or a lucky seed, or train one student with settings that suit another.
NOT_SEARCHABLE = (
    *("seed", "student", "initial_weights", "precision"),
    *("view_set", "averaged"),
    *OwnTeacherConfig.model_fields,
    "teacher",
)
OF_RAY = {"ray_address", "cpus_per_trial", "gpus_per_trial"}
SEARCHABLE = [
    name
    for name in DistillConfig.model_fields
    if name not in {*how_to_run(DistillConfig), *FIXED_FIELDS, *NOT_SEARCHABLE}
]


class SweepConfig(BaseModel):
    """Run a study of `sweeps/`: search parameters of `distill`, then compare the best settings with
    the student from labels alone."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    study: str = Field(description="the name of a file in sweeps/")
    trials: int = Field(ge=1, lt=2**31, description="how many settings are tried")
    study_name: str = Field(
        "auto",
        min_length=1,
        description="the name under which the study is resumed; auto is the study's file and the"
        " data set",
    )
    storage: str = Field(
        "sqlite:///sweeps/studies.db",
        min_length=1,
        description="where Optuna keeps the study: an SQLAlchemy URL; PostgreSQL for several"
        " machines",
    )
    sampler_seed: int = Field(0, ge=0, lt=2**32, description="seed of the sampler")
    best: int = Field(1, ge=1, le=20, description="how many of the best settings reach the finals")
    repeats: int = Field(
        5, ge=2, le=1000, description="number of seeds for each finalist and its baseline"
    )
    control: Literal["fixed", "searched"] = Field(
        "fixed",
        description="baseline of the finals, trained from labels alone: fixed (with the finalist's"
        " settings) or searched (with the best settings of a second study, which has as many trials"
        " and searches those of the parameters that a baseline has)",
    )
    workers: int = Field(
        1, ge=1, le=10000, description="processes that run trials; more than 1 needs Ray"
    )
    ray_address: str = Field(
        "none", min_length=1, description="the Ray cluster to run workers on; none is this machine"
    )
    cpus_per_trial: int = Field(1, ge=1, le=1024, description="CPU cores of each Ray worker")
    gpus_per_trial: float = Field(0, ge=0, le=64, description="GPUs of each Ray worker")
    heartbeat: int = Field(
        20,
        ge=1,
        le=3600,
        description="seconds between heartbeats of a trial; after three missing ones it is marked"
        " failed and retried",
    )
    reuse: ReusePolicy = Field(
        "same_code",
        description="which earlier trainings are reused in the finals: same_code (made by the same"
        " code on the same hardware), any, or never",
    )

    @property
    def uses_ray(self) -> bool:
        return self.workers > 1 or self.ray_address != "none"

    def used(self) -> dict[str, Any]:
        """The parameters that a sweep logs, by name: without those of Ray where it is not used."""
        return self.model_dump(exclude=set() if self.uses_ray else OF_RAY)


def trial_config(study: Study, given: dict[str, Any]) -> DistillConfig:
    """What all trials have in common. For parameters that are searched see `Study.stand_in`.

    Args:
        given: parameters of `distill` from the user, which override the study's `base`.

    Raises:
        KdflowError: one is invalid or is searched, or the study searches invalid values.
    """
    for name in study.space:
        if name not in SEARCHABLE:
            raise KdflowError(
                f"{name}: a study cannot search it; expected one of {', '.join(SEARCHABLE)}"
            )
        if name in given:
            raise KdflowError(
                f"{name}: expected no value, as the study searches it, got {given[name]!r}"
            )
    fields = {name: DistillConfig.model_fields[name] for name in study.space}
    searched = {
        name: study.stand_in(name, field.default)
        for name, field in fields.items()
        if not field.is_required()  # those have the recipe's value
    }
    config = validated(DistillConfig, {**study.base, **given, **searched})
    if config.holdout == 0:
        raise KdflowError(
            "holdout: expected more than 0, as a sweep selects on validation images, got 0"
        )
    config = with_values(config, {"evaluate_test": False})
    for name in study.space:
        for value in study.extremes(name):
            with_values(config, {name: value})
    return config


def with_values(config: C, values: dict[str, Any]) -> C:
    """A validated copy of `config` with other values.

    Raises:
        KdflowError: one is invalid.
    """
    return validated(type(config), config.model_dump() | values)


def with_absolute_paths(base: DistillConfig) -> DistillConfig:
    """A copy of `base` that means the same to a worker, which may have another working folder."""
    paths = {}
    record = find_dataset(base.dataset)
    if record and record.recognises:
        paths["dataset"] = str(Path(base.dataset).resolve())
    if not is_automatic(base.teacher) and os.path.exists(base.teacher):  # noqa: PTH110 (long ids)
        paths["teacher"] = str(Path(base.teacher).resolve())
    if find_network(base.student).is_own and not base.student.startswith(APPLICATIONS):
        paths["student"] = str(Path(base.student).absolute())
    return with_values(base, paths)
