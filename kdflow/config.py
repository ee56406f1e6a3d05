"""Every parameter of every step, declared once: name, type, default, range and help.

The command line, MLproject (a test holds it to this file) and the logged parameters all follow from
the models below. A field without a default gets it from `RECIPES`: it depends on the network and
the data set, and is filled in before validation, so that a step only ever sees resolved values.
"""

from itertools import chain
from typing import Annotated, Any, ClassVar, Literal, NamedTuple, get_args

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

NetworkName = Literal["vgg", "fast", "student", "pupil", "fitnet", "dense"]
OptimizerName = Literal["adam", "sgd", "speedrun"]
ScheduleName = Literal["constant", "cosine", "triangular"]
LossName = Literal["kd", "dkd", "dist", "ls"]

NETWORK_NAMES: tuple[str, ...] = get_args(NetworkName)
MAX_VIEWS = 162
SEED_LIMIT = 2**31

# The parameters that one loss alone has.
LOSS_WEIGHTS: dict[str, tuple[str, ...]] = {
    "kd": (),
    "dkd": ("dkd_alpha", "dkd_beta"),
    "dist": ("dist_beta", "dist_gamma"),
    "ls": (),
}

Epochs = Annotated[int, Field(ge=1, lt=2**31, description="passes over the training images")]
BatchSize = Annotated[int, Field(ge=1, lt=2**31, description="images per optimiser step")]
LearningRate = Annotated[float, Field(gt=0, description="the optimiser's step size")]
Seed = Annotated[
    int,
    Field(ge=0, lt=SEED_LIMIT, description="initial weights, dropout and the order of the images"),
]


class Recipe(NamedTuple):
    """How a network is trained unless the user says otherwise."""

    optimizer: OptimizerName
    learning_rate: float
    batch_size: int
    epochs: int
    schedule: ScheduleName = "constant"
    augment: int = 1
    label_smoothing: float = 0.0
    dropout: float = 0.0


# The notebook's settings on CIFAR-10, but for the schedule of `pupil`, most of whose few units die
# at a constant rate (EXPERIMENTS.md); a user's own images start from them too.
RECIPES = {
    "vgg": Recipe("sgd", 0.01, 128, 40, dropout=0.3),
    # views 0 to 49 are the mirrored and unmirrored images, shifted by up to 2 pixels
    "fast": Recipe("speedrun", 0.375, 512, 16, "triangular", augment=50),
    "student": Recipe("adam", 0.001, 64, 30, dropout=0.3),
    "pupil": Recipe("adam", 0.001, 64, 20, "triangular", dropout=0.2),
    "fitnet": Recipe("adam", 0.001, 64, 30, "cosine"),
    "dense": Recipe("adam", 0.001, 64, 30),
}
# 1,293 images of 8x8 pixels make an epoch forty times shorter, so there are more of them.
DIGITS_RECIPES = {
    "vgg": Recipe("adam", 0.0005, 32, 40, dropout=0.3),
    "fast": Recipe("adam", 0.001, 32, 10),
    "student": Recipe("adam", 0.001, 32, 30, dropout=0.3),
    "pupil": Recipe("adam", 0.001, 32, 30, dropout=0.2),
    "fitnet": Recipe("adam", 0.001, 32, 30, "cosine"),
    "dense": Recipe("adam", 0.001, 32, 30),
}


def recipe(dataset: str, network: str) -> Recipe:
    """The default training settings of `network` on `dataset`."""
    table = DIGITS_RECIPES if dataset == "digits" else RECIPES
    return table.get(network, table["student"])


def default_teacher(dataset: str) -> str:
    """The network that teaches on `dataset` where no teacher is named and none comes with kdflow.

    On 8x8 digits that is not the notebook's, whose eleven convolutions without normalisation do not
    start to learn there with its SGD (EXPERIMENTS.md).
    """
    return "fast" if dataset == "digits" else "vgg"


def is_automatic(source: str) -> bool:
    """Whether `source` names a teacher to find or train, rather than a run or a folder."""
    return source == "auto" or source in NETWORK_NAMES


