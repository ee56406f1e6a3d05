"""Log a model's raw logits on every training and test image as a verified artifact."""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections.abc import Mapping
from functools import partial
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field

from kdflow.config.precision import PrecisionConfig
from kdflow.config.reading import OwnModelConfig
from kdflow.config.views import ONE_VIEW, AveragedConfig, ViewCount, Views, ViewSetConfig
from kdflow.model_file import OWN_MODEL
from kdflow.naming import run_name, short_source
from kdflow.needs import Found, ModelOf, Need, Planned, Step
from kdflow.tags import AVERAGED_TAG, MIRRORED, PRECISION_TAG

if TYPE_CHECKING:
    import keras
    import numpy as np

    from kdflow.artifacts.checkpoints import Checkpoint
    from kdflow.artifacts.manifest import Manifest
    from kdflow.dataset import Dataset
    from kdflow.image_file import Pixels
    from kdflow.results.records import TrainedModel
    from kdflow.tracking.run import Run
    from kdflow.views import PhotoView, View

IMAGES_AT_A_TIME = 5000


class ExportLogitsConfig(OwnModelConfig, ViewSetConfig, AveragedConfig, PrecisionConfig):
    """Log a model's raw logits on every training and test image as a verified artifact."""

    model: str = Field(
        "auto",
        min_length=1,
        description="whose logits: auto, a network's name (the teacher of that kind, found or"
        " trained at its default settings), the id of a run that logged a model, or a model of your"
        f" own: {OWN_MODEL}",
    )
    views: ViewCount = Field(
        1,
        description="how many views of each training image: 1 is the image, 2 adds its mirror"
        " image, more add shifts by up to 4 pixels (see view_set)",
    )


def title(config: ExportLogitsConfig) -> str:
    averaged = "averaged" if config.averaged else ""
    return run_name(f"views={config.views}", averaged, "export_logits", short_source(config.model))


def needs(config: ExportLogitsConfig, dataset: Dataset) -> dict[str, Need]:
    model = ModelOf(
        config.model,
        config.holdout,
        reading=config.reading,
        precision=config.precision,
        parameter="model",
    )
    return {"model": model}


def resolved(
    config: ExportLogitsConfig, inputs: Mapping[str, Found | Planned], dataset: Dataset
) -> ExportLogitsConfig:
    """The config with the precision of the logits that come with kdflow, if it is these."""
    from kdflow import bundle

    if not _are_bundled(config, dataset):
        return config
    return config.model_copy(update={"precision": bundle.precision()})


def _are_bundled(config: ExportLogitsConfig, dataset: Dataset) -> bool:
    from kdflow import bundle

    return bundle.has_logits(config.model, dataset, config.holdout, config.shown, config.averaged)


def check(
    config: ExportLogitsConfig, dataset: Dataset, inputs: Mapping[str, Found | Planned]
) -> None:
    """Refuse images that the views do not fit, and a disk with too little room."""
    from kdflow import views
    from kdflow.cache import cache_folder, check_room, writing_to

    views.check_fit(config.view_set, dataset.image_shape)
    rows = 0
    for images, wanted in ((dataset.x_train, config.shown), (dataset.x_test, ONE_VIEW)):
        computed = _computed(wanted, averaged=config.averaged)
        # the parts that can be resumed, the artifact, and its copy until the store has it
        rows += (len(computed) + 2 * wanted.count) * len(images)
    with writing_to(cache_folder()):
        needed = rows * dataset.classes * 4
        check_room(cache_folder(), needed, f"the logits of {config.views} views")


