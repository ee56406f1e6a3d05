"""Train the student's lower layers on a teacher's hints: FitNets, stage one."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING

from pydantic import Field

from kdflow.config.base import BatchSize, Config, Epochs, LearningRate, NetworkName, Seed
from kdflow.config.training import Settings
from kdflow.errors import KdflowError, about
from kdflow.needs import Found, ModelOf, Need, Planned, Step

if TYPE_CHECKING:
    import keras

    from kdflow.dataset import Dataset
    from kdflow.image_file import Pixels
    from kdflow.results.records import TrainedModel
    from kdflow.tracking.run import Run


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

    @property
    def settings(self) -> Settings:
        """How the layers are trained."""
        return Settings("adam", self.learning_rate, self.epochs, self.batch_size, self.seed)


def title(config: HintConfig) -> str:
    return f"hint {config.student} seed={config.seed}"


def needs(config: HintConfig, dataset: Dataset) -> dict[str, Need]:
    from kdflow.results.layers import model_source

    with about("teacher"):
        source = model_source(config.teacher)
    return {"teacher": ModelOf(source, config.holdout, parameter="teacher")}


def resolved(
    config: HintConfig, inputs: Mapping[str, Found | Planned], dataset: Dataset
) -> HintConfig:
    """The config with the layers that `auto` stands for.

    Raises:
        KdflowError: a layer is unknown or has no maps.
    """
    from kdflow import network

    teaching = _teaching(inputs["teacher"], dataset)
    with about("student"):
        network.check_fit(config.student, dataset.image_shape)
    learning = network.untrained(config.student, dataset.image_shape, dataset.classes)
    return config.model_copy(
        update={
            "hint_layer": network.feature_layer(teaching, config.hint_layer, "hint_layer"),
            "guided_layer": network.feature_layer(learning, config.guided_layer, "guided_layer"),
        }
    )


def check(config: HintConfig, dataset: Dataset, inputs: Mapping[str, Found | Planned]) -> None:
    """Refuse layers that differ in height or width, and a disk with too little room."""
    from kdflow import network
    from kdflow.artifacts import hints
    from kdflow.cache import cache_folder

    teaching = _teaching(inputs["teacher"], dataset)
    learning = network.untrained(config.student, dataset.image_shape, dataset.classes)
    hint_maps = network.feature_maps(teaching)
    hint_shape = hint_maps[config.hint_layer]
    guided_shape = network.feature_maps(learning)[config.guided_layer]
    if hint_shape[:2] != guided_shape[:2]:
        fitting = [name for name, shape in hint_maps.items() if shape[:2] == guided_shape[:2]]
        raise KdflowError(
            "hint_layer, guided_layer: expected maps of equal height and width, got"
            f" {config.hint_layer} of {teaching.name} with {hint_shape[0]}x{hint_shape[1]} and"
            f" {config.guided_layer} of {learning.name} with {guided_shape[0]}x{guided_shape[1]},"
            f" which fits {', '.join(fitting) or 'no layer'} of {teaching.name}"
        )
    hints.check_room(cache_folder(), sum(map(len, _images(config, dataset))), hint_shape)


def run(
    run: Run, config: HintConfig, dataset: Dataset, *, teacher: TrainedModel
) -> dict[str, float]:
    from kdflow import network
    from kdflow.artifacts import hints
    from kdflow.cache import cache_folder
    from kdflow.evaluate import plots
    from kdflow.steps.training import peak_memory_mb, split_images
    from kdflow.training.hint import fit_hint

    train, validation = split_images(run, config, dataset)
    student = network.build(config.student, train, dataset.classes, seed=config.seed)
    guided = network.features(student, config.guided_layer)
    hinting = network.features(teacher.network, config.hint_layer)
    print(
        f"hints: {config.hint_layer} of {teacher.network.name} for {config.guided_layer} of"
        f" {student.name}; each image passes {teacher.network.name} once"
    )
    started = time.perf_counter()
    history = []
    with hints.cached(hinting, _images(config, dataset), cache_folder()) as cached:
        print(
            f"hints: computed in {time.perf_counter() - started:.1f} s, kept on disk until the"
            " training ends"
        )
        for epoch, metrics in fit_hint(
            guided,
            train,
            validation,
            train_hints=cached[0],
            validation_hints=cached[-1],
            settings=config.settings,
            place=run.place,
        ):
            run.log(metrics, epoch)
            history.append(metrics)
    final = {"parameters": float(student.count_params()), "peak_memory_mb": peak_memory_mb()}
    run.log(final)
    run.set_tags(
        {
            "kdflow.hint_layer": config.hint_layer,
            "kdflow.guided_layer": config.guided_layer,
            "kdflow.weights_sha256": network.weights_sha256(student),
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


def _teaching(plan: Found | Planned, dataset: Dataset) -> keras.Model:
    """The teacher's network, with random weights if it has yet to be made: for its shapes."""
    from kdflow import network
    from kdflow.steps.teacher import TeacherConfig

    if plan.result is not None:
        return plan.result.network
    assert isinstance(plan, Planned)
    assert isinstance(plan.config, TeacherConfig)
    return network.untrained(plan.config.arch, dataset.image_shape, dataset.classes)


def _images(config: HintConfig, dataset: Dataset) -> list[Pixels]:
    """The images that hints are needed of. Without a holdout the test set is the validation."""
    return [dataset.x_train] if config.holdout else [dataset.x_train, dataset.x_test]


HINT = Step("hint", HintConfig, title, run, needs, check, resolved)
