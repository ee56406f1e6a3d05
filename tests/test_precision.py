"""What computes in bfloat16, and what does not."""

from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
import pytest
from keras import ops

from kdflow.adapt import with_two_logits
from kdflow.artifacts.hints import Recomputed
from kdflow.catalogue.losses import LOSSES
from kdflow.catalogue.networks import NETWORKS
from kdflow.config.fitting import Settings
from kdflow.config.views import Views
from kdflow.dataset import Dataset, Images
from kdflow.evaluate.metrics import predict_logits
from kdflow.features import features
from kdflow.hardware import Precision
from kdflow.losses import hint_loss
from kdflow.network import architecture_sha256, build, untrained, weights_sha256
from kdflow.precision import computing_in, predicting_in
from kdflow.steps.run import load
from kdflow.training.hint import fit_hint
from kdflow.training.loop import fit
from kdflow.training.objective import Distillation, Labels, Objective
from kdflow.training.progress import Metrics

PRECISIONS: tuple[Precision, ...] = ("float32", "bfloat16")
BY_ONE_BIT = 1 + 2**-8  # halfway between two bfloat16 numbers, and rounded to the even one, 1


class Probe(keras.layers.Conv2D):
    """A convolution that notes the types of what it is given and of its kernel, when traced."""

    def __init__(self, **options: Any) -> None:
        super().__init__(4, 3, name="probe", **options)
        self.seen: list[tuple[str, str]] = []

    def call(self, inputs):  # type: ignore[no-untyped-def]
        if not isinstance(inputs, keras.KerasTensor):
            kernel = ops.convert_to_tensor(self.kernel)
            types = keras.backend.standardize_dtype
            self.seen.append((types(inputs.dtype), types(kernel.dtype)))
        return super().call(inputs)


def probed(probe: Probe) -> keras.Model:
    images = keras.Input((8, 8, 3), dtype="uint8")
    x = probe(keras.layers.Rescaling(1 / 255)(images))
    x = keras.layers.BatchNormalization()(x)
    return keras.Model(images, keras.layers.Dense(3)(keras.layers.Flatten()(x)))


def trained(
    network: keras.Model,
    train: Images,
    validation: Images,
    precision: Precision,
    objective: Objective | None = None,
    **settings: Any,
) -> list[Metrics]:
    """The metrics of two epochs."""
    values = {"optimizer": "adam", "learning_rate": 0.01, "epochs": 2, "batch_size": 16, "seed": 0}
    given = Settings(**values | settings, precision=precision)  # type: ignore[arg-type]
    return [it for _, it in fit(network, train, validation, objective or Labels(), given)]


def in_bfloat16(network: keras.Model) -> list[str]:
    """The layers that compute in it, those within others too."""
    with computing_in("bfloat16", network):
        layers = network._flatten_layers()
        return [it.name for it in layers if it.compute_dtype == "bfloat16"]


@pytest.mark.parametrize("precision", PRECISIONS)
def test_training_computes_in_it_and_validation_in_float32(
    precision: Precision, train: Images, validation: Images
) -> None:
    probe = Probe()
    trained(probed(probe), train, validation, precision)
    during, after = set(probe.seen[:-1]), probe.seen[-1]
    assert during == {(precision, precision)}
    assert after == ("float32", "float32")


