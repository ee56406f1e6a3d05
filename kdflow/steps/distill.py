"""Train the student from labels and a teacher's cached logits."""

from typing import NamedTuple

from kdflow import training
from kdflow.config import DistillConfig
from kdflow.data import Dataset
from kdflow.steps import export_logits, hint
from kdflow.steps.record import StepResult, TrainedModel, find_result, link_upstream, open_step
from kdflow.steps.train import train_network


class Upstream(NamedTuple):
    """What a distillation builds on: the logits, and the lower layers to start from, if not from
    random weights."""

    teacher: export_logits.TeacherLogits
    initial: TrainedModel | None

    @property
    def sources(self) -> dict[str, str]:
        """What names each role."""
        initial = {"init": self.initial.source} if self.initial else {}
        return {"teacher": self.teacher.source} | initial


def run(config: DistillConfig, data: Dataset) -> StepResult:
    found, initial = export_logits.find(config, data), hint.find_initial(config, data)
    with open_step("distill", name_of(config), config, data) as run_id:
        if found:
            print(f"logits: found in {found.words}; nothing to train or export first")
        teacher = found or export_logits.export(config, data)
        upstream = Upstream(teacher, initial or hint.make_initial(config, data))
        _tell_start(upstream)
        return train(run_id, config, data, upstream)


def find_or_run(config: DistillConfig, data: Dataset) -> StepResult:
    """What a run like this one left, or the result of a new child of the open run."""
    upstream = find_or_make_upstream(config, data)
    found = find_result("distill", config.network, config, data, **upstream.sources)
    if found:
        return found
    with open_step("distill", name_of(config), config, data, child=True) as run_id:
        print(f"logits: found in {upstream.teacher.words}")
        _tell_start(upstream)
        return train(run_id, config, data, upstream)


def find_or_make_upstream(config: DistillConfig, data: Dataset) -> Upstream:
    """What this distillation builds on; what has to be made for it is made inside the open run."""
    teacher = export_logits.find(config, data) or export_logits.export(config, data, child=True)
    return Upstream(teacher, hint.find_initial(config, data) or hint.make_initial(config, data))


def _tell_start(upstream: Upstream) -> None:
    if upstream.initial:
        print(f"init: starts from the hint run of {upstream.initial.words}")


def train(
    run_id: str,
    config: DistillConfig,
    data: Dataset,
    upstream: Upstream,
    *,
    on_epoch: training.OnEpoch = lambda epoch, metrics: None,
    keep: bool = True,
) -> StepResult:
    """Train, evaluate and log in the open run; see `train_network`."""
    link_upstream("distill", config, data, **upstream.sources)
    return train_network(
        run_id,
        name_of(config),
        config,
        data,
        view_count=config.views,
        distillation=training.Distillation(
            upstream.teacher.logits.train,
            config.temp,
            config.alpha,
            config.t_squared,
            loss=config.loss,
            weights=config.weights,
        ),
        teacher=upstream.teacher.logits,
        initial=upstream.initial.network if upstream.initial else None,
        on_epoch=on_epoch,
        keep=keep,
    )


def name_of(config: DistillConfig) -> str:
    """What the run of this distillation is called."""
    return f"distill {config.student} {config.objective}{config.start} seed={config.seed}"