class Config(BaseModel):
    """What every step takes."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, allow_inf_nan=False, validate_default=True
    )

    dataset: str = Field(
        "cifar10", description="cifar10, digits, or the path of an .npz file of your own images"
    )
    holdout: float = Field(
        0.1,
        ge=0,
        le=0.5,
        description="share of the training images kept for validation; 0 trains on all of them"
        " and watches the test set, as the notebook does",
    )

    @field_validator("dataset")
    @classmethod
    def _known_dataset(cls, dataset: str) -> str:
        if dataset not in ("cifar10", "digits") and not dataset.endswith(".npz"):
            raise ValueError("expected cifar10, digits or the path of an .npz file")
        return dataset


class TrainingConfig(Config):
    """What every step that trains a network takes."""

    network_field: ClassVar[str]

    epochs: Epochs
    batch_size: BatchSize
    learning_rate: LearningRate
    optimizer: OptimizerName = Field(
        description="adam, sgd with Nesterov momentum 0.9, or speedrun: sgd as in Jordan 2024, for"
        " networks with batch normalisation"
    )
    schedule: ScheduleName = Field(
        description="how the learning rate goes on from learning_rate, its largest value: constant,"
        " cosine (down to 0), or triangular (up for the first quarter, then down)"
    )
    dropout: float = Field(
        ge=0,
        lt=1,
        description="share of the last layer's inputs that are dropped in training; 0 in a network"
        " without such a layer",
    )
    seed: Seed = 0
    evaluate_test: bool = Field(
        True, description="read the test set once, at the end (true or false)"
    )

    @field_validator("evaluate_test")
    @classmethod
    def _no_watched_test_set(cls, evaluate_test: bool, info: ValidationInfo) -> bool:
        if not evaluate_test and info.data.get("holdout") == 0:
            raise ValueError("expected true with holdout=0, which watches the test set")
        return evaluate_test

    @model_validator(mode="before")
    @classmethod
    def _fill_in_recipe(cls, given: dict[str, Any]) -> dict[str, Any]:
        dataset = given.get("dataset", cls.model_fields["dataset"].default)
        network = given.get(cls.network_field) or cls.default_network(dataset)
        defaults = recipe(dataset, network)._asdict()
        known = {name: value for name, value in defaults.items() if name in cls.model_fields}
        return {cls.network_field: network, **known, **given}

    @classmethod
    def default_network(cls, dataset: str) -> str:
        """The network that is trained on `dataset` unless the user says otherwise."""
        return str(cls.model_fields[cls.network_field].default)

    @property
    def network(self) -> str:
        """The name of the network that this step trains."""
        return str(getattr(self, self.network_field))


class LabelsConfig(TrainingConfig):
    """What training from labels alone takes."""

    augment: int = Field(
        ge=1,
        le=MAX_VIEWS,
        description="train on this many views of the images: 2 adds mirror images, 50 shifts by up"
        " to 2 pixels, 162 by up to 4",
    )


class TeacherConfig(LabelsConfig):
    """Train a teacher from labels."""

    network_field = "arch"

    arch: NetworkName = Field(description="the network to train")
    label_smoothing: float = Field(
        ge=0, lt=1, description="share of each label that is spread evenly over all classes"
    )

    @classmethod
    def default_network(cls, dataset: str) -> str:
        return default_teacher(dataset)


class BaselineConfig(LabelsConfig):
    """Train the student from labels alone: what distillation has to beat."""

    network_field = "student"

    student: NetworkName = Field("student", description="the network to train")


class HintConfig(Config):
    """Train the student's lower layers to give what a teacher's hint layer gives: FitNets, stage
    one."""

    student: NetworkName = Field("student", description="the network to train")
    teacher: str = Field(
        "auto",
        min_length=1,
        description="whose hints to learn from: auto (the data set's default teacher, found or"
        " made), a network's name, or the id of a model's run or of its export",
    )
    hint_layer: str = Field(
        "auto",
        min_length=1,
        description="the teacher's layer to learn from; auto is its network's own",
    )
    guided_layer: str = Field(
        "auto",
        min_length=1,
        description="the student's layer that learns, with maps as high and wide as the hint"
        " layer's; auto is its network's own",
    )
    epochs: Epochs = 10
    batch_size: BatchSize = 128
    learning_rate: LearningRate = 0.001
    seed: Seed = 0


class ExportLogitsConfig(Config):
    """Log a model's raw logits on every training and test image as a verified artifact."""

    model: str = Field(
        "auto",
        min_length=1,
        description="whose logits: auto, a network's name (the teacher of that kind, found or"
        " trained at its default settings), the id of a run that logged a model, or a model of your"
        " own: a .keras file, runs:/... or models:/...",
    )
    views: int = Field(
        1,
        ge=1,
        le=MAX_VIEWS,
        description="how many views of each image: 1 is the image, 2 adds its mirror image,"
        " more add shifts by up to 4 pixels",
    )


class ObjectiveConfig(Config):
    """What every step that distils takes."""

    temp: float = Field(4, gt=0, le=1000, description="temperature T of the soft targets")
    alpha: float = Field(0.9, ge=0, le=1, description="weight of the soft term")
    t_squared: bool = Field(
        True, description="multiply the soft term by T^2 (true), or not, as the notebook (false)"
    )
    loss: LossName = Field(
        "kd",
        description="the soft term: kd (Hinton et al. 2015), dkd (decoupled, Zhao et al. 2022),"
        " dist (correlations, Huang et al. 2022) or ls (standardised logits, Sun et al. 2024)",
    )
    dkd_alpha: float = Field(
        1, ge=0, le=1000, description="of loss=dkd: weight of the target class against all others"
    )
    dkd_beta: float = Field(
        8, ge=0, le=1000, description="of loss=dkd: weight of the other classes among themselves"
    )
    dist_beta: float = Field(
        1, ge=0, le=1000, description="of loss=dist: weight of the correlation over the classes"
    )
    dist_gamma: float = Field(
        1, ge=0, le=1000, description="of loss=dist: weight of the correlation over the batch"
    )
    views: int = Field(
        1,
        ge=1,
        le=MAX_VIEWS,
        description="train on this many views of the images, each with its own cached logits",
    )

    @field_validator(*chain(*LOSS_WEIGHTS.values()))
    @classmethod
    def _only_of_the_loss(cls, weight: float, info: ValidationInfo) -> float:
        loss, name = info.data.get("loss"), str(info.field_name)
        default = cls.model_fields[name].default
        if loss and name not in LOSS_WEIGHTS[loss] and weight != default:
            raise ValueError(f"expected {default} with loss={loss}, which does not use it")
        return weight

    @property
    def weights(self) -> dict[str, float]:
        """The parameters that the chosen loss alone has, by name."""
        return {name: getattr(self, name) for name in LOSS_WEIGHTS[self.loss]}

    @property
    def objective(self) -> str:
        """What is minimised, as runs are named: `T=8 alpha=0.5`, or `dkd T=8 alpha=0.5`."""
        named = "" if self.loss == "kd" else f"{self.loss} "
        return f"{named}T={self.temp:.4g} alpha={self.alpha:.4g}"