@pytest.mark.slow
@pytest.mark.parametrize("loss", LOSSES)
def test_the_logits_that_are_minimised_are_float32_and_so_are_weights_and_the_optimisers_state(
    loss: str,
    train: Images,
    validation: Images,
    teacher_logits: np.ndarray,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen = set()
    terms = Distillation.terms

    def noted(self: Distillation, targets: Mapping[str, Any], logits: Any) -> dict[str, Any]:
        given = terms(self, targets, logits)
        for tensor in (logits, *given.values()):
            seen.add(keras.backend.standardize_dtype(tensor.dtype))
        return given

    monkeypatch.setattr(Distillation, "terms", noted)
    network = build("pupil", train, 3, seed=0)
    weights = {name: it.default for name, it in LOSSES[loss].weights.items()}
    objective = Distillation(teacher_logits, 4, 0.9, loss=loss, weights=weights)
    optimizers = []
    compiled = keras.Model.compile

    def compile_(self: keras.Model, optimizer: keras.Optimizer, **options: Any) -> None:
        optimizers.append(optimizer)
        compiled(self, optimizer, **options)

    monkeypatch.setattr(keras.Model, "compile", compile_)
    history = trained(network, train, validation, "bfloat16", objective)
    assert np.isfinite([metrics["train_loss"] for metrics in history]).all()
    assert seen == {"float32"}
    assert {weight.dtype for weight in network.weights} == {"float32"}
    (optimizer,) = optimizers
    assert "bfloat16" not in {variable.dtype for variable in optimizer.variables}


def test_a_kernel_is_rounded_to_bfloat16_except_that_of_the_logits() -> None:
    images = keras.Input((2, 2, 1), dtype="uint8")
    x = keras.layers.Flatten()(keras.layers.Rescaling(1 / 255)(images))
    hidden = keras.layers.Dense(1, use_bias=False, name="hidden")
    logits = keras.layers.Dense(2, use_bias=False, name="logits")
    network = keras.Model(images, logits(hidden(x)))
    network.set_weights([np.full((4, 1), BY_ONE_BIT), np.full((1, 2), BY_ONE_BIT)])
    white = np.full((1, 2, 2, 1), 255, np.uint8)  # pixels of 1, four of them
    with predicting_in("bfloat16", network) as rounding:
        found = rounding.predict(white, verbose=0)
    assert found.dtype == np.float32
    assert found.tolist() == [[4 * 1 * BY_ONE_BIT] * 2]
    assert network.predict(white, verbose=0) == pytest.approx(4 * BY_ONE_BIT**2, rel=1e-7)


def test_statistics_of_batches_are_taken_in_float32(validation: Images) -> None:
    images = keras.Input((1, 1, 1), dtype="uint8")
    x = keras.layers.Rescaling(1 / 255)(images)
    x = keras.layers.Conv2D(1, 1, use_bias=False, kernel_initializer="ones", trainable=False)(x)
    normalised = keras.layers.BatchNormalization(momentum=0)
    network = keras.Model(images, keras.layers.Dense(3)(keras.layers.Flatten()(normalised(x))))
    # a third of the pixels is white: in bfloat16 the mean would be 0.33398
    labels = np.tile(np.arange(3, dtype=np.uint8), 18)
    pixels = np.where(labels == 0, 255, 0).astype(np.uint8).reshape(-1, 1, 1, 1)
    of_one = Images(pixels, labels, np.arange(54))
    trained(network, of_one, of_one, "bfloat16", batch_size=54, epochs=1)
    assert in_bfloat16(network)[0].startswith("conv2d")
    assert float(normalised.moving_mean[0]) == pytest.approx(1 / 3, abs=1e-6)
    assert float(normalised.moving_variance[0]) == pytest.approx(2 / 9, abs=1e-6)


@pytest.mark.slow
def test_at_alpha_0_the_weights_are_the_baselines_bit_for_bit(
    train: Images, validation: Images, teacher_logits: np.ndarray
) -> None:
    objectives = (Labels(), Distillation(teacher_logits, 4, alpha=0.0))
    found = []
    for objective in objectives:
        network = build("student", train, 3, seed=0)
        trained(network, train, validation, "bfloat16", objective, views=Views(2))
        found.append(weights_sha256(network))
    assert found[0] == found[1]


@pytest.mark.slow
def test_on_the_digits_both_learn_and_end_with_other_weights_nearby() -> None:
    digits = load("digits", 0.1)
    order = np.arange(len(digits.y_train))
    train = Images(digits.x_train, digits.y_train, order[144:])
    validation = Images(digits.x_train, digits.y_train, order[:144])
    accuracies, weights = {}, {}
    start = _flat(build("pupil", train, 10, seed=0))
    for precision in PRECISIONS:
        network = build("pupil", train, 10, seed=0)  # whose dropout has the same masks
        settings: dict[str, Any] = {"optimizer": "sgd", "learning_rate": 0.02, "batch_size": 32}
        history = trained(network, train, validation, precision, **settings)
        accuracies[precision] = history[-1]["val_accuracy"]
        weights[precision] = _flat(network)
    assert accuracies["float32"] > 0.8
    assert accuracies["bfloat16"] == pytest.approx(accuracies["float32"], abs=0.03)
    apart = np.linalg.norm(weights["bfloat16"] - weights["float32"])
    assert 0.001 < apart / np.linalg.norm(weights["float32"] - start) < 0.1


def _flat(network: keras.Model) -> np.ndarray:
    return np.concatenate([weight.ravel() for weight in network.get_weights()])


@pytest.mark.parametrize("raises", [False, True])
def test_afterwards_the_network_is_what_it_was(
    raises: bool, tiny: Dataset, small_network: keras.Model
) -> None:
    def described() -> tuple[Any, ...]:
        policies = [layer.dtype_policy.name for layer in small_network._flatten_layers()]
        return architecture_sha256(small_network), small_network.get_config(), policies

    before, logits = described(), predict_logits(small_network, tiny.x_test)
    try:
        with computing_in("bfloat16", small_network):
            assert described() != before
            if raises:
                raise KeyboardInterrupt
    except KeyboardInterrupt:
        pass
    assert described() == before
    assert np.array_equal(predict_logits(small_network, tiny.x_test), logits)


def test_predictions_in_bfloat16_leave_those_of_the_network_itself_as_they_were(
    tiny: Dataset, small_network: keras.Model
) -> None:
    # each model keeps the graph that it has traced
    plain = predict_logits(small_network, tiny.x_test)
    with predicting_in("bfloat16", small_network) as rounding:
        rounded = predict_logits(rounding, tiny.x_test)
        assert np.array_equal(predict_logits(small_network, tiny.x_test), plain)
    assert rounded == pytest.approx(plain, abs=0.05)
    assert np.abs(rounded - plain).max() > 1e-4
    assert np.array_equal(predict_logits(small_network, tiny.x_test), plain)
    with predicting_in("float32", small_network) as same:
        assert predict_logits(same, tiny.x_test) == pytest.approx(plain, rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_in_the_catalogue_all_compute_in_it_but_the_pixels_and_the_logits(name: str) -> None:
    network = untrained(name, (32, 32, 3), 10)
    computing = in_bfloat16(network)
    others = [layer.name for layer in network.layers if layer.name not in computing]
    usual = {"images", "rescaling", "flatten", "unscaled_logits", "logits"}
    usual |= {it.name for it in network.layers if isinstance(it, keras.layers.Dropout)}
    assert set(others) <= usual
    assert {"images", "rescaling", "logits"} <= set(others)
    with_kernels = [layer.name for layer in network.layers if hasattr(layer, "kernel")]
    assert set(with_kernels) - set(computing) <= {"unscaled_logits", "logits"}


@pytest.mark.slow
def test_it_reaches_networks_within_and_the_layers_that_a_layer_consists_of(
    tiny: Dataset, train: Images, validation: Images
) -> None:
    stem = keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            keras.layers.Rescaling(1 / 255, name="scaled"),
            keras.layers.Conv2D(4, 3, strides=2, name="first"),
            keras.layers.Reshape((9, 4), name="sequence"),
        ],
        name="stem",
    )
    images = keras.Input((8, 8, 3), dtype="uint8")
    x = stem(images)
    attention = keras.layers.MultiHeadAttention(2, 3, name="attention")
    x = keras.layers.GlobalAveragePooling1D(name="mean")(attention(x, x) + x)
    head = keras.Sequential(
        [
            keras.Input((4,)),
            keras.layers.Dense(8, activation="relu", name="last_hidden"),
            keras.layers.Dense(3, name="logits"),
            keras.layers.Rescaling(1 / 2, name="smaller"),
        ],
        name="head",
    )
    network = keras.Model(images, head(x))
    computing = in_bfloat16(network)
    assert {"first", "sequence", "attention", "query", "value", "mean", "last_hidden"} <= {
        *computing
    }
    assert not {"scaled", "logits", "smaller", "stem", "head"} & {*computing}
    history = trained(network, train, validation, "bfloat16")
    assert np.isfinite(history[-1]["train_loss"])


