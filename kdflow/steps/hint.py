"""Train the student's lower layers on a teacher's hints; find the hint run whose weights a
distillation starts from, or make it."""

import time
from typing import NamedTuple

import numpy as np

from kdflow import hints, logits, models, plots, tracking, training
from kdflow.config import DistillConfig, HintConfig, is_automatic
from kdflow.data import Dataset, cache_folder
from kdflow.errors import KdflowError, about
from kdflow.steps import teacher
from kdflow.steps.record import (
    StepResult,
    TrainedModel,
    current_model,
    find_result,
    key_of,
    link_upstream,
    open_step,
)
from kdflow.steps.train import peak_memory_mb, split_images


class Plan(NamedTuple):
    """What a hint run is made of: the teacher, if it is in the store already, and the layers."""

    teacher: TrainedModel | None
    hint_layer: str
    guided_layer: str


def run(config: HintConfig, data: Dataset) -> StepResult:
    return _run(config, data, plan(config, data))  # what does not fit is refused without a run


def _run(config: HintConfig, data: Dataset, planned: Plan, *, child: bool = False) -> StepResult:
    name = f"hint {config.student} seed={config.seed}"
    with open_step("hint", name, config, data, child=child) as run_id:
        if planned.teacher:
            print(f"teacher: found {planned.teacher.words}")
        taught_by = planned.teacher or teacher.make(config.teacher, data, config.holdout)
        teaching = taught_by.network
        link_upstream("hint", config, data, teacher=taught_by.source)
        train, validation = split_images(config, data)
        network = models.build(
            config.student, data.x_train[train.indices], data.classes, seed=config.seed
        )
        guided = models.features(network, planned.guided_layer)
        print(
            f"hints: {planned.hint_layer} of {teaching.name} for {planned.guided_layer} of"
            f" {network.name}; each image passes {teaching.name} once"
        )
        started = time.perf_counter()
        with hints.cached(
            models.features(teaching, planned.hint_layer), _images(config, data), cache_folder()
        ) as cached:
            print(
                f"hints: computed in {time.perf_counter() - started:.1f} s, kept on disk until the"
                " training ends"
            )
            history = training.fit_hint(
                guided,
                train,
                validation,
                train_hints=cached[0],
                validation_hints=cached[-1],
                learning_rate=config.learning_rate,
                epochs=config.epochs,
                batch_size=config.batch_size,
                seed=config.seed,
                on_epoch=lambda epoch, metrics: tracking.log_metrics(metrics, epoch),
            )
        final = {"parameters": float(network.count_params()), "peak_memory_mb": peak_memory_mb()}
        tracking.log_metrics(final)
        tracking.set_tags(
            {
                "kdflow.hint_layer": planned.hint_layer,
                "kdflow.guided_layer": planned.guided_layer,
                "kdflow.weights_sha256": models.weights_sha256(network),
            }
        )
        tracking.log_model(network)
        tracking.log_figure(plots.hint_curves(history, name), "learning_curves.png")
    result = StepResult(run_id, history[-1] | final)
    print(
        f"{name}: validation error of the hints {result.metrics['val_hint_loss']:.4f}, accuracy of"
        f" the nearest class mean {result.metrics['val_probe_accuracy']:.4f}; start from it with"
        f" distill init={run_id}"
    )
    return result


def plan(config: HintConfig, data: Dataset) -> Plan:
    """What the hint run of `config` would be made of.

    Raises:
        KdflowError: the teacher does not fit, a layer is unknown or has no maps, the two layers
            differ in height or width, or the disk has too little room for the hints.
    """
    with about("student"):
        models.check_fit(config.student, data.image_shape)
    with about("teacher"):
        source = _model_source(config.teacher)
        found = teacher.find_verified(source, data, config.holdout)
    teaching = found.network if found else teacher.untrained(source, data, config.holdout)
    learning = models.NETWORKS[config.student](data.image_shape, data.classes)
    hint_layer = models.feature_layer(teaching, config.hint_layer, "hint_layer")
    guided_layer = models.feature_layer(learning, config.guided_layer, "guided_layer")
    hint_maps = models.feature_maps(teaching)
    hint_shape, guided_shape = hint_maps[hint_layer], models.feature_maps(learning)[guided_layer]
    if hint_shape[:2] != guided_shape[:2]:
        fitting = [name for name, shape in hint_maps.items() if shape[:2] == guided_shape[:2]]
        raise KdflowError(
            "hint_layer, guided_layer: expected maps of equal height and width, got"
            f" {hint_layer} of {teaching.name} with {hint_shape[0]}x{hint_shape[1]} and"
            f" {guided_layer} of {learning.name} with {guided_shape[0]}x{guided_shape[1]}, which"
            f" fits {', '.join(fitting) or 'no layer'} of {teaching.name}"
        )
    hints.check_room(cache_folder(), sum(map(len, _images(config, data))), hint_shape)
    return Plan(found, hint_layer, guided_layer)


