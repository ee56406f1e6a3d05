"""Train a teacher from labels."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from kdflow.catalogue.networks import network_name
from kdflow.catalogue.networks.own import FORMS
from kdflow.config.base import NetworkName
from kdflow.config.training import LabelsConfig, default_teacher
from kdflow.naming import run_name
from kdflow.needs import Step
from kdflow.steps.checks import check_network

if TYPE_CHECKING:
    from kdflow.dataset import Dataset
    from kdflow.tracking.run import Run


class TeacherConfig(LabelsConfig):
    """Train a teacher from labels."""

    network_field = "arch"

    arch: NetworkName = Field(description=f"the network to train, or one of your own: {FORMS}")
    label_smoothing: float = Field(
        ge=0, lt=1, description="share of each label that is spread evenly over all classes"
    )

    @classmethod
    def default_network(cls, dataset: str) -> str:
        return default_teacher(dataset)


def title(config: TeacherConfig) -> str:
    return run_name(f"s{config.seed}", "teacher", network_name(config.arch))


def run(run: Run, config: TeacherConfig, dataset: Dataset) -> dict[str, float]:
    from kdflow.steps.training import labels_term, train_network

    return train_network(run, config, dataset, labels_term(config, dataset), title(config))


TEACHER = Step("teacher", TeacherConfig, title, run, check=check_network)