def test_a_mean_over_the_maps_of_the_last_convolution_is_of_float32() -> None:
    images = keras.Input((8, 8, 3), dtype="uint8")
    x = keras.layers.Conv2D(4, 3, name="first")(keras.layers.Rescaling(1 / 255)(images))
    x = keras.layers.Activation("relu", name="relu")(x)
    x = keras.layers.Conv2D(3, 1, name="last")(x)
    pooled = keras.layers.GlobalAveragePooling2D(name="mean")(x)
    assert in_bfloat16(keras.Model(images, pooled)) == ["first", "relu"]
    # two ends that meet
    other = keras.layers.Dense(3, name="beside")(keras.layers.Flatten(name="flatten")(images))
    both = keras.Model(images, keras.layers.Add(name="sum")([pooled, other]))
    assert {"first", "relu"} <= set(in_bfloat16(both)) <= {"first", "relu", "flatten"}


def test_the_one_logit_of_two_classes_is_made_in_float32() -> None:
    images = keras.Input((8, 8, 3), dtype="uint8")
    x = keras.layers.Flatten(name="flatten")(keras.layers.Rescaling(1 / 255)(images))
    x = keras.layers.Dense(4, activation="relu", name="first")(x)
    one = keras.Model(images, keras.layers.Dense(1, "sigmoid", name="last")(x))
    assert in_bfloat16(with_two_logits(one)) == ["flatten", "first"]


