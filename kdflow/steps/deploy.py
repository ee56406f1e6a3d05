"""Turn a trained network into small files for phones, browsers and servers, each judged and
measured."""

from __future__ import annotations

import contextlib
import errno
import json
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import Field, ValidationInfo, field_validator

from kdflow.config.base import SEED_LIMIT
from kdflow.config.brought import BroughtModelConfig
from kdflow.errors import KdflowError, about
from kdflow.needs import Found, ModelOf, Need, Planned, Step
from kdflow.steps.origin import origin, teachers_run

if TYPE_CHECKING:
    from kdflow.dataset import Dataset
    from kdflow.deploy.judge import Judged
    from kdflow.results.records import TrainedModel
    from kdflow.tracking.run import Run

FOLDER = "files"
MANIFEST = "deploy.json"

# Of every class, as pydantic sees it: the way to declare a subclass without inheriting.
warnings.filterwarnings("ignore", 'Field name "register" in "DeployConfig" shadows')


class DeployConfig(BroughtModelConfig):
    """Turn a trained network into LiteRT and ONNX files, each judged against it and measured."""

    model: str = Field(
        "auto",
        min_length=1,
        description="what to deploy: auto (the last finished distillation on this data set), a"
        " network's name (the teacher of that kind), the id of a run that logged a model, or a"
        " model of your own: a .keras or .h5 file, runs:/... or models:/...",
    )
    teacher: str = Field(
        "auto",
        min_length=1,
        description="what the files are measured beside: auto (the teacher of the distillation, if"
        " it is in the store), none, or a model, named as `model`",
    )
    margin: float = Field(
        1,
        ge=0,
        le=100,
        description="the loss of test accuracy against Keras that counts as none, in percentage"
        " points; a file that loses more fails the run",
    )
    calibration_images: int = Field(
        500,
        ge=1,
        description="how many training images the ranges of int8 files are measured on, drawn"
        " evenly from each class",
    )
    calibration_seed: int = Field(
        0, ge=0, lt=SEED_LIMIT, description="which training images these are"
    )
    onnx: bool = Field(True, description="make ONNX files too (true or false)")
    threads: int = Field(1, ge=1, le=1024, description="threads of a file's runtime as it is timed")
    serve: Literal["int8", "float16", "float32"] = Field(
        "int8", description="which LiteRT file is logged as an MLflow model, and registered"
    )
    register: str = Field(
        "none",
        min_length=1,
        description="name of the registered model that gets the file as a new version, with the"
        " alias `candidate`; none registers nothing",
    )
    promote: bool = Field(
        False,
        description="give the new version the alias `champion` if it is shown to be no worse than"
        " the present champion on the same test images (true or false)",
    )

    @field_validator("register")
    @classmethod
    def _a_name(cls, register: str) -> str:
        if not register.strip() or set(register) & set("/:"):
            raise ValueError("expected a name without / and :")
        return register

    @field_validator("promote")
    @classmethod
    def _what_is_registered(cls, promote: bool, info: ValidationInfo) -> bool:
        if promote and info.data.get("register") == "none":
            raise ValueError("expected false without register=name")
        return promote

    @property
    def loss(self) -> float:
        """The margin as a share."""
        return self.margin / 100


def title(config: DeployConfig) -> str:
    return f"deploy {config.model}"


def needs(config: DeployConfig, dataset: Dataset) -> dict[str, Need]:
    with about("model"):
        source = _last_distillation(config, dataset) if config.model == "auto" else config.model
    model = ModelOf(source, config.holdout, reading=config.reading, parameter="model")
    inputs: dict[str, Need] = {"model": model}
    if config.teacher == "auto":
        run = teachers_run(source)
        if run:
            inputs["teacher"] = ModelOf(run.run_id, float(run.params["holdout"]))
    elif config.teacher != "none":
        inputs["teacher"] = ModelOf(config.teacher, config.holdout, parameter="teacher")
    return inputs


def _last_distillation(config: DeployConfig, dataset: Dataset) -> str:
    from kdflow.tracking.find import find_runs

    tags = {"kdflow.step": "distill", "kdflow.dataset_digest": dataset.digest}
    runs = [
        run
        for run in find_runs(tags)
        if "kdflow.weights_sha256" in run.tags and float(run.params["holdout"]) == config.holdout
    ]
    if not runs:
        raise KdflowError(
            f"expected a finished distillation on {dataset.name} with holdout={config.holdout}, got"
            " none; run distill first, or name a model"
        )
    return runs[-1].run_id


def resolved(
    config: DeployConfig, inputs: Mapping[str, Found | Planned], dataset: Dataset
) -> DeployConfig:
    """The config with the run that `auto` stands for."""
    need = inputs["model"]
    if config.model != "auto" or not isinstance(need, Found):
        return config
    return config.model_copy(update={"model": need.result.source})


