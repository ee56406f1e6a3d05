"""Turn a trained network into small files for phones, browsers and servers, each judged and
measured."""

from __future__ import annotations

import contextlib
import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdflow.config.deploy import DeployConfig
from kdflow.config.reading import Reading
from kdflow.errors import KdflowError, NoRoomError, about, is_disk_full
from kdflow.naming import run_name, short_source
from kdflow.needs import Found, ModelOf, Need, Planned, Step
from kdflow.steps.origin import origin, upstream_needs
from kdflow.tags import DATASET_DIGEST_TAG, PARENT, STEP_TAG, VERDICT_TAG, WEIGHTS_TAG

if TYPE_CHECKING:
    import keras
    import numpy as np

    from kdflow.dataset import Dataset
    from kdflow.deploy.judge import Judged
    from kdflow.deploy.make import Made
    from kdflow.deploy.table import Row
    from kdflow.results.records import TeacherLogits, TrainedModel
    from kdflow.tracking.run import Run


def title(config: DeployConfig) -> str:
    return run_name("deploy", short_source(config.model))


def needs(config: DeployConfig, dataset: Dataset) -> dict[str, Need]:
    from kdflow.results.own_model import is_own_model

    with about("model"):
        source = _last_distillation(config, dataset) if config.model == "auto" else config.model
        upstream = upstream_needs(source)
    reads_teacher = is_own_model(config.teacher)
    reading = config.reading if is_own_model(source) or not reads_teacher else Reading()
    model = ModelOf(source, config.holdout, reading=reading, parameter="model")
    inputs: dict[str, Need] = {"model": model}
    if "logits" in upstream:
        inputs["logits"] = upstream["logits"]
    if config.teacher == "auto" and "teacher" in upstream:
        inputs["teacher"] = upstream["teacher"]
    elif config.teacher not in ("auto", "none"):
        reading = config.reading if reads_teacher else Reading(allow_weak=True)
        inputs["teacher"] = ModelOf(
            config.teacher, config.holdout, reading=reading, parameter="teacher"
        )
    return inputs


def _last_distillation(config: DeployConfig, dataset: Dataset) -> str:
    """The id of the distillation that finished last, by itself or in `compare`. Those in `main`,
    `assistant` and sweeps are no candidates, since some of them are assistants or controls."""
    from kdflow.tracking.find import FoundRun, find_runs

    def finished(step: str) -> list[FoundRun]:
        return find_runs({STEP_TAG: step, DATASET_DIGEST_TAG: dataset.digest})

    parents = {None, *(run.run_id for run in finished("compare"))}
    runs = [
        run
        for run in finished("distill")
        if WEIGHTS_TAG in run.tags
        and run.holdout == config.holdout
        and run.tags.get(PARENT) in parents
    ]
    if not runs:
        raise KdflowError(
            f"expected a finished run of distill or compare on {dataset.name} with"
            f" holdout={config.holdout}, got none; run distill first, or name a model"
        )
    return max(runs, key=lambda run: run.ended_at).run_id


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
            if role == "logits":
                continue
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
    logits: TeacherLogits | None = None,
) -> dict[str, float]:
    from kdflow.deploy.calibration import calibration_images
    from kdflow.deploy.manifest import FILES, MANIFEST, manifest, served_name
    from kdflow.deploy.measure import Side, measured
    from kdflow.steps.registration import Served, log_served

    chosen = (dataset, config.holdout, config.calibration_images, config.calibration_seed)
    images = calibration_images(*chosen)
    with tempfile.TemporaryDirectory() as temporary, _full_disk_in_one_line():
        folder = Path(temporary)
        made, tuned = _make_files(run, config, dataset, model, logits, images, folder)
        sides = [Side("student", model.network, made.paths)]
        if teacher:
            to = _subfolder(folder, "teacher")
            sides.append(Side("teacher", teacher.network, _teacher_files(teacher, images, to)))
        known = logits.logits.test[0] if logits and config.teacher == "auto" else None
        if known is not None and logits and logits.logits.manifest.averaged:
            print("teacher: the student is compared with its averaged logits, which taught it")
        rows = measured(sides, dataset, config.loss, config.threads, known)
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
            weight_bits=config.weight_bits,
            fine_tuned=tuned,
        )
        run.log_json(content, MANIFEST)
        metrics = _log_results(run, config, dataset, model, rows, content)
        file = folder / FILES / served_name(config.serve)
        run.set_tags({VERDICT_TAG: judged[file.name].paired.verdict})
        _refuse_worse(judged, config.margin)
        (folder / MANIFEST).write_text(json.dumps(content), encoding="utf-8")
        served = Served(file, folder / MANIFEST, judged[file.name], model.source)
        log_served(run, config, dataset, served)
    return metrics


