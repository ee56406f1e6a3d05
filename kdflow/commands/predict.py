"""Predict the classes of a user's images with a model."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field, field_validator

from kdflow.adapt import PixelRange
from kdflow.commands import predictions
from kdflow.commands.command import Command, CommandConfig, check_square
from kdflow.commands.predictions import Prediction
from kdflow.config.reading import OwnModelConfig
from kdflow.errors import KdflowError, about
from kdflow.model_file import OWN_MODEL
from kdflow.naming import MOST_NAMED, is_hash
from kdflow.tags import upstream_tag

if TYPE_CHECKING:
    import numpy as np

    from kdflow.commands.classifier import Classifier

AT_A_TIME = 64  # images


class PredictConfig(CommandConfig):
    """Predict the classes of images with a model, into a CSV file and a page with thumbnails."""

    model: str = Field(
        min_length=1,
        description=f"the id of a run that logged a model, or {OWN_MODEL}, that"
        " returns logits or probabilities; or what deploy made: the id of its run (the served"
        " file), or a .tflite or .onnx file beside deploy.json",
    )
    pixels: PixelRange = Field(
        "0..255", description=OwnModelConfig.model_fields["pixels"].description
    )
    class_names: str = Field(
        "",
        description="names of the classes of your own model, in the order of its outputs, separated"
        " by commas; without them the page and the CSV file have numbers",
    )
    images: str = Field(min_length=1, description="an image file, or a folder of images")
    output: str = Field(
        "predictions.csv",
        description="the CSV file to write, with the columns path, class, probability; the page is"
        " written beside it as .html",
    )
    calibrate: bool = Field(
        False,
        description="scale the logits by the temperature that fits the validation images of the"
        " model's run best",
    )
    skip_bad: bool = Field(
        False, description="leave out files that are not images (true), or refuse them (false)"
    )

    @field_validator("output")
    @classmethod
    def _check_suffix(cls, output: str) -> str:
        if not output.endswith(".csv"):
            raise ValueError("expected a name that ends in .csv")
        return output


def run(config: PredictConfig) -> None:
    from kdflow.catalogue.datasets.photo import InvalidImageError
    from kdflow.commands.classifier import find_classifier

    files = _files(Path(config.images))
    with about("model"):
        model = find_classifier(config.model, config.pixels)
        check_square(model.image_shape)
    with about("class_names"):
        model = _named(model, config.class_names)
    temperature = _temperature(config, model)
    found, left_out = [], []
    for part in range(0, len(files), AT_A_TIME):
        for made in _predicted(model, files[part : part + AT_A_TIME], temperature):
            if isinstance(made, Prediction):
                found.append(made)
            elif config.skip_bad:
                left_out.append(made)
            else:
                raise KdflowError(f"images: {made} (skip_bad=true leaves it out)")
    output = Path(config.output)

    def thumbnail(path: str) -> str:
        try:
            return predictions.thumbnail(_pixels(Path(path), model.image_shape))
        except InvalidImageError as error:  # it has changed meanwhile
            raise KdflowError(f"images: {path}: {error}") from error

    predictions.write(found, output, config.model, temperature, thumbnail)
    if left_out:
        print(
            f"predict: skipped {len(left_out)} files that are not images; the first: {left_out[0]}"
        )
    print(f"predict: {len(found)} images in {output} and {output.with_suffix('.html')}")


def _named(model: Classifier, class_names: str) -> Classifier:
    """The model with the names that the user gave to its classes, if any."""
    if not class_names:
        return model
    names = tuple(name.strip() for name in class_names.split(","))
    if model.class_names:
        raise KdflowError(
            "expected none for a model that has names of its own"
            f" ({', '.join(model.class_names[:MOST_NAMED])}), got {class_names}"
        )
    if len(names) != model.classes or "" in names:
        raise KdflowError(
            f"expected {model.classes} names separated by commas, got {len(names)}: {class_names}"
        )
    return model._replace(class_names=names)


def _files(images: Path) -> list[Path]:
    if not images.exists():
        raise KdflowError(
            f"images: expected an image file or a folder of images, got"
            f" {images.absolute()}: nothing of that name"
        )
    files = sorted(_below(images)) if images.is_dir() else [images]
    if not files:
        raise KdflowError(f"images: expected images in {images}, got no files")
    return files


def _below(folder: Path) -> Iterator[Path]:
    """The files in a folder and in those within it, linked ones too, without what is hidden. Each
    folder is read once, however many links lead to it."""

    def fail(error: OSError) -> None:
        raise KdflowError(f"images: {error.filename} cannot be read: {error.strerror}") from error

    read: set[str] = set()
    for parent, folders, names in os.walk(folder, followlinks=True, onerror=fail):
        folders[:] = [name for name in folders if not name.startswith(".")]
        if (real := os.path.realpath(parent)) in read:
            folders.clear()
            continue
        read.add(real)
        paths = (Path(parent, name) for name in names if not name.startswith("."))
        yield from (path for path in paths if path.is_file())


def _temperature(config: PredictConfig, model: Classifier) -> float:
    """The temperature whose scaled logits have the smallest negative log-likelihood on validation
    images (Guo et al. 2017, section 4.2); 1 unless asked."""
    if not config.calibrate:
        return 1.0
    if model.run is None:
        raise KdflowError(
            "calibrate: expected the id of a run as model, since its validation images are needed,"
            f" got {config.model}"
        )
    from kdflow.config.base import DATASET_OPTIONS, Config, validated
    from kdflow.dataset import split
    from kdflow.evaluate.metrics import fitting_temperature
    from kdflow.steps.run import load
    from kdflow.tracking.artifacts import read_json

    used = read_json(model.run, "config.json")
    with about("calibrate"):
        of_data = {"dataset", "holdout", *DATASET_OPTIONS}  # its network may have moved
        step = validated(Config, {name: it for name, it in used.items() if name in of_data})
    dataset = load(step.dataset, step.holdout, step.dataset_options)
    if dataset.digest != model.run.dataset_digest:
        raise KdflowError(
            f"calibrate: expected the images of run {model.run.run_id} (digest"
            f" {model.run.dataset_digest}) in {step.dataset}, got others"
            f" ({dataset.digest})"
        )
    _, validation = split(dataset.y_train, step.holdout)
    if not len(validation):
        raise KdflowError("calibrate: expected a run with validation images, got one of holdout=0")
    if is_hash(model.run.tags.get(upstream_tag("model"), "")):
        print(
            "predict: the temperature is not reliable if the deployed model was trained on these"
            " validation images, which kdflow cannot know"
        )
    logits = model.logits(dataset.x_train, validation)
    with about("calibrate"):
        temperature = fitting_temperature(logits, dataset.y_train[validation])
    print(f"predict: temperature {temperature:.3f}, of {len(validation)} validation images")
    return temperature


def _predicted(
    model: Classifier, files: Sequence[Path], temperature: float
) -> Iterator[Prediction | str]:
    """What the model says of each file, or why it is not an image."""
    import numpy as np
    from scipy.special import softmax

    from kdflow.catalogue.datasets.photo import InvalidImageError

    read: list[np.ndarray | str] = []
    for file in files:
        try:
            read.append(_pixels(file, model.image_shape))
        except InvalidImageError as error:
            read.append(f"{file}: {error}")
    images = [pixels for pixels in read if not isinstance(pixels, str)]
    rows = iter(())
    if images:
        logits = model.logits(np.stack(images)).astype(np.float64)
        rows = iter(softmax(logits / temperature, axis=-1))
    for file, pixels in zip(files, read, strict=True):
        if isinstance(pixels, str):
            yield pixels
            continue
        probabilities: np.ndarray = next(rows)
        best = int(probabilities.argmax())
        label = model.class_names[best] if model.class_names else str(best)
        yield Prediction(str(file), label, float(probabilities[best]))


def _pixels(file: Path, shape: tuple[int, int, int]) -> np.ndarray:
    """The image as a network takes it: its shorter side resized, its longer one cropped.

    Args:
        shape: (height, width, channels).
    """
    import numpy as np
    from PIL import Image

    from kdflow.catalogue.datasets.photo import pixels_of

    side, _, channels = shape
    pixels = pixels_of(file, side)
    if channels == 1:
        return np.asarray(Image.fromarray(pixels).convert("L"))[..., np.newaxis]
    return pixels


PREDICT = Command("predict", PredictConfig, run)
