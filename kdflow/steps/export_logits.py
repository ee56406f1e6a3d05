"""Log a model's raw logits on every image; find the export that another step needs, or make it."""

import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import keras
import numpy as np

from kdflow import logits, models, tracking, views
from kdflow.config import NETWORK_NAMES, ExportLogitsConfig
from kdflow.data import Dataset
from kdflow.errors import KdflowError
from kdflow.evaluate import predict_logits
from kdflow.steps import teacher
from kdflow.steps.record import StepResult, key_of, link_upstream, open_step


class TeacherLogits(NamedTuple):
    """Verified logits and where they came from: a run id, or `sha256:` and a folder's manifest."""

    source: str
    logits: logits.Logits


def run(config: ExportLogitsConfig, data: Dataset) -> StepResult:
    teacher.find(config.model, data, config.holdout)  # what does not fit is refused without a run
    name = f"export_logits {config.model} views={config.views}"
    with open_step("export_logits", name, config, data) as run_id:
        made_by = teacher.find_or_train(config.model, data, config.holdout)
        link_upstream("export_logits", config, data, model=made_by.run_id)
        network = _verified_model(made_by)
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary)
            manifest = logits.write(
                folder,
                _logits_per_view(network, data.x_train, config.views),
                _logits_per_view(network, data.x_test, config.views),
                data,
                teacher=made_by.run_id,
                network=network.name,
                weights_sha256=made_by.tags["kdflow.weights_sha256"],
                holdout=float(made_by.params["holdout"]),
            )
            tracking.log_folder(folder, tracking.LOGITS_FOLDER)
        accuracy = {f"{split}_accuracy": value for split, value in manifest.accuracy.items()}
        tracking.log_metrics(accuracy)
    print(f"{name}: {manifest.network}, test accuracy {accuracy['test_accuracy']:.4f}")
    return StepResult(run_id, accuracy)


def find(source: str, data: Dataset, *, holdout: float, view_count: int) -> TeacherLogits | None:
    """The verified logits that `source` names, or None if they have yet to be exported.

    Args:
        source: auto, a network's name, the id of an export or of a model's run, or a folder.
        holdout: the asking run's, which the teacher's has to equal.

    Raises:
        KdflowError: what `source` names does not exist or does not fit.
    """
    named = source == "auto" or source in NETWORK_NAMES
    if not named and Path(source).is_dir():
        read = logits.read(Path(source), data, views=view_count)
        _check_holdout(read.manifest, holdout)
        return TeacherLogits(f"sha256:{read.manifest_sha256}", read)
    if named:
        model_run = teacher.find(source, data, holdout)
    else:
        asked = tracking.get_run(source, "teacher")
        if asked.step == "export_logits":
            return _read_export(asked, data, holdout, view_count)
        model_run = teacher.find(source, data, holdout)
    if model_run is None:
        return None
    config = _config(model_run.run_id, data, holdout, view_count)
    export = tracking.find_run(key_of("export_logits", config, data, model=model_run.run_id))
    if export is None:
        return None
    try:
        return _read_export(export, data, holdout, view_count)
    except KdflowError as error:
        print(f"logits: {error}; exporting them anew")
        return None


def export(source: str, data: Dataset, *, holdout: float, view_count: int) -> TeacherLogits:
    """Make the logits that `find` did not find, and the teacher too if need be."""
    started = time.perf_counter()
    made = run(_config(source, data, holdout, view_count), data)
    seconds = time.perf_counter() - started
    print(f"logits: exported as run {made.run_id} (teacher and logits took {seconds:.1f} s)")
    return _read_export(tracking.get_run(made.run_id, "teacher"), data, holdout, view_count)


def _config(source: str, data: Dataset, holdout: float, view_count: int) -> ExportLogitsConfig:
    return ExportLogitsConfig(dataset=data.name, holdout=holdout, model=source, views=view_count)


def _read_export(
    run: tracking.FoundRun, data: Dataset, holdout: float, view_count: int
) -> TeacherLogits:
    read = logits.read(tracking.logits_folder(run), data, views=view_count)
    _check_holdout(read.manifest, holdout)
    return TeacherLogits(run.run_id, read)


def _check_holdout(manifest: logits.Manifest, holdout: float) -> None:
    """With holdout=0 there is no validation to keep apart; otherwise both must share one split."""
    if manifest.holdout is None:
        print(
            "teacher: these logits do not say what their teacher was trained on; validation"
            " accuracy means little if it has seen the validation images"
        )
    elif holdout and manifest.holdout != holdout:
        raise KdflowError(
            f"teacher: expected one trained with holdout={holdout}, as this run, so that neither"
            f" trains on the other's validation images; got holdout={manifest.holdout}"
        )


def _verified_model(made_by: tracking.FoundRun) -> keras.Model:
    network = tracking.load_model(made_by)
    expected, found = made_by.tags["kdflow.weights_sha256"], models.weights_sha256(network)
    if expected != found:
        raise KdflowError(
            f"model: expected weights with SHA-256 {expected} in run {made_by.run_id}, got {found}"
        )
    return network


def _logits_per_view(network: keras.Model, images: np.ndarray, view_count: int) -> np.ndarray:
    return np.stack(
        [
            predict_logits(network, views.apply(images, np.full(len(images), view)))
            for view in range(view_count)
        ]
    )
