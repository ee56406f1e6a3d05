"""The whole story in one command: teacher, logits, student from labels alone, hints, distillation
without and with them, and a smaller network through the student as its assistant."""

from kdflow import models, tracking
from kdflow.config import (
    AssistantConfig,
    BaselineConfig,
    HintConfig,
    MainConfig,
    SeveralConfig,
)
from kdflow.data import Dataset, split
from kdflow.errors import about
from kdflow.steps import assistant, baseline, distill, export_logits, hint
from kdflow.steps.record import StepResult, link_upstream, open_step
from kdflow.training import WORTH_TELLING, Images, seconds_per_image


def run(config: MainConfig, data: Dataset) -> StepResult:
    for_kd = assistant.hop(config, config.student, config.teacher)
    for_baseline = baseline.beside(for_kd)
    for_pupil = baseline.beside(assistant.hop(config, config.pupil, config.teacher))
    for_hint = HintConfig(
        dataset=config.dataset,
        holdout=config.holdout,
        student=config.student,
        teacher=config.teacher,
        **config.budget,  # type: ignore[arg-type]
    )
    networks = f"{config.teacher},{config.student},{config.pupil}"
    several = config.model_dump(include=set(SeveralConfig.model_fields))
    for_chain = AssistantConfig(chain=networks, **several)

    with about("pupil"):
        models.check_fit(config.pupil, data.image_shape)
    found = export_logits.find(for_kd, data)
    with about("student"):
        hint.plan(for_hint, data)
    name = f"main {config.student} {config.objective} seed={config.seed}"
    with open_step("main", name, config, data) as run_id:
        _say_how_long(
            [
                (for_baseline, 3 * for_baseline.epochs + for_hint.epochs),
                (for_pupil, 3 * for_pupil.epochs),
            ],
            data,
        )
        teacher = found or export_logits.export(for_kd, data, child=True)
        link_upstream("main", config, data, teacher=teacher.source)
        alone = baseline.find_or_run(for_baseline, data)
        hinted = hint.find_or_run(for_hint, data)
        taught = distill.find_or_run(for_kd, data)
        with_hint = for_kd.model_copy(update={"init": hinted.run_id})
        both = distill.find_or_run(with_hint, data)
        through_assistant, chain = assistant.run_with_ledger(for_chain, data, child=True)
        ledger = [
            chain[0],
            assistant.row(config.student, "labels alone", alone),
            assistant.row(config.student, "KD", taught),
            assistant.row(config.student, "hint + KD", both),
            *chain[2:],
        ]
        assistant.log_ledger(ledger, name)
        metrics = {
            "baseline_test_accuracy": alone.metrics["test_accuracy"],
            "kd_test_accuracy": taught.metrics["test_accuracy"],
            "hint_kd_test_accuracy": both.metrics["test_accuracy"],
            "assistant_test_accuracy": through_assistant.metrics["test_accuracy"],
        }
        tracking.log_metrics(metrics)
    return StepResult(run_id, metrics)


def _say_how_long(plan: list[tuple[BaselineConfig, int]], data: Dataset) -> None:
    """Tell what trainings will take, if that is long, by a sample of each.

    Args:
        plan: networks, and how many epochs each has, from labels or from logits or hints, which are
            all taken to cost the same.
    """
    seconds = 0.0
    for config, epochs in plan:
        train, _ = split(data.y_train, config.holdout)
        network = models.build(config.network, data.x_train, data.classes, seed=config.seed)
        images = Images(data.x_train, data.y_train, train)
        seconds += epochs * len(train) * seconds_per_image(network, images, config.batch_size)
    if seconds > WORTH_TELLING:
        print(
            f"main: {sum(epochs for _, epochs in plan)} epochs, about {seconds / 60:.0f} minutes on"
            " this machine; what the store has already takes none, and a teacher that has to be"
            " trained comes on top, as do logits that have to be exported"
        )
