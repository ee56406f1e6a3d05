"""The trials and the finals of a sweep, as lines of its plan."""

from collections.abc import Callable, Iterator, Mapping

from kdflow.needs import Planned
from kdflow.steps.baseline import baseline_for
from kdflow.steps.distill import DistillConfig
from kdflow.steps.run import ALL_STEPS
from sweeps.driver import control
from sweeps.driver.config import SweepConfig
from sweeps.driver.study import Study


def lines(
    config: SweepConfig,
    file: Study,
    base: DistillConfig,
    ended: Mapping[str, int],
    duration_estimator: Callable[[Planned], str],
) -> Iterator[str]:
    """How many trainings there will be, and how long each takes if it is not pruned.

    Args:
        base: what all trials have in common.
        ended: how many trials of each step have ended already.
        duration_estimator: of `kdflow.steps.estimate`.

    Raises:
        KdflowError: the baseline has none of the parameters that a searched control searches.
    """
    searched = {"distill": file}
    if config.control == "searched":
        searched["baseline"] = control.baseline_study(file)
    configs = {"distill": base, "baseline": baseline_for(base)}
    for step, study in searched.items():
        each = ""
        if "epochs" not in study.space:
            each = duration_estimator(Planned(ALL_STEPS[step], configs[step])) + " each"
        trials = len(study.points) or config.trials
        done = f"; ended already: {ended[step]}" if ended.get(step) else ""
        yield f"  search  {trials} trials of {step} over {', '.join(study.space)}{each}{done}"
    settings = f"{config.best} setting" + "s" * (config.best > 1)
    yield f"  finals  {settings} with {config.repeats} seeds, each beside a baseline"
