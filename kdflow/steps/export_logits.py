"""Log a model's raw logits on every image; find the export that another step needs, or make it."""

import tempfile
import time
from itertools import product
from pathlib import Path
from typing import NamedTuple

import keras
import numpy as np
from tqdm import tqdm

from kdflow import logits, tracking, views
from kdflow.config import DistillConfig, ExportLogitsConfig, is_automatic
from kdflow.data import Dataset
from kdflow.errors import KdflowError, about
from kdflow.evaluate import predict_logits
from kdflow.steps import brought, bundled, teacher
from kdflow.steps.record import StepResult, TrainedModel, key_of, link_upstream, open_step

IMAGES_AT_A_TIME = 5000


class TeacherLogits(NamedTuple):
    """Verified logits and where they came from: a run id, or `sha256:` and a folder's manifest; and
    a remark if another commit made them."""

    source: str
    logits: logits.Logits
    remark: str = ""

    @property
    def words(self) -> str:
        """What the console calls them."""
        accuracy = self.logits.manifest.accuracy
        return (
            f"{self.source}, train accuracy {accuracy['train']:.4f}, test accuracy"
            f" {accuracy['test']:.4f}{self.remark}"
        )


def run(config: ExportLogitsConfig, data: Dataset, *, child: bool = False) -> StepResult:
    with about("model"):
        if brought.is_brought(config.model):
            found: TrainedModel | None = brought.load(config.model, data)
        else:
            found = teacher.find_verified(config.model, data, config.holdout)
    name = f"export_logits {config.model} views={config.views}"
    with open_step("export_logits", name, config, data, child=child) as run_id:
        if found:
            print(f"teacher: found {found.words}")
        model = found or teacher.make(config.model, data, config.holdout, child=child)
        link_upstream("export_logits", config, data, model=model.source)
        started = time.perf_counter()
        if bundled.fits(config.model, data, config.holdout) and config.views <= bundled.VIEWS:
            print("logits: these come with kdflow too")
            manifest = logits.read(bundled.LOGITS, data, views=bundled.VIEWS).manifest
            tracking.log_folder(bundled.LOGITS, tracking.LOGITS_FOLDER)
        else:
            manifest = _export(model, config, data)
        accuracy = {f"{split}_accuracy": value for split, value in manifest.accuracy.items()}
        tracking.log_metrics(accuracy)
    print(
        f"{name}: {manifest.network}, test accuracy {accuracy['test_accuracy']:.4f},"
        f" exported in {time.perf_counter() - started:.1f} s"
    )
    return StepResult(run_id, accuracy)


def _export(model: TrainedModel, config: ExportLogitsConfig, data: Dataset) -> logits.Manifest:
    with tempfile.TemporaryDirectory() as folder:
        manifest = logits.write(
            Path(folder),
            _logits_per_view(model.network, data.x_train, config.views),
            _logits_per_view(model.network, data.x_test, config.views),
            data,
            teacher=model.source,
            network=model.network.name,
            parameters=model.network.count_params(),
            weights_sha256=model.weights_sha256,
            holdout=model.holdout,
        )
        tracking.log_folder(Path(folder), tracking.LOGITS_FOLDER)
    return manifest


def find(asking: DistillConfig, data: Dataset, parameter: str = "teacher") -> TeacherLogits | None:
    """The verified logits of `asking.teacher` (auto, a network's name, the id of an export or of a
    model's run, or a folder), or None if they have yet to be exported.

    Args:
        parameter: what the user named it in, for the message.

    Raises:
        KdflowError: what is named there does not exist or does not fit.
    """
    with about(parameter):
        return _find(asking, data)


def _find(asking: DistillConfig, data: Dataset) -> TeacherLogits | None:
    source = asking.teacher
    if not is_automatic(source):
        if logits.is_folder(source):
            read = logits.read(Path(source), data, views=asking.views)
            _check_holdout(read.manifest.holdout, asking.holdout)
            return TeacherLogits(f"sha256:{read.manifest_sha256}", read)
        asked = tracking.get_run(source)
        if asked.step == "export_logits":
            return _read_export(asked, asking, data)
    wanted = _config_for(asking, data)
    for model_run in teacher.find(source, data, wanted.holdout):
        for export in tracking.find_runs(
            key_of("export_logits", wanted, data, model=model_run.run_id)
        ):
            try:
                return _read_export(export, asking, data)
            except KdflowError as error:
                print(f"logits: {error}; they are not used")
    if not is_automatic(source):  # a damaged one is refused before a run is opened
        teacher.find_verified(source, data, wanted.holdout)
    return None


def export(asking: DistillConfig, data: Dataset, *, child: bool = False) -> TeacherLogits:
    """Make the logits that `find` did not find, and the teacher too if need be.

    Args:
        child: whether the export's run is one of the open run.
    """
    made = run(_config_for(asking, data), data, child=child)
    return _read_export(tracking.get_run(made.run_id), asking, data)


def _config_for(asking: DistillConfig, data: Dataset) -> ExportLogitsConfig:
    """The export that makes the logits of `asking.teacher`. A run's model keeps its own holdout,
    and the bundled logits come with all their views."""
    source, holdout, view_count = asking.teacher, asking.holdout, asking.views
    if not is_automatic(source):
        trained_with = float(tracking.get_run(source).params["holdout"])
        _check_holdout(trained_with, holdout)
        holdout = trained_with
    if bundled.fits(source, data, holdout):
        view_count = max(view_count, bundled.VIEWS)
    return ExportLogitsConfig(dataset=data.name, holdout=holdout, model=source, views=view_count)


def _read_export(run: tracking.FoundRun, asking: DistillConfig, data: Dataset) -> TeacherLogits:
    read = logits.read(tracking.logits_folder(run), data, views=asking.views)
    _check_holdout(read.manifest.holdout, asking.holdout)
    return TeacherLogits(run.run_id, read, tracking.other_commit(run))


def _check_holdout(trained_with: float | None, holdout: float) -> None:
    """With holdout=0 there is no validation to keep apart; otherwise both must share one split."""
    if trained_with is None:
        print(
            "logits: these do not say what their teacher was trained on; validation"
            " accuracy means little if it has seen the validation images"
        )
    elif holdout and trained_with != holdout:
        raise KdflowError(
            f"expected one trained with holdout={holdout}, as this run, so that neither"
            f" trains on the other's validation images; got holdout={trained_with}"
        )


def _logits_per_view(network: keras.Model, images: np.ndarray, view_count: int) -> np.ndarray:
    """(views, images, classes) float32. Only a part of the images is copied at a time."""
    parts = np.array_split(np.arange(len(images)), -(-len(images) // IMAGES_AT_A_TIME))
    per_part = [
        predict_logits(network, views.apply(images, np.full(len(part), view), part))
        for view, part in tqdm(
            [*product(range(view_count), parts)], unit="part", disable=None, leave=False
        )
    ]
    return np.concatenate(per_part).reshape(view_count, len(images), -1)
