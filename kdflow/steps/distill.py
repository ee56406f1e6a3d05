"""Train the student from labels and a teacher's cached logits."""

from kdflow import tracking
from kdflow.config import DistillConfig, canonical
from kdflow.data import Dataset
from kdflow.steps import export_logits, hint
from kdflow.steps.record import StepResult, TrainedModel, link_upstream, open_step
from kdflow.steps.train import train_network
from kdflow.training import Distillation


def run(config: DistillConfig, data: Dataset, *, child: bool = False) -> StepResult:
    found = export_logits.find(
        config.teacher, data, holdout=config.holdout, view_count=config.views
    )
    initial = hint.find_initial(config, data)
    temp, alpha = canonical(config.temp), canonical(config.alpha)
    name = f"distill {config.student} T={temp} alpha={alpha} seed={config.seed}{init_words(config)}"
    with open_step("distill", name, config, data, child=child) as run_id:
        if found:
            print(
                f"logits: found in {found.source}{found.remark}, nothing to train or export first"
            )
        teacher = found or export_logits.export(
            config.teacher, data, holdout=config.holdout, view_count=config.views
        )
        initial = initial or hint.make_initial(config, data)
        if initial:
            print(
                f"init: starts from hint run {initial.run.run_id}"
                f"{tracking.other_commit(initial.run)}"
            )
        link_upstream("distill", config, data, **upstream(teacher, initial))
        distillation = Distillation(
            teacher.logits.train, config.temp, config.alpha, config.t_squared
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


def upstream(teacher: export_logits.TeacherLogits, initial: TrainedModel | None) -> dict[str, str]:
    """What names each role that a distillation builds on."""
    return {"teacher": teacher.source} | ({"init": initial.run.run_id} if initial else {})


def init_words(config: DistillConfig) -> str:
    """The end of a run's name that tells where the student started."""
    return "" if config.init == "none" else " init=hint"