def find_or_run(config: HintConfig, data: Dataset) -> StepResult:
    """What a run like this one left, or the result of a new child of the open run."""
    planned = plan(config, data)
    if planned.teacher:
        upstream = {"teacher": planned.teacher.source}
        found = find_result("hint", config.student, config, data, **upstream)
        if found:
            return found
    return _run(config, data, planned, child=True)


def find_initial(config: DistillConfig, data: Dataset) -> TrainedModel | None:
    """The layers that the hint run of `config.init` has trained; None if it names none, or one that
    has yet to be made.

    Raises:
        KdflowError: what it names does not exist, does not fit, or could not be made.
    """
    if config.init == "none":
        return None
    if config.init != "auto":
        with about("init"):
            return _named_initial(config, data)
    with about("teacher"):
        wanted = _default_config(config, data)
        taught_by = teacher.find(wanted.teacher, data, wanted.holdout)
    for model_run in taught_by:
        for found in tracking.find_runs(key_of("hint", wanted, data, teacher=model_run.run_id)):
            try:
                return _guided_layers(found, config, data)
            except KdflowError as error:
                print(f"init: {error}; it is not used")
    with about("init"):
        plan(wanted, data)
    return None


def make_initial(config: DistillConfig, data: Dataset) -> TrainedModel | None:
    """The layers that the hint run which `find_initial` did not find has trained, once it is made;
    None if `config.init` names none."""
    if config.init == "none":
        return None
    print(f"init: no hint run of {config.student} at its default settings in the store; making one")
    made = run(_default_config(config, data), data)
    return _guided_layers(tracking.get_run(made.run_id), config, data)


def _named_initial(config: DistillConfig, data: Dataset) -> TrainedModel:
    found = tracking.get_run(config.init, "none, auto or the id of a hint run")
    if found.step != "hint":
        raise KdflowError(f"expected a hint run, got the {found.step} run {found.run_id}")
    wanted_and_found = {
        "student": (config.student, found.params["student"]),
        "data set digest": (data.digest, found.tags["kdflow.dataset_digest"]),
        "holdout": (config.holdout, float(found.params["holdout"])),
    }
    for what, (expected, got) in wanted_and_found.items():
        if expected != got:
            raise KdflowError(
                f"expected a hint run with the {what} {expected}, got run {found.run_id} with {got}"
            )
    return _guided_layers(found, config, data)


def _guided_layers(found: tracking.FoundRun, config: DistillConfig, data: Dataset) -> TrainedModel:
    """What a hint run has trained: the student up to its guided layer. The layers above have the
    random weights of that run's seed, which are not for the distillations that start from it."""
    student = current_model(found, config.student, data)
    guided = models.features(student.network, found.tags["kdflow.guided_layer"])
    return student._replace(network=guided)


def _default_config(config: DistillConfig, data: Dataset) -> HintConfig:
    """The hint run whose weights `init=auto` means."""
    return HintConfig(  # type: ignore[call-arg]
        dataset=data.name,
        holdout=config.holdout,
        student=config.student,
        teacher=_model_source(config.teacher),
    )


def _model_source(source: str) -> str:
    """What names the teacher's model where `source` names its logits."""
    if is_automatic(source):
        return source
    if logits.is_folder(source):
        raise KdflowError(
            "expected auto, a network's name or a run id, since hints come from a layer of"
            f" the model; got the folder of logits {source}"
        )
    found = tracking.get_run(source)
    if found.step != "export_logits":
        return source
    model = found.tags.get("kdflow.upstream.model", "none")
    if model == "none" or model.startswith("sha256:"):
        raise KdflowError(
            f"expected a teacher that kdflow trained, since hints come from a layer of the model;"
            f" got {source}, the export of another one"
        )
    return model


def _images(config: HintConfig, data: Dataset) -> list[np.ndarray]:
    """The images that hints are needed of. Without a holdout the test set is the validation."""
    return [data.x_train] if config.holdout else [data.x_train, data.x_test]
