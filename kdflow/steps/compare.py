"""Train baseline and distilled student with the same seeds, and say whether distillation helps."""

from typing import Any

from kdflow import plots, tracking
from kdflow.compare import Comparison, compare
from kdflow.config import CompareConfig, DistillConfig
from kdflow.data import Dataset
from kdflow.steps import baseline, distill, export_logits, hint
from kdflow.steps.record import StepResult, TrainedModel, link_upstream, open_step


def run(config: CompareConfig, data: Dataset) -> StepResult:
    found, initial = export_logits.find(config, data), hint.find_initial(config, data)
    name = f"compare {config.student} {config.objective}{config.start} seeds={config.seeds}"
    metric = "test_accuracy" if config.evaluate_test else "val_accuracy"
    with open_step("compare", name, config, data) as run_id:
        teacher = found or export_logits.export(config, data)
        upstream = distill.Upstream(teacher, initial or hint.make_initial(config, data))
        link_upstream("compare", config, data, **upstream.sources)
        pairs = [
            _train_pair(config, data, seed)
            for seed in range(config.seed, config.seed + config.seeds)
        ]
        alone = [baseline_result.metrics[metric] for baseline_result, _ in pairs]
        taught = [distill_result.metrics[metric] for _, distill_result in pairs]
        result = compare(taught, alone)
        table: dict[str, list[Any]] = {
            "seed": list(range(config.seed, config.seed + config.seeds)),
            "baseline": alone,
            "distilled": taught,
            "baseline_run": [pair[0].run_id for pair in pairs],
            "distilled_run": [pair[1].run_id for pair in pairs],
        }
        tracking.log_table(table, "comparison.json")
        title = f"{name}: {metric}"
        tracking.log_figure(plots.comparison(result, alone, taught, title), "comparison.png")
        tracking.set_tags({"kdflow.verdict": result.verdict})
        metrics = metrics_of(result)
        tracking.log_metrics(metrics)
    print(
        f"{name}: {metric} distilled {result.candidate}, from labels alone {result.baseline},"
        f" difference {result.difference}, p = {result.p_value:.2g}: {result.verdict}"
        f"{_head_start(upstream.initial)}"
    )
    return StepResult(run_id, metrics)


def _head_start(initial: TrainedModel | None) -> str:
    """A remark on what the distilled side has beyond the other's budget."""
    if initial is None:
        return ""
    epochs = tracking.get_run(initial.source).params["epochs"]
    return f" (the {epochs} epochs of hints are the distilled side's alone)"


def _train_pair(config: CompareConfig, data: Dataset, seed: int) -> tuple[StepResult, StepResult]:
    """Baseline and student of one seed, with the same budget and augmentation: found, or trained as
    children of the open run."""
    given = config.model_dump(exclude={"seeds"}) | {"seed": seed}
    for_student = DistillConfig(**given)
    alone = baseline.find_or_run(baseline.beside(for_student), data)
    return alone, distill.find_or_run(for_student, data)


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