class DistillConfig(TrainingConfig, ObjectiveConfig):
    """Train the student from labels and a teacher's cached logits."""

    network_field = "student"

    student: NetworkName = Field("student", description="the network to train")
    teacher: str = Field(
        "auto",
        min_length=1,
        description="whose logits to learn from: auto (the data set's default teacher, found or"
        " made), a network's name, a run id, or a folder of logits",
    )
    init: str = Field(
        "none",
        min_length=1,
        description="what the student's lower layers start from: none (random weights), auto (the"
        " hint run of this student and teacher at its default settings, found or made), or the id"
        " of a hint run",
    )

    @property
    def start(self) -> str:
        """What a run's name adds if the student does not start from random weights."""
        return "" if self.init == "none" else " init=hint"


class CompareConfig(DistillConfig):
    """Train baseline and distilled student with the same seeds, and say whether distillation
    helps."""

    seeds: int = Field(5, ge=2, description="how many seeds, from seed on")

    @field_validator("seeds")
    @classmethod
    def _all_are_seeds(cls, seeds: int, info: ValidationInfo) -> int:
        first = info.data.get("seed", 0)
        if first + seeds > SEED_LIMIT:
            raise ValueError(f"expected at most {SEED_LIMIT - first} from seed {first} on")
        return seeds


class SeveralConfig(ObjectiveConfig):
    """What every step that trains several networks takes."""

    epochs: int = Field(
        0, ge=0, lt=2**31, description="passes over the training images; 0 is each step's own"
    )
    seed: Seed = 0

    @property
    def budget(self) -> dict[str, int]:
        """What each training gets."""
        return {"seed": self.seed} | ({"epochs": self.epochs} if self.epochs else {})


class AssistantConfig(SeveralConfig):
    """Distil along a chain of networks, each from the logits of the one before it."""

    chain: str = Field(
        "auto,student,pupil",
        description="the teacher (auto, a network's name or the id of a run that logged a model),"
        " then the networks that learn, parted by commas",
    )

    @field_validator("chain")
    @classmethod
    def _at_least_two(cls, chain: str) -> str:
        teacher, *students = (part.strip() for part in chain.split(","))
        unknown = [student for student in students if student not in NETWORK_NAMES]
        if not teacher or not students or unknown:
            raise ValueError(
                "expected a teacher and one or more of " + ", ".join(NETWORK_NAMES) + ", parted by"
                " commas"
            )
        return ",".join([teacher, *students])

    @property
    def networks(self) -> list[str]:
        """The teacher, then the networks that learn."""
        return self.chain.split(",")


class MainConfig(SeveralConfig):
    """The whole story as runs under one: teacher, logits, baseline, hints, distillation without and
    with them, a chain of assistants, one table."""

    student: NetworkName = Field(
        "student",
        description="the network to train; its guided layer has to fit the teacher's hint layer",
    )
    teacher: str = Field(
        "auto",
        description="who teaches: auto (the data set's default teacher, found or made), a network's"
        " name, or the id of a run that logged a model",
    )
    pupil: NetworkName = Field(
        "pupil", description="the network that the student, once taught, teaches as an assistant"
    )

    @field_validator("teacher")
    @classmethod
    def _a_single_one(cls, teacher: str) -> str:
        if not teacher.strip() or "," in teacher:
            raise ValueError("expected a single teacher")
        return teacher


STEPS: dict[str, type[Config]] = {
    "teacher": TeacherConfig,
    "export_logits": ExportLogitsConfig,
    "baseline": BaselineConfig,
    "hint": HintConfig,
    "distill": DistillConfig,
    "compare": CompareConfig,
    "assistant": AssistantConfig,
    "main": MainConfig,
}


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
    name = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "missing":
        return f"{name}: no value given"
    if problem["type"] == "extra_forbidden":
        return f"{name}: no such parameter"
    expected = problem["msg"]
    for opening in ("Value error, ", "Input should be ", "String should have "):
        expected = expected.removeprefix(opening)
    return f"{name}: expected {expected.removeprefix('expected ')}, got {problem['input']!r}"