def _make_files(
    run: Run,
    config: DeployConfig,
    dataset: Dataset,
    model: TrainedModel,
    logits: TeacherLogits | None,
    images: np.ndarray,
    folder: Path,
) -> tuple[Made, dict[str, Any] | None]:
    """Write and log the files of the network; returns them, and what was done for the int8 file if
    it had lost too much.

    Args:
        images: for calibration.
        folder: gets a subfolder of the files.
    """
    from kdflow.deploy import make
    from kdflow.deploy.manifest import FILES
    from kdflow.steps.quantised import fine_tune_if_worse

    names = make.LITERT + (make.ONNX if config.onnx else ())
    made = make.make(model.network, images, _subfolder(folder, FILES), names, config.weight_bits)
    for name, reason in made.not_made.items():
        print(f"{name}: not made: {reason}")
    int8 = folder / FILES / make.INT8

    def write_again(network: keras.Model) -> None:
        litert, to = (make.FLOAT32, make.INT8), _subfolder(folder, "quantised")
        make.make(network, images, to, litert, config.weight_bits).paths[-1].replace(int8)

    tuned = fine_tune_if_worse(run, config, dataset, model, logits, int8, write_again)
    run.log_folder(folder / FILES, FILES)
    return made, tuned


def _teacher_files(teacher: TrainedModel, images: np.ndarray, folder: Path) -> list[Path]:
    """The files of the teacher that the student's are compared with in size and time; none if
    LiteRT cannot hold it.

    Args:
        images: for calibration.
    """
    from kdflow.deploy import make

    try:
        return make.make(teacher.network, images, folder, (make.FLOAT32, make.INT8)).paths
    except NoRoomError:
        raise
    except KdflowError as error:
        print(f"teacher: {error}; it is compared without files of its own")
        return []


def _log_results(
    run: Run,
    config: DeployConfig,
    dataset: Dataset,
    model: TrainedModel,
    rows: Sequence[Row],
    content: Mapping[str, Any],
) -> dict[str, float]:
    """Print and log the results as tables, a picture, a page and metrics, which are returned.

    Args:
        content: of `deploy.json`.
    """
    from kdflow.deploy import report, table
    from kdflow.deploy.manifest import served_name

    heading = f"{title(config)}: {model.network.name} on {dataset.short_name}"
    run.log_table(table.columns(rows), "files.json")
    run.log_table(table.per_class(rows, dataset), "classes.json")
    picture = table.picture(rows, heading)
    run.log_figure(picture, "files.png")
    served = served_name(config.serve)
    shown = (origin(model), served, picture, config.threads)
    run.log_text(report.page(rows, content, dataset, *shown), "report.html")
    metrics = table.metrics(rows)
    run.log(metrics)
    print(f"{heading}:\n{table.in_words(rows)}")
    if words := table.against_teacher(rows, served):
        print(words)
    return metrics


def _refuse_worse(judged: Mapping[str, Judged], margin: float) -> None:
    """Fail the run if a file is shown to lose more than the margin; say which are in doubt.

    Args:
        margin: in percentage points.
    """
    from kdflow.deploy.report import in_words
    from kdflow.evaluate.compare import INCONCLUSIVE, WORSE

    for name, each in judged.items():
        if each.paired.verdict == WORSE:
            raise KdflowError(
                f"{in_words(name, each.paired, margin)} No file of this run is served or"
                " registered; try more calibration_images, or allow a larger margin"
            )
        if each.paired.verdict == INCONCLUSIVE:
            print(in_words(name, each.paired, margin))


def _subfolder(folder: Path, name: str) -> Path:
    (folder / name).mkdir()
    return folder / name


@contextlib.contextmanager
def _full_disk_in_one_line() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if not is_disk_full(error):
            raise
        raise NoRoomError(
            f"expected free space on the disk, got a full disk: {error}; nothing is registered"
        ) from error


# Its figures are of one process, and of the files that it made.
DEPLOY = Step("deploy", DeployConfig, title, run, needs, check, resolved, "run", resumes=False)