@pytest.mark.parametrize("precision", PRECISIONS)
def test_layers_of_another_type_keep_it_and_their_logits_are_minimised_as_float32(
    precision: Precision, train: Images, validation: Images, teacher_logits: np.ndarray
) -> None:
    images = keras.Input((8, 8, 3), dtype="uint8")
    x = keras.layers.Flatten()(keras.layers.Rescaling(1 / 255)(images))
    x = keras.layers.Dense(4, dtype="mixed_bfloat16", name="half")(x)
    network = keras.Model(images, keras.layers.Dense(3, dtype="mixed_bfloat16")(x))
    with computing_in(precision, network):
        assert network.get_layer("half").compute_dtype == "bfloat16"
    before = network.get_layer("half").kernel.numpy()
    objective = Distillation(teacher_logits, 4, 0.9)
    history = trained(network, train, validation, precision, objective)
    assert np.isfinite(history[-1]["train_soft_loss"])
    assert not np.array_equal(network.get_layer("half").kernel.numpy(), before)


@pytest.mark.parametrize("size", [6, 4])  # of the guided maps, or less, so that these are resized
def test_layers_that_learn_hints_compute_in_it_and_hints_are_compared_in_float32(
    size: int, train: Images, validation: Images, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = set()

    def noted(hints: Any, regressed: Any) -> Any:
        types = keras.backend.standardize_dtype
        seen.update({types(hints.dtype), types(regressed.dtype)})
        return hint_loss(hints, regressed)

    monkeypatch.setattr("kdflow.training.hint.hint_loss", noted)
    images = keras.Input((8, 8, 3), dtype="uint8")
    maps = keras.layers.Conv2D(5, 9 - size)(keras.layers.Rescaling(1 / 255)(images))
    hints = Recomputed(keras.Model(images, maps), train.images)
    probe = Probe()
    network = probed(probe)
    epochs = fit_hint(
        features(network, "probe"),
        train,
        validation,
        train_hints=hints,
        validation_hints=hints,
        settings=Settings("adam", 0.01, 2, 16, seed=0, precision="bfloat16"),
    )
    errors = [metrics["hint_loss"] for _, metrics in epochs]
    assert errors[1] < errors[0]
    assert ("bfloat16", "bfloat16") in probe.seen
    assert seen == {"float32"}


@pytest.mark.slow
def test_a_regulariser_of_outputs_counts(train: Images, validation: Images) -> None:
    losses = {}
    for weight in (0.0, 1.0):
        images = keras.Input((8, 8, 3), dtype="uint8")
        x = keras.layers.Dense(4)(keras.layers.Rescaling(1 / 255)(images))
        x = keras.layers.RandomRotation(0.1)(x)  # which TensorFlow lacks in bfloat16
        x = keras.layers.Flatten()(x)
        # ones, whatever the images are; the sum of their squares is 2 for each
        x = keras.layers.Dense(
            2,
            kernel_initializer="zeros",
            bias_initializer="ones",
            activity_regularizer=keras.regularizers.L2(weight),
        )(x)
        network = keras.Model(images, keras.layers.Dense(3, kernel_initializer="zeros")(x))
        (metrics,) = trained(network, train, validation, "bfloat16", epochs=1, batch_size=54)
        losses[weight] = metrics["train_loss"]
    assert losses[0.0] == pytest.approx(np.log(3), rel=1e-5)
    assert losses[1.0] == pytest.approx(np.log(3) + 2, rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("fast", {"optimizer": "speedrun"}),
        ("pupil", {"optimizer": "adamw", "weight_decay": 0.01, "clip_norm": 1.0}),
        ("pupil", {"optimizer": "muon"}),
        ("pupil", {"optimizer": "sgd"}),
    ],
)
def test_every_optimiser_moves_the_weights_to_where_it_moves_them_in_float32(
    name: str, settings: dict[str, Any], train: Images, validation: Images
) -> None:
    ends = []
    for precision in PRECISIONS:
        network = build(name, train, 3, seed=0)
        start = _flat(network)
        trained(network, train, validation, precision, learning_rate=0.001, **settings)
        ends.append(_flat(network))
    plain, rounded = ends
    assert not np.array_equal(rounded, plain)
    moved, apart = np.linalg.norm(plain - start), np.linalg.norm(rounded - plain)
    assert apart < moved / 2
    np.testing.assert_allclose(rounded, plain, atol=0.1)
