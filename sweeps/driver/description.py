"""What has to stay the same when a study is resumed, since it makes its trials comparable."""

from typing import Any, NamedTuple

from kdflow.config.base import DATASET_OPTIONS, how_to_run, neutral_value
from kdflow.config.objective import WEIGHTS
from kdflow.config.training import TrainingConfig
from kdflow.dataset import Dataset
from kdflow.naming import is_hash
from kdflow.needs import LogitsOf
from kdflow.results.logits import model_of
from kdflow.results.own_model import is_own_model
from kdflow.reuse import Resolver
from kdflow.sources import own_networks
from kdflow.steps.baseline import baseline_for
from kdflow.steps.distill import DistillConfig
from sweeps.driver import control
from sweeps.driver.config import SweepConfig
from sweeps.driver.study import Study

DIGEST_OF = "the digest of "  # before a parameter that names a file


class Described(NamedTuple):
    """A study, as `sharing.open_study` takes it.

    Attributes:
        description: what has to be the same whenever it is resumed, in JSON types.
        added: the part of it that an older study may lack, with the values that it had then.
    """

    name: str
    description: dict[str, Any]
    added: dict[str, Any]


def of_trials(
    config: SweepConfig, file: Study, base: DistillConfig, logits: LogitsOf, resolver: Resolver
) -> Described:
    """The study that the trials are in.

    Args:
        base: what all trials have in common.
        logits: of all trials.
    """
    description = described(config.heartbeat, file, base, resolver.dataset)
    description |= described_teacher(base, logits, resolver)
    older = defaults_of_older_study(file, base, description)
    return Described(_name(config, resolver.dataset), description, older)


def of_control(
    config: SweepConfig, file: Study, base: DistillConfig, dataset: Dataset
) -> Described:
    """The study of a searched control.

    Raises:
        KdflowError: the baseline has none of the parameters that are searched.
    """
    file, alone = control.baseline_study(file), baseline_for(base)
    description = described(config.heartbeat, file, alone, dataset)
    older = defaults_of_older_study(file, alone, description)
    return Described(f"{_name(config, dataset)} control", description, older)


def _name(config: SweepConfig, dataset: Dataset) -> str:
    if config.study_name == "auto":
        return f"{config.study} {dataset.short_name}"
    return config.study_name


def described(
    heartbeat: int, file: Study, base: TrainingConfig, dataset: Dataset
) -> dict[str, Any]:
    """The description of a study.

    Args:
        heartbeat: of its trials, in seconds.
        base: what all trials have in common.
    """
    return {
        **file.described_space(),
        **file.described_search(),
        **_fixed(file, base),
        "the data set's digest": dataset.digest,
        **{f"{DIGEST_OF}{name}": it for name, it in own_networks(base, dataset).items()},
        "heartbeat": heartbeat,  # or one process would mark another's trials failed
    }


def described_teacher(base: DistillConfig, need: LogitsOf, resolver: Resolver) -> dict[str, Any]:
    """What the description of a study of `distill` has besides: a folder of logits, and a model
    that kdflow did not train, are named by content.

    Args:
        need: the logits of all trials.
    """
    logits = resolver.plan(need).result
    source = logits.source if logits else base.teacher
    described = {"teacher": source if is_hash(source) else base.teacher}
    if is_own_model(base.teacher):
        described[f"{DIGEST_OF}teacher"] = resolver.plan(model_of(need)).result.source
    return described


def defaults_of_older_study(
    file: Study, base: TrainingConfig, described: dict[str, Any]
) -> dict[str, Any]:
    """The part of a description that an older study may lack: what was not recorded then, and
    parameters that have been added since, at the value that changes nothing.

    Args:
        described: what the study is resumed with.
    """
    neutral = {name: neutral_value(base, name) for name in _fixed(file, base)}
    known = {name: value for name, value in neutral.items() if value is not None}
    others = set(WEIGHTS) - set(base.weights) if isinstance(base, DistillConfig) else set()
    defaults = {name: type(base).model_fields[name].default for name in others}
    digests = {name: it for name, it in described.items() if name.startswith(DIGEST_OF)}
    return file.described_search() | digests | defaults | known


def _fixed(file: Study, base: TrainingConfig) -> dict[str, Any]:
    """The parameters that all trials share."""
    named_otherwise = {"dataset", *DATASET_OPTIONS, "teacher", "evaluate_test"}
    return base.model_dump(exclude=how_to_run(type(base)) | named_otherwise | set(file.space))
