"""Train the student from labels alone: what distillation has to beat."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kdflow.config.training import LabelsConfig, StudentConfig
from kdflow.naming import run_name
from kdflow.needs import Step
from kdflow.steps.checks import check_network

if TYPE_CHECKING:
    from kdflow.dataset import Dataset
    from kdflow.steps.distill import DistillConfig
    from kdflow.tracking.run import Run


class BaselineConfig(LabelsConfig, StudentConfig):
    """Train the student from labels alone: what distillation has to beat."""

    network_field = "student"


def title(config: BaselineConfig) -> str:
    return run_name(f"s{config.seed}", "baseline", config.student_name)


def run(run: Run, config: BaselineConfig, dataset: Dataset) -> dict[str, float]:
    from kdflow.steps.training import labels_term, train_network

    return train_network(run, config, dataset, labels_term(config, dataset), title(config))


def baseline_for(config: DistillConfig) -> BaselineConfig:
    """What a distillation has to beat: its student from labels alone, with the same seed, budget
    and augmentation."""
    shared = config.model_dump(include=set(BaselineConfig.model_fields))
    return BaselineConfig(**shared, augment=config.views)


BASELINE = Step("baseline", BaselineConfig, title, run, check=check_network)
