"""The search of a searched control: that of the student from labels alone, over those parameters of
a study that it has."""

from collections.abc import Mapping
from dataclasses import replace
from typing import TypeVar

from kdflow.errors import KdflowError
from kdflow.steps.baseline import BaselineConfig
from kdflow.steps.distill import DistillConfig
from sweeps.driver.study import Study

# Parameters of `distill` that the baseline has by another name.
RENAMED = {DistillConfig.views_field: BaselineConfig.views_field}

T = TypeVar("T")


def baseline_study(file: Study) -> Study:
    """The baseline's search: the same sampler, pruner and trials over the parameters that it has,
    by its names. Points of a grid that differ in other parameters alone are one point of it.

    Raises:
        KdflowError: it has none of the study's parameters.
    """
    space = _of_baseline(file.space)
    if not space:
        raise KdflowError(
            "control: expected a study that searches a parameter of the baseline, such as"
            f" learning_rate, got one of {', '.join(file.space)}; use control=fixed or another"
            " study"
        )
    points = [_of_baseline(point) for point in file.points]
    different = [point for index, point in enumerate(points) if point not in points[:index]]
    return replace(file, space=space, points=different)


def _of_baseline(values: Mapping[str, T]) -> dict[str, T]:
    """Those values of parameters of `distill` that the baseline has, by its names."""
    renamed = {RENAMED.get(name, name): value for name, value in values.items()}
    return {name: it for name, it in renamed.items() if name in BaselineConfig.model_fields}