def run(
    run: Run, config: ExportLogitsConfig, dataset: Dataset, *, model: TrainedModel
) -> dict[str, float]:
    from kdflow import bundle
    from kdflow.artifacts import logits
    from kdflow.tracking.artifacts import LOGITS_FOLDER

    started = time.perf_counter()
    averaged = {AVERAGED_TAG: MIRRORED} if config.averaged else {}
    run.set_tags({PRECISION_TAG: config.computed_in} | averaged)
    if _are_bundled(config, dataset):
        print(f"logits: using the bundled logits, computed in {config.precision}")
        manifest = logits.read(bundle.LOGITS, dataset, views=bundle.VIEWS).manifest
        run.log_folder(bundle.LOGITS, LOGITS_FOLDER)
    else:
        manifest = _export(run, config, dataset, model)
    accuracy = {f"{split}_accuracy": value for split, value in manifest.accuracy.items()}
    run.log(accuracy)
    print(
        f"{title(config)}: {manifest.network}, test accuracy {accuracy['test_accuracy']:.4f},"
        f" exported in {time.perf_counter() - started:.1f} s"
    )
    return accuracy


def _export(
    run: Run, config: ExportLogitsConfig, dataset: Dataset, model: TrainedModel
) -> Manifest:
    from kdflow.artifacts import logits
    from kdflow.cache import cache_folder, unfinished
    from kdflow.precision import predicting_in
    from kdflow.size import size_of
    from kdflow.tracking.artifacts import LOGITS_FOLDER

    with (
        tempfile.TemporaryDirectory(dir=cache_folder(), prefix=unfinished()) as folder,
        predicting_in(config.computed_in, model.network) as network,
    ):
        exported = partial(
            logits_per_view,
            network,
            averaged=config.averaged,
            checkpoint=run.checkpoint,
        )
        manifest = logits.write(
            folder,
            exported(dataset.x_train, config.shown, split="train"),
            exported(dataset.x_test, ONE_VIEW, split="test"),
            dataset,
            teacher=model.source,
            network=model.network.name,
            **size_of(model.network)._asdict(),
            weights_sha256=model.weights_sha256,
            holdout=model.holdout,
            in_order=True,
            view_set=config.view_set,
            averaged=config.averaged,
        )
        run.log_folder(Path(folder), LOGITS_FOLDER)
    return manifest


def logits_per_view(
    network: keras.Model,
    images: Pixels,
    wanted: Views,
    checkpoint: Checkpoint | None = None,
    split: str = "",
    averaged: bool = False,
) -> np.ndarray:
    """(views, images, classes) float32, each view's own or the mean over it and its mirror image.
    Only a part of the images is copied at a time; the parts that `checkpoint` keeps of this split,
    from before an interrupt, are not computed again."""
    import numpy as np
    from tqdm import tqdm

    from kdflow.evaluate.metrics import predict_logits
    from kdflow.image_file import batch_count
    from kdflow.views import VIEW_SETS

    in_set = VIEW_SETS[wanted.view_set]
    exported = in_set[: wanted.count]

    def computed(view: View | PhotoView, part: np.ndarray) -> np.ndarray:
        name = f"{split}-{in_set.index(view)}-{part[0]}-{len(part)}"
        kept = checkpoint.load_part(name) if checkpoint else None
        if kept is not None:
            return kept
        logits = predict_logits(network, images, part, view)
        if checkpoint:
            with contextlib.suppress(OSError):  # a full disk fails the export itself, if it is full
                checkpoint.save_part(name, logits)
        return logits

    parts = np.array_split(np.arange(len(images)), batch_count(len(images), IMAGES_AT_A_TIME))
    logits = np.zeros((wanted.count, len(images), network.output_shape[-1]), np.float32)
    each = list(product(_computed(wanted, averaged=averaged), parts))
    with tqdm(each, unit="part", disable=None, leave=False) as bar:
        for view, part in bar:
            found = computed(view, part)
            shown = {view, view.mirrored} if averaged else {view}
            for one in shown.intersection(exported):
                logits[exported.index(one), part] += found / 2 if averaged else found
    return logits


def _computed(wanted: Views, *, averaged: bool) -> list[View | PhotoView]:
    """The views whose logits those of the wanted ones are made of."""
    from kdflow.views import VIEW_SETS

    in_set = VIEW_SETS[wanted.view_set]
    needed = {*in_set[: wanted.count]}
    if averaged:
        needed |= {view.mirrored for view in needed}
    return [view for view in in_set if view in needed]


EXPORT_LOGITS = Step(
    "export_logits", ExportLogitsConfig, title, run, needs, check, resolved, "export"
)
