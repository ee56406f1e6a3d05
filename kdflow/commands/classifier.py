"""What a user names to classify images with: a Keras model, or a file of a deployment."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from kdflow.adapt import PixelRange
from kdflow.commands import deployment
from kdflow.config.reading import Reading
from kdflow.deploy import extra
from kdflow.deploy.files import FORMATS, all_logits, open_file
from kdflow.deploy.manifest import FILES, MANIFEST, served_name
from kdflow.errors import KdflowError, reason
from kdflow.evaluate.metrics import predict_logits
from kdflow.hardware import available_cpus
from kdflow.model_file import MODEL_FILES, MODEL_URIS
from kdflow.results.own_model import check_pixels
from kdflow.tracking import registry, store
from kdflow.tracking.artifacts import folder
from kdflow.tracking.find import FoundRun, get_run
from kdflow.tracking.models import SOURCES, find_model

FILE_TYPES = tuple(FORMATS)
EXPECTED = f"{SOURCES}, or a {' or '.join(FILE_TYPES)} file of a deployment"


class Classifier(NamedTuple):
    """From pixels to classes.

    Attributes:
        logits: (m, classes), of images, uint8 (n, height, width, channels), or of those of them
            whose indices are given, (m,).
        image_shape: (height, width, channels).
        classes: how many there are.
        class_names: in the order of the logits; empty where none are known.
        run: the one that was named; None where something else was.
    """

    logits: Callable[..., np.ndarray]
    image_shape: tuple[int, int, int]
    classes: int
    class_names: tuple[str, ...]
    run: FoundRun | None


def find_classifier(source: str, pixels: PixelRange = "0..255") -> Classifier:
    """What a user named.

    Args:
        source: a `.keras` or `.h5` file, a `.tflite` or `.onnx` file of a deployment, the id of a
            run of `deploy`, whose served file it is, or of one that logged a model, `runs:/...` or
            `models:/...`.
        pixels: what a model expects that kdflow did not train.

    Raises:
        KdflowError: there is none, it cannot be loaded, or it is not one that `pixels` is for.
        UnreachableError: the store does not answer.
    """
    check_pixels(source, Reading(pixels))
    if source.endswith(FILE_TYPES):
        return _of_file(Path(source), None)
    if not source.endswith(MODEL_FILES):
        store.open_store()
        if source.startswith(MODEL_URIS):
            if served := registry.served_file(source):
                check_pixels(served.name, Reading(pixels))
                return _of_file(served, None)
        elif (run := get_run(source, EXPECTED)).step == "deploy":
            return _of_file(folder(run) / FILES / served_name(run.params["serve"]), run)
    model = find_model(source, pixels)
    return Classifier(
        partial(predict_logits, model.network),
        model.network.input_shape[1:],
        model.network.output_shape[-1],
        model.class_names,
        model.run,
    )


def _of_file(path: Path, run: FoundRun | None) -> Classifier:
    """A file whose manifest is beside it, or beside its folder `files`."""
    path = path.absolute()
    above = path.parent.parent if path.parent.name == FILES else path.parent
    found = deployment.read(above, path.parent, lambda name: name == path.name)
    if not found.paths:
        raise KdflowError(f"expected a file that {MANIFEST} in {above} describes, got {path}")
    extra.check_runs(path.suffix)
    try:
        file = open_file(path, available_cpus())
    except ValueError as error:
        raise KdflowError(f"expected a file that runs, got {path}: {reason(error)}") from error
    return Classifier(
        partial(all_logits, file),
        found.image_shape,
        len(found.class_names),
        found.class_names,
        run,
    )
