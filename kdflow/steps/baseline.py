"""Train the student from labels alone."""

from kdflow.config import BaselineConfig, DistillConfig
from kdflow.data import Dataset
from kdflow.steps.record import StepResult, find_result, link_upstream, open_step
from kdflow.steps.train import train_network


def run(config: BaselineConfig, data: Dataset, *, child: bool = False) -> StepResult:
    name = f"baseline {config.student} seed={config.seed}"
    with open_step("baseline", name, config, data, child=child) as run_id:
        link_upstream("baseline", config, data)
        return train_network(run_id, name, config, data, view_count=config.augment)


def find_or_run(config: BaselineConfig, data: Dataset) -> StepResult:
    """What a run like this one left, or the result of a new child of the open run."""
    found = find_result("baseline", config.network, config, data)
    return found or run(config, data, child=True)


def beside(config: DistillConfig) -> BaselineConfig:
    """What a distillation has to beat: its student from labels alone, with the same seed, budget
    and augmentation."""
    shared = config.model_dump(include=set(BaselineConfig.model_fields))
    return BaselineConfig(**shared, augment=config.views)
