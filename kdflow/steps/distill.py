"""Train the student from labels and a teacher's cached logits."""

from kdflow.config import DistillConfig
from kdflow.data import Dataset
from kdflow.steps import export_logits, hint
from kdflow.steps.record import StepResult, TrainedModel, find_result, link_upstream, open_step
from kdflow.steps.train import train_network
from kdflow.training import Distillation


def run(config: DistillConfig, data: Dataset, *, child: bool = False) -> StepResult:
    found, initial = export_logits.find(config, data), hint.find_initial(config, data)
    name = f"distill {config.student} {config.objective}{config.start} seed={config.seed}"
    with open_step("distill", name, config, data, child=child) as run_id:
        if found:
            print(
                f"logits: found in {found.source}{found.remark}, nothing to train or export first"
            )
        teacher = found or export_logits.export(config, data)
        initial = initial or hint.make_initial(config, data)
        if initial:
            print(f"init: starts from the hint run of {initial.words}")
        link_upstream("distill", config, data, **upstream(teacher, initial))
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
            initial=initial.network if initial else None,
        )


def find_or_run(config: DistillConfig, data: Dataset) -> StepResult:
    """What a run like this one left, or the result of a new child of the open run."""
    teacher = export_logits.find(config, data) or export_logits.export(config, data, child=True)
    initial = hint.find_initial(config, data) or hint.make_initial(config, data)
    found = find_result("distill", config, data, **upstream(teacher, initial))
    return found or run(config, data, child=True)


def upstream(teacher: export_logits.TeacherLogits, initial: TrainedModel | None) -> dict[str, str]:
    """What names each role that a distillation builds on."""
    return {"teacher": teacher.source} | ({"init": initial.source} if initial else {})
