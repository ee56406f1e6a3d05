"""What every step takes, and how a parameter is written as text."""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
)

from kdflow.catalogue.datasets import DATASETS, find_dataset
from kdflow.catalogue.datasets.folder import DEFAULT_TEST_SHARE
from kdflow.catalogue.networks import find_network
from kdflow.errors import KdflowError

C = TypeVar("C", bound=BaseModel)

SEED_LIMIT = 2**31

# Marks a field that says how a step is run, not what its result is: not logged, not in a key.
HOW_TO_RUN: Any = {"how_to_run": True}
# Parameters that some data sets are loaded with. A key has the images' digest instead.
DATASET_OPTIONS = {option for record in DATASETS for option in record.options}

Traceback = Annotated[
    bool,
    Field(description="after an error, print the traceback too, not only one line"),
]


def one_of(choices: Collection[str]) -> AfterValidator:
    """The validator of a parameter that is one of `choices`."""

    def check(value: str) -> str:
        if value not in choices:
            quoted = [f"'{choice}'" for choice in choices]
            raise ValueError(f"expected {', '.join(quoted[:-1])} or {quoted[-1]}")
        return value

    return AfterValidator(check)


def _known_network(name: str) -> str:
    find_network(name)
    return name


NetworkName = Annotated[str, AfterValidator(_known_network)]
Epochs = Annotated[int, Field(ge=1, lt=2**31, description="passes over the training images")]
BatchSize = Annotated[int, Field(ge=1, lt=2**31, description="images per optimiser step")]
LearningRate = Annotated[float, Field(gt=0, description="the optimiser's step size")]
Seed = Annotated[
    int,
    Field(ge=0, lt=SEED_LIMIT, description="initial weights, dropout and the order of the images"),
]


def rarely_used(neutral: float | str) -> Any:
    """The declaration of a parameter that few runs use and that changes nothing at `neutral`."""
    return {"neutral": neutral, "rare": True}


class Config(BaseModel):
    """What every step takes.

    A field whose `json_schema_extra` has `neutral` was added to a step that had runs already: at
    that value it is left out of the run's key, so that the earlier runs are still found. One that
    has `rare` too is of use to few runs, and is not logged at that value either. One that has
    `how_to_run` is never logged, and in no key.
    """

    model_config = ConfigDict(
        extra="forbid", frozen=True, allow_inf_nan=False, validate_default=True
    )

    dataset: str = Field(
        "cifar10",
        description=", ".join(record.name for record in DATASETS[:-1])
        + f" or {DATASETS[-1].name}, your own images",
    )
    holdout: float = Field(
        0.1,
        ge=0,
        le=0.5,
        description="share of the training images kept for validation; 0 trains on all of them"
        " and validates on the test set",
    )
    image_size: int = Field(
        0,
        ge=0,
        le=4096,
        description="of a folder of photos: side of the square images in pixels; the shorter side"
        " of a photo is resized to it, the longer one cropped at the centre; 0 expects photos of"
        " one size",
        json_schema_extra={"neutral": 0},
    )
    test_share: float = Field(
        DEFAULT_TEST_SHARE,
        ge=0.01,
        le=0.9,
        description="of a folder of photos without train/ and test/: share of each class that is"
        " kept for testing, the same photos as long as none is added or removed",
        json_schema_extra={"neutral": DEFAULT_TEST_SHARE},
    )
    skip_bad: bool = Field(
        False,
        description="of a folder of photos: leave out files that are not images (true), or refuse"
        " the folder (false)",
        json_schema_extra={"neutral": False},
    )
    plan_only: bool = Field(
        False,
        description="print what would be reused, trained and exported, and stop",
        json_schema_extra=HOW_TO_RUN,
    )
    resume: Literal["auto", "never"] = Field(
        "auto",
        description="auto: resume where the same command was interrupted or killed; never: start"
        " again",
        json_schema_extra=HOW_TO_RUN,
    )
    traceback: Traceback = Field(False, json_schema_extra=HOW_TO_RUN)

    @field_validator("dataset")
    @classmethod
    def _known_dataset(cls, dataset: str) -> str:
        if not find_dataset(dataset):
            names = [record.name for record in DATASETS]
            raise ValueError(
                f"expected {', '.join(names[:-1])} or {names[-1]} (relative paths start in"
                f" {Path.cwd()})"
            )
        return dataset

    @field_validator(*DATASET_OPTIONS)
    @classmethod
    def _check_option_is_used(cls, value: Any, info: ValidationInfo) -> Any:
        name, record = str(info.field_name), find_dataset(info.data.get("dataset", ""))
        default = cls.model_fields[name].default
        if record and name not in record.options and value != default:
            raise ValueError(
                f"expected no value, or {canonical(default)}, with"
                f" dataset={info.data['dataset']}, which does not use it"
            )
        return value

    @classmethod
    def known_dataset(cls, given: Mapping[str, Any]) -> str | None:
        """The data set of values that have yet to be validated; None if there is none of that name,
        which is refused later."""
        dataset = given.get("dataset", cls.model_fields["dataset"].default)
        return dataset if find_dataset(dataset) else None

    @property
    def dataset_options(self) -> dict[str, Any]:
        """The parameters that the data set is loaded with, by name."""
        record = find_dataset(self.dataset)
        return {name: getattr(self, name) for name in (record.options if record else ())}

    def used(self) -> dict[str, Any]:
        """The parameters that shape the result, by name: those that a run logs."""
        others = DATASET_OPTIONS - self.dataset_options.keys()
        values = self.model_dump(exclude=how_to_run(type(self)) | others)
        return {
            name: value
            for name, value in values.items()
            if not (_extra(type(self), name).get("rare") and value == neutral_value(self, name))
        }

    def keyed(self) -> dict[str, Any]:
        """The parameters that tell one result from another: without those that are at the neutral
        value at which they change nothing."""
        return {
            name: value for name, value in self.used().items() if value != neutral_value(self, name)
        }


def validated(config: type[C], values: Mapping[str, Any]) -> C:
    """The parameters of a step.

    Raises:
        KdflowError: one is refused.
    """
    try:
        return config(**values)
    except ValidationError as error:
        raise KdflowError(first_problem(error)) from error


def neutral_value(config: BaseModel, name: str) -> Any:
    """The value at which a parameter is left out of keys; None for most parameters."""
    return _extra(type(config), name).get("neutral")


def how_to_run(config: type[BaseModel]) -> set[str]:
    """The parameters that say how a step is run, not what its result is."""
    return {name for name in config.model_fields if _extra(config, name).get("how_to_run")}


def _extra(config: type[BaseModel], name: str) -> dict[str, Any]:
    extra = config.model_fields[name].json_schema_extra
    return dict(extra) if isinstance(extra, dict) else {}


def canonical(value: Any) -> str:
    """A parameter as text, one text per value: `8` for 8.0, `true` for True."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value)


def first_problem(error: ValidationError) -> str:
    """One line on the first thing that validation refused: the parameter, what was expected, what
    was received."""
    problem = error.errors()[0]
    if not problem["loc"]:  # of parameters that do not go together; it names them itself
        return problem["msg"].removeprefix("Value error, ")
    name = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "missing":
        return f"{name}: no value given"
    if problem["type"] == "extra_forbidden":
        return f"{name}: no such parameter"
    expected = problem["msg"].partition(", unable to parse")[0]
    if problem["type"] == "bool_parsing":
        expected = "true or false"
    for opening in ("Value error, ", "Input should be ", "String should have "):
        expected = expected.removeprefix(opening)
    return f"{name}: expected {expected.removeprefix('expected ')}, got {problem['input']!r}"
