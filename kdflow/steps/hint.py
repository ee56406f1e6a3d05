"""Train the student's lower layers on a teacher's hints: FitNets, stage one."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from kdflow.config.base import BatchSize, Epochs, LearningRate, Seed, rarely_used
from kdflow.config.fitting import Settings
from kdflow.config.precision import PrecisionConfig
from kdflow.config.reading import OwnModelConfig
from kdflow.config.training import StudentConfig
from kdflow.errors import about
from kdflow.model_file import OWN_MODEL
from kdflow.naming import run_name
from kdflow.needs import Found, ModelOf, Need, Planned, Step
from kdflow.tags import GUIDED_LAYER_TAG, HINT_LAYER_TAG, WEIGHTS_TAG

if TYPE_CHECKING:
    import keras

    from kdflow.artifacts.hints import Hints
    from kdflow.dataset import Dataset
    from kdflow.image_file import Pixels
    from kdflow.results.records import TrainedModel
    from kdflow.tracking.run import Run


class HintConfig(StudentConfig, OwnModelConfig, PrecisionConfig):
    """Train the student's lower layers to reproduce the output of a teacher's hint layer: FitNets,
    stage one."""

    teacher: str = Field(
        "auto",
        min_length=1,
        description="whose hints to learn from: auto (the data set's default teacher, found or"
        " made), a network's name, the id of a model's run or of its export, or a model of your"
        f" own: {OWN_MODEL}",
    )
    hint_layer: str = Field(
        "auto",
        min_length=1,
        description="the teacher's layer to learn from; auto is its network's own, or one with"
        " maps of the guided layer's size at about two thirds of the depth",
    )
    guided_layer: str = Field(
        "auto",
        min_length=1,
        description="the student's layer that learns; auto is its network's own, or one with maps"
        " of the hint layer's size at about two thirds of the depth",
    )
    hint_values: Literal["cached", "recomputed"] = Field(
        "cached",
        description="cached: each image goes through the teacher once, and its hints are kept on"
        " disk until the training ends; recomputed: each batch goes through the teacher again,"
        " which is slower and needs no disk",
        json_schema_extra=rarely_used("cached"),
    )
    epochs: Epochs = 10
    batch_size: BatchSize = 128
    learning_rate: LearningRate = 0.001
    seed: Seed = 0

    @property
    def settings(self) -> Settings:
        """How the layers are trained."""
        budget = (self.learning_rate, self.epochs, self.batch_size, self.seed)
        return Settings("adam", *budget, precision=self.computed_in)


def title(config: HintConfig) -> str:
    return run_name(f"s{config.seed}", "hint", config.student_name)


def needs(config: HintConfig, dataset: Dataset) -> dict[str, Need]:
    from kdflow.results.layers import model_source

    with about("teacher"):
        source = model_source(config.teacher)
    teacher = ModelOf(
        source,
        config.holdout,
        reading=config.reading,
        precision=config.precision,
        parameter="teacher",
    )
    return {"teacher": teacher}


def resolved(
    config: HintConfig, inputs: Mapping[str, Found | Planned], dataset: Dataset
) -> HintConfig:
    """The config with the layers that `auto` stands for.

    Raises:
        KdflowError: a layer is unknown or has no maps.
    """
    from kdflow import network
    from kdflow.features import feature_layers

    teaching = _teaching(inputs["teacher"], dataset)
    with about("student"):
        network.check_fit(config.student, dataset.image_shape, dataset.classes)
    learning = network.untrained(config.student, dataset.image_shape, dataset.classes)
    hint_layer, guided_layer = feature_layers(
        teaching, learning, config.hint_layer, config.guided_layer
    )
    return config.model_copy(update={"hint_layer": hint_layer, "guided_layer": guided_layer})


def check(config: HintConfig, dataset: Dataset, inputs: Mapping[str, Found | Planned]) -> None:
    """Refuse a disk with too little room."""
    from kdflow.artifacts import hints
    from kdflow.cache import cache_folder
    from kdflow.features import feature_maps

    if config.hint_values == "recomputed":
        return
    hint_maps = feature_maps(_teaching(inputs["teacher"], dataset))
    hint_shape = hint_maps[config.hint_layer]
    hints.check_room(cache_folder(), sum(map(len, _images(config, dataset))), hint_shape)


def run(
    run: Run, config: HintConfig, dataset: Dataset, *, teacher: TrainedModel
) -> dict[str, float]:
    from kdflow import network
    from kdflow.evaluate import plots
    from kdflow.features import features
    from kdflow.memory import peak_memory_mb
    from kdflow.precision import predicting_in
    from kdflow.steps.training import size_metrics, split_images
    from kdflow.training.hint import fit_hint

    train, validation = split_images(run, config, dataset)
    student = network.build(config.student, train, dataset.classes, seed=config.seed)
    guided = features(student, config.guided_layer)
    hinting = features(teacher.network, config.hint_layer)
    print(
        f"hints: {config.hint_layer} {_size(hinting)} of {teacher.network.name} for"
        f" {config.guided_layer} {_size(guided)} of {config.student_name}"
    )
    history = []
    with (
        predicting_in(config.computed_in, hinting) as teaching,
        _hints(run, config, teaching, _images(config, dataset)) as of_images,
    ):
        for epoch, metrics in fit_hint(
            guided,
            train,
            validation,
            train_hints=of_images[0],
            validation_hints=of_images[-1],
            settings=config.settings,
            checkpoint=run.checkpoint,
        ):
            run.log(metrics, epoch)
            history.append(metrics)
    final = {**size_metrics(student), "peak_memory_mb": peak_memory_mb()}
    run.log(final)
    run.set_tags(
        {
            HINT_LAYER_TAG: config.hint_layer,
            GUIDED_LAYER_TAG: config.guided_layer,
            WEIGHTS_TAG: network.weights_sha256(student),
        }
    )
    run.log_model(student, dataset.class_names)
    run.log_figure(plots.hint_curves(history, title(config)), "learning_curves.png")
    last = history[-1] | final
    print(
        f"{title(config)}: validation error of the hints {last['val_hint_loss']:.4f}, accuracy of"
        f" the nearest class mean {last['val_probe_accuracy']:.4f}; start from it with"
        f" distill init={run.run_id}"
    )
    return last


@contextlib.contextmanager
def _hints(
    run: Run, config: HintConfig, teacher: keras.Model, arrays: list[Pixels]
) -> Iterator[Sequence[Hints]]:
    """The hints of each array of images, usable inside the block."""
    from kdflow.artifacts import hints
    from kdflow.cache import cache_folder

    if config.hint_values == "recomputed":
        print("hints: recomputed for each batch, not cached")
        yield [hints.Recomputed(teacher, images) for images in arrays]
        return
    started = time.perf_counter()
    with hints.cached(teacher, arrays, cache_folder(), run.checkpoint) as cached:
        print(
            f"hints: computed for all images in {time.perf_counter() - started:.1f} s; cached on"
            " disk until the training ends"
        )
        yield cached


def _teaching(plan: Found | Planned, dataset: Dataset) -> keras.Model:
    """The teacher's network, with random weights if it has yet to be made: for its shapes."""
    from kdflow import network
    from kdflow.steps.teacher import TeacherConfig

    if plan.result is not None:
        return plan.result.network
    assert isinstance(plan, Planned)
    assert isinstance(plan.config, TeacherConfig)
    return network.untrained(plan.config.arch, dataset.image_shape, dataset.classes)


def _size(part: keras.Model) -> str:
    return "x".join(str(size) for size in part.output.shape[1:])


def _images(config: HintConfig, dataset: Dataset) -> list[Pixels]:
    """The images that hints are needed of. Without a holdout the test set is the validation."""
    return [dataset.x_train] if config.holdout else [dataset.x_train, dataset.x_test]


HINT = Step("hint", HintConfig, title, run, needs, check, resolved)
