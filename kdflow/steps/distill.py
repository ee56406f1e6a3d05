"""Train the student from labels and a teacher's cached logits."""

from kdflow.config import DistillConfig
from kdflow.data import Dataset
from kdflow.steps import export_logits
from kdflow.steps.record import StepResult, find_result, link_upstream, open_step
from kdflow.steps.train import train_network
from kdflow.training import Distillation


def run(config: DistillConfig, data: Dataset, *, child: bool = False) -> StepResult:
    found = export_logits.find(config, data)
    name = f"distill {config.student} {config.objective} seed={config.seed}"
    with open_step("distill", name, config, data, child=child) as run_id:
        if found:
            print(
                f"logits: found in {found.source}{found.remark}, nothing to train or export first"
            )
        teacher = found or export_logits.export(config, data)
        link_upstream("distill", config, data, teacher=teacher.source)
        distillation = Distillation(
            teacher.logits.train,
            config.temp,
            config.alpha,
            config.t_squared,
            loss=config.loss,
            weights=config.weights,
        )
        return train_network(
            run_id,
            name,
            config,
            data,
            view_count=config.views,
            distillation=distillation,
            teacher=teacher.logits,
        )


def find_or_run(config: DistillConfig, data: Dataset) -> StepResult:
    """What a run like this one left, or the result of a new child of the open run."""
    teacher = export_logits.find(config, data) or export_logits.export(config, data)
    found = find_result("distill", config, data, teacher=teacher.source)
    return found or run(config, data, child=True)
