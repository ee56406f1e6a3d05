"""Train baseline and distilled student with the same seeds, and say whether distillation helps."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import Field, ValidationInfo, field_validator

from kdflow.config.base import SEED_LIMIT
from kdflow.config.objective import ReuseConfig
from kdflow.naming import run_name
from kdflow.needs import Need, Step, training
from kdflow.steps import distill
from kdflow.steps.baseline import baseline_for
from kdflow.steps.checks import check_network
from kdflow.steps.distill import DistillConfig
from kdflow.tags import VERDICT_TAG

if TYPE_CHECKING:
    from kdflow.dataset import Dataset
    from kdflow.evaluate.compare import Comparison
    from kdflow.results.records import StepResult, TeacherLogits, TrainedModel
    from kdflow.tracking.run import Run


class CompareConfig(DistillConfig, ReuseConfig):
    """Train baseline and distilled student with the same seeds, and say whether distillation
    helps."""

    seeds: int = Field(5, ge=2, description="number of seeds: seed, seed + 1, and so on")

    @field_validator("seeds")
    @classmethod
    def _check_last_seed(cls, seeds: int, info: ValidationInfo) -> int:
        first = info.data.get("seed", 0)
        if first + seeds > SEED_LIMIT:
            raise ValueError(f"expected at most {SEED_LIMIT - first} from seed {first} on")
        return seeds

    @property
    def all_seeds(self) -> range:
        """The seeds that are compared."""
        return range(self.seed, self.seed + self.seeds)


def title(config: CompareConfig) -> str:
    first, last = config.all_seeds[0], config.all_seeds[-1]
    return run_name(
        config.objective, config.start, f"s{first}-{last}", "compare", config.student_and_teacher
    )


def needs(config: CompareConfig, dataset: Dataset) -> dict[str, Need]:
    inputs = distill.needs(config, dataset)
    shared = config.model_dump(include={*DistillConfig.model_fields})
    for seed in config.all_seeds:
        student = DistillConfig(**shared | {"seed": seed})
        for step, each in {"baseline": baseline_for(student), "distill": student}.items():
            need = training(step, parameter="student", **each.model_dump())
            inputs[f"{step}_{seed}"] = need
    return inputs


def run(
    run: Run,
    config: CompareConfig,
    dataset: Dataset,
    *,
    teacher: TeacherLogits,
    init: TrainedModel | None = None,
    **trainings: StepResult,
) -> dict[str, float]:
    from kdflow.evaluate import plots
    from kdflow.evaluate.compare import compare
    from kdflow.steps.training import KEPT_ACCURACY

    # of the epoch that was kept, as the test accuracy is
    validated = "val_accuracy" if config.keep == "last" else KEPT_ACCURACY
    metric = "test_accuracy" if config.evaluate_test else validated
    baselines = [trainings[f"baseline_{seed}"] for seed in config.all_seeds]
    students = [trainings[f"distill_{seed}"] for seed in config.all_seeds]
    alone, taught = ([result.metrics[metric] for result in side] for side in (baselines, students))
    result = compare(taught, alone)
    table: dict[str, list[Any]] = {
        "seed": list(config.all_seeds),
        "baseline": alone,
        "distilled": taught,
        "baseline_run": [baseline.run_id for baseline in baselines],
        "distilled_run": [student.run_id for student in students],
    }
    run.log_table(table, "comparison.json")
    figure = plots.comparison(result, alone, taught, f"{title(config)}: {metric}")
    run.log_figure(figure, "comparison.png")
    run.set_tags({VERDICT_TAG: result.verdict})
    metrics = metrics_of(result)
    run.log(metrics)
    head_start = (
        f" (only the distilled students had the {init.epochs} epochs of hints)" if init else ""
    )
    print(
        f"{title(config)}: {metric} distilled {result.candidate}, from labels alone"
        f" {result.baseline}, difference {result.difference}, p = {result.p_value:.2g}:"
        f" {result.verdict}{head_start}"
    )
    return metrics


def metrics_of(result: Comparison) -> dict[str, float]:
    """The comparison as metrics of a run."""
    estimates = {
        "baseline": result.baseline,
        "distilled": result.candidate,
        "difference": result.difference,
    }
    metrics = {"p_value": result.p_value}
    for name, (mean, low, high) in estimates.items():
        metrics |= {f"{name}_mean": mean, f"{name}_low": low, f"{name}_high": high}
    return metrics


COMPARE = Step(
    "compare", CompareConfig, title, run, needs, check_network, verb="run", is_parent=True
)
