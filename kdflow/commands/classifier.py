"""What a user names to classify images with: a Keras model, or a file of a deployment."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import keras
import numpy as np

from kdflow.adapt import PixelRange, functional
from kdflow.commands import deployment
from kdflow.config.reading import Reading
from kdflow.deploy import extra
from kdflow.deploy.files import FORMATS, all_logits, open_file
from kdflow.deploy.manifest import FILES, MANIFEST, served_name
from kdflow.errors import KdflowError, reason
from kdflow.evaluate.metrics import predict_logits
from kdflow.hardware import available_cpus
from kdflow.model_file import MODEL_FILES, MODEL_URIS, OWN_MODEL
from kdflow.raw_logits import raw_logits
from kdflow.results.own_model import check_pixels
from kdflow.tracking import registry, store
from kdflow.tracking.artifacts import folder, load_keras, load_model
from kdflow.tracking.find import FoundRun, get_run
from kdflow.tracking.models import check_classifies, class_names, class_names_of

FILE_TYPES = tuple(FORMATS)
EXPECTED = f"a run's id, {OWN_MODEL}, or a {' or '.join(FILE_TYPES)} file of a deployment"
NOISE_IMAGES = 8  # on which a user's own model is tried


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
    if source.endswith(MODEL_FILES):
        return _of_network(_own_network(source, pixels), (), None)
    store.open_store()
    if source.startswith(MODEL_URIS):
        if served := registry.served_file(source):
            check_pixels(served.name, Reading(pixels))
            return _of_file(served, None)
        return _of_network(_own_network(source, pixels), class_names(source), None)
    run = get_run(source, EXPECTED)
    if run.step == "deploy":
        return _of_file(folder(run) / FILES / served_name(run.params["serve"]), run)
    check_classifies(run)
    return _of_network(load_model(run), class_names_of(run), run)


def _own_network(source: str, pixels: PixelRange) -> keras.Model:
    """The network of a model that may be the user's own, from uint8 pixels to logits."""
    loaded = load_keras(source)
    shape = getattr(loaded, "input_shape", None)  # a model that was never called has none
    if not isinstance(shape, tuple) or len(shape) != 4 or None in shape[1:]:
        raise KdflowError(
            f"expected a model of images of one size in {source}, got one that takes {shape}"
        )
    model = functional(loaded, shape[1:], source)
    if len(model.output_shape) != 2:
        raise KdflowError(
            f"expected one logit per class from {source}, got outputs of shape {model.output_shape}"
        )
    noise = np.random.default_rng(0).integers(0, 256, (NOISE_IMAGES, *shape[1:]), np.uint8)
    return raw_logits(model, pixels, noise, source).network


def _of_network(network: keras.Model, names: tuple[str, ...], run: FoundRun | None) -> Classifier:
    return Classifier(
        partial(predict_logits, network),
        network.input_shape[1:],
        network.output_shape[-1],
        names,
        run,
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