def check(config: DeployConfig, dataset: Dataset, inputs: Mapping[str, Found | Planned]) -> None:
    """Refuse to start without the extra or room, or with a network that cannot be exported."""
    from kdflow.deploy import extra, make, pixels
    from kdflow.deploy.calibration import calibration_images

    extra.check_installed(onnx=config.onnx)
    calibration_images(dataset, config.holdout, config.calibration_images, config.calibration_seed)
    for role, need in inputs.items():
        if isinstance(need, Found):
            with about(role):
                network = need.result.network
                if not network.count_params():
                    raise KdflowError(f"expected a network with weights, got {network.name}")
                pixels.exportable(network)
                make.check_room(network)


def run(
    run: Run,
    config: DeployConfig,
    dataset: Dataset,
    *,
    model: TrainedModel,
    teacher: TrainedModel | None = None,
) -> dict[str, float]:
    from kdflow.deploy import make, report, table
    from kdflow.deploy.calibration import calibration_images
    from kdflow.deploy.manifest import manifest
    from kdflow.deploy.measure import Side, measured
    from kdflow.steps.registration import Served, log_served

    chosen = (dataset, config.holdout, config.calibration_images, config.calibration_seed)
    images = calibration_images(*chosen)
    names = make.LITERT + (make.ONNX if config.onnx else ())
    with tempfile.TemporaryDirectory() as temporary, _full_disk_in_one_line():
        folder = Path(temporary)
        made = make.make(model.network, images, _subfolder(folder, FOLDER), names)
        for name, reason in made.not_made.items():
            print(f"{name}: not made: {reason}")
        run.log_folder(folder / FOLDER, FOLDER)
        sides = [Side("student", model.network, made.paths)]
        if teacher:
            beside = (make.FLOAT32, make.INT8)
            files = make.make(teacher.network, images, _subfolder(folder, "teacher"), beside)
            sides.append(Side("teacher", teacher.network, files.paths))
        rows = measured(sides, dataset, config.loss, config.threads)
        judged = {row.what: row.judged for row in rows if row.role == "student" and row.is_file}
        content = manifest(
            model.network,
            dataset,
            made.paths,
            judged,
            source=model.source,
            weights_sha256=model.weights_sha256,
            calibration={
                "images": len(images),
                "seed": config.calibration_seed,
                "of": f"training images, holdout={config.holdout}",
            },
            margin=config.loss,
            not_made=made.not_made,
        )
        run.log_json(content, MANIFEST)
        run.log_table(table.columns(rows), "files.json")
        run.log_table(table.per_class(rows, dataset), "classes.json")
        heading = f"{title(config)}: {model.network.name} on {Path(dataset.name).name}"
        picture = table.picture(rows, heading)
        run.log_figure(picture, "files.png")
        served_name = f"{config.serve}.tflite"
        made_of = origin(model)
        page = report.page(rows, content, dataset, made_of, served_name, picture, config.threads)
        run.log_text(page, "report.html")
        metrics = table.metrics(rows)
        run.log(metrics)
        print(f"{heading}:\n{table.in_words(rows)}")
        verdicts = {name: each.paired.verdict for name, each in judged.items()}
        run.set_tags({"kdflow.verdict": verdicts[served_name]})
        _refuse_worse(judged, config.margin)
        file = folder / FOLDER / served_name
        (folder / MANIFEST).write_text(json.dumps(content), encoding="utf-8")
        served = Served(file, folder / MANIFEST, judged[file.name], model.source)
        log_served(run, config, dataset, served)
    return metrics


def _refuse_worse(judged: Mapping[str, Judged], margin: float) -> None:
    """Fail the run if a file is shown to lose more than the margin; say which are in doubt."""
    for name, each in judged.items():
        if each.paired.verdict == "WORSE":
            raise KdflowError(
                f"expected files that lose at most {margin:g} points of accuracy against Keras, got"
                f" {name} with {each.paired} (p = {each.paired.p_value:.2g}); it is not served or"
                " registered; more calibration_images may help, or allow a larger margin"
            )
        if each.paired.verdict == "INCONCLUSIVE":
            print(
                f"{name}: {each.paired.images} test images do not show whether it loses more than"
                f" {margin:g} points"
            )


def _subfolder(folder: Path, name: str) -> Path:
    (folder / name).mkdir()
    return folder / name


@contextlib.contextmanager
def _full_disk_in_one_line() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        raise KdflowError(
            f"expected room on the disk, got none: {error}; nothing is registered"
        ) from error


DEPLOY = Step("deploy", DeployConfig, title, run, needs, check, resolved, verb="run")
