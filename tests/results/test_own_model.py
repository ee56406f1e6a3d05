"""Models and logits that kdflow did not make."""

import re
from collections.abc import Sequence
from pathlib import Path

import keras
import mlflow
import numpy as np
import pytest
import tensorflow
from helpers import ROOT, runs
from scipy.special import softmax

from kdflow.__main__ import main
from kdflow.artifacts import logits, values
from kdflow.catalogue.datasets.npz import load_npz
from kdflow.config.reading import Reading
from kdflow.config.views import Views
from kdflow.dataset import ARRAYS, Dataset
from kdflow.errors import KdflowError
from kdflow.network import weights_sha256
from kdflow.results import own_model
from kdflow.steps.run import load

DOCS = ROOT / "docs"

pytestmark = pytest.mark.usefixtures("store")


def network(*layers: keras.Layer, shape: tuple[int, ...] = (8, 8, 3)) -> keras.Model:
    inputs = keras.Input(shape, dtype="uint8")
    outputs = keras.layers.Flatten()(keras.layers.Rescaling(1 / 255)(inputs))
    for layer in layers:
        outputs = layer(outputs)
    return keras.Model(inputs, outputs, name="own")


@pytest.fixture
def own(tmp_path: Path) -> keras.Model:
    """A network of a user's own, kept as own.keras in the working folder."""
    keras.utils.set_random_seed(0)
    made = network(keras.layers.Dense(3))
    made.save(tmp_path / "own.keras")
    return made


def last_run() -> mlflow.entities.Run:
    return runs()[-1]


def named(tiny_npz: Path) -> str:
    """What names own.keras in tags."""
    return own_model.read("own.keras", load(str(tiny_npz), 0.1), Reading(allow_weak=True)).source


@pytest.mark.slow
def test_the_logits_of_a_keras_file_teach(
    own: keras.Model, tiny: Dataset, tiny_npz: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["--dataset", str(tiny_npz), "--allow_weak_teacher", "true"]  # its weights are random
    assert main(["export_logits", *argv, "--model", "own.keras", "--views", "2"]) == 0
    export = last_run()
    source = export.data.tags["kdflow.upstream.model"]
    assert source == named(tiny_npz)
    read = logits.read(
        Path(export.info.artifact_uri) / "logits", load(str(tiny_npz), 0.1), views=Views(2)
    )
    np.testing.assert_allclose(read.train[0], own.predict(tiny.x_train, verbose=0), atol=1e-5)
    mirrored = own.predict(tiny.x_train[:, :, ::-1], verbose=0)
    np.testing.assert_allclose(read.train[1], mirrored, atol=1e-5)
    np.testing.assert_allclose(read.test, [own.predict(tiny.x_test, verbose=0)], atol=1e-5)
    assert (read.manifest.teacher, read.manifest.network) == (source, "own")
    assert read.manifest.holdout is None
    assert read.manifest.parameters == 192 * 3 + 3

    assert main(["distill", *argv, "--teacher", export.info.run_id, "--epochs", "1"]) == 0
    assert last_run().data.tags["kdflow.upstream.teacher"] == export.info.run_id
    shown = capsys.readouterr().out
    assert shown.count("the manifest does not state the teacher's holdout") == 1
    assert main(["hint", *argv, "--teacher", export.info.run_id]) == 1
    expected = "kdflow hint: teacher: expected the teacher's model, since hints come from a layer"
    assert capsys.readouterr().err.startswith(expected)


@pytest.mark.slow
def test_a_logged_and_a_registered_model_are_the_same_teacher(
    own: keras.Model, tiny_npz: Path
) -> None:
    with mlflow.start_run() as run:
        mlflow.keras.log_model(
            own, name="any_name", pip_requirements=["keras"], registered_model_name="own"
        )
    mlflow.MlflowClient().set_registered_model_alias("own", "best", "1")
    for source in (f"runs:/{run.info.run_id}/any_name", "models:/own@best"):
        argv = ["--dataset", str(tiny_npz), "--model", source, "--allow_weak_teacher", "true"]
        assert main(["export_logits", *argv]) == 0
        assert last_run().data.tags["kdflow.upstream.model"] == named(tiny_npz)


def test_what_cannot_teach_is_refused_in_one_line_and_no_run(
    tiny_npz: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dense = keras.layers.Dense
    huge = network(dense(3, kernel_initializer="ones", bias_initializer="ones"))
    huge.layers[-1].bias.assign([np.inf, 0, 0])
    unfit = {
        "infinite.keras": (huge, "finite logits"),
        "code.keras": (
            network(keras.layers.Lambda(lambda x: x), dense(3)),
            "it needs a Lambda layer",
        ),
        "probabilities.keras": (
            network(dense(3), keras.layers.Softmax(), keras.layers.Rescaling(1.0)),
            "gives probabilities",
        ),
        "sigmoid.keras": (network(dense(3, "sigmoid")), "which ends in a sigmoid"),
        "hard.keras": (network(dense(3, "hard_sigmoid")), "which ends in a sigmoid"),
        "nested.keras": (
            network(
                keras.Sequential(
                    [keras.Input((192,)), dense(3), keras.layers.Activation("sigmoid")]
                )
            ),
            "which ends in a sigmoid",
        ),
        "weak.keras": (network(dense(3, kernel_initializer="zeros")), "better than chance"),
        "one.keras": (network(dense(1, "sigmoid")), r"3 logits per image, .*shape \(1,\)"),
        "four.keras": (network(dense(4)), r"3 logits per image, .*gives the shape \(4,\)"),
        "large.keras": (network(dense(3), shape=(9, 9, 3)), r"takes images of shape \(8, 8, 3\)"),
    }
    messages = {"nowhere.keras": "no model can be loaded", "models:/none@best": "can be loaded"}
    for name, (made, message) in unfit.items():
        made.save(name)
        messages[name] = message
    for name, message in messages.items():
        assert main(["export_logits", "--dataset", str(tiny_npz), "--model", name]) == 1
        shown = capsys.readouterr().err
        assert re.search(f"^kdflow export_logits: model: .*{message}", shown), shown
        assert shown.count("\n") == 1
    assert runs() == []


@pytest.mark.slow
def test_the_documented_folder_of_logits_teaches(
    tiny: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, teachers = ((DOCS / name).read_text() for name in ("your-own-data.md", "teachers.md"))
    examples = re.findall(r"```python\n(.*?)```", data, re.DOTALL)
    images_example = next(each for each in examples if "np.savez" in each)
    arrays = {name: getattr(tiny, name) for name in ARRAYS}
    exec(images_example, arrays)
    labels = np.concatenate([tiny.y_train, tiny.y_test])
    noise = np.random.default_rng(0).normal(size=(90, 3))
    outputs = (noise + 2 * np.eye(3)[labels]).astype(np.float32)
    logits.write(
        "flowers_logits",
        np.stack([outputs[:60], outputs[:60]]),
        outputs[60:][np.newaxis],
        load_npz("flowers.npz"),
        teacher="any",
        network="any",
    )
    (command,) = re.findall(r"python -m kdflow (distill .* --teacher flowers_logits.*)", teachers)
    assert main([*command.split(), "--epochs", "1"]) == 0
    agreement = last_run().data.metrics["teacher_agreement"]
    model = mlflow.keras.load_model(f"runs:/{last_run().info.run_id}/model")
    taught = model.predict(tiny.x_test, verbose=0).argmax(axis=1)
    assert agreement == pytest.approx((taught == outputs[60:].argmax(axis=1)).mean())


def test_a_network_whose_outputs_are_all_from_0_to_1_gives_no_logits(
    tiny_npz: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(values, "ENOUGH_ROWS", 30)  # all that there are
    clipped = network(keras.layers.Dense(3), keras.layers.ReLU(max_value=1))
    clipped.save("clipped.keras")
    dataset = load(str(tiny_npz), 0.1)
    with pytest.raises(KdflowError, match=r"got clipped.keras, whose values are all from 0 to 1"):
        own_model.read("clipped.keras", dataset, Reading("0..255"))


def test_what_names_a_model_is_its_weights_and_what_it_computes_with_them(
    own: keras.Model, tiny_npz: Path
) -> None:
    dataset = load(str(tiny_npz), 0.1)
    other = network(keras.layers.Dense(3), keras.layers.ReLU())
    other.set_weights(own.get_weights())
    other.save("other.keras")
    read = [
        own_model.read(name, dataset, Reading(pixels, allow_weak=True))
        for name in ("own.keras", "other.keras")
        for pixels in ("0..255", "0..1")
    ]
    assert {model.weights_sha256 for model in read} == {weights_sha256(own)}
    assert len({model.digest for model in read}) == 4
    again = own_model.read("own.keras", dataset, Reading(allow_weak=True))
    assert again.digest == again.source == read[0].digest


CLASSES = 5


def by_brightness() -> Dataset:
    """Images of five classes, from dark to bright."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, CLASSES, 390).astype(np.uint8)
    images = (rng.integers(0, 50, (390, 4, 4, 1)) + 50 * labels[:, None, None, None]).astype(
        "uint8"
    )
    parts = images[:300], labels[:300], images[300:], labels[300:]
    return Dataset("brightness", *parts, tuple("abcde"))


def of_brightness(scale: float, order: Sequence[int]) -> keras.Model:
    """A model of pixels from 0 to `scale`: the class with the mean pixel that is nearest to the
    image's."""
    means = (25 + 50 * np.arange(CLASSES)) / 255 * scale
    images = keras.Input((4, 4, 1))
    layer = keras.layers.Dense(CLASSES)
    outputs = layer(keras.layers.GlobalAveragePooling2D()(images))
    # -(x - mean)^2 without x^2, which is the same for all classes
    layer.set_weights([2 * means[order][np.newaxis], -(means[order] ** 2)])
    return keras.Model(images, outputs)


def test_pixels_of_another_range_than_the_model_was_trained_on_are_refused() -> None:
    """It is better than chance with them, and would teach wrong logits."""
    dataset = by_brightness()
    of_brightness(1, range(CLASSES)).save("own.keras")
    assert own_model.read("own.keras", dataset, Reading("0..1")).network.name == "own"
    expected = "expected a model of pixels -1..1, got own.keras, whose accuracy on 300 training"
    with pytest.raises(KdflowError, match=f"^{expected} .* and 1.0000 with 0..1; set pixels=0..1"):
        own_model.read("own.keras", dataset, Reading("-1..1"))
    own_model.read("own.keras", dataset, Reading("-1..1", allow_weak=True))


def of_two_classes() -> Dataset:
    """Dark and bright images, `no` and `yes`."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 200).astype(np.uint8)
    images = (rng.integers(0, 156, (200, 4, 4, 1)) + 100 * labels[:, None, None, None]).astype(
        "uint8"
    )
    parts = images[:100], labels[:100], images[100:], labels[100:]
    return Dataset("two", *parts, ("no", "yes"))


@pytest.mark.parametrize("activation", ["sigmoid", None])
def test_one_output_is_that_of_the_second_of_two_classes(
    activation: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    dataset = of_two_classes()
    made = network(keras.layers.Dense(1, activation), shape=(4, 4, 1))
    made.layers[-1].set_weights([np.full((16, 1), 0.5), np.array([-0.5 * 16 * 127 / 255])])
    made.save("one.keras")
    read = own_model.read("one.keras", dataset, Reading()).network
    logits = read.predict(dataset.x_test, verbose=0)
    assert logits.shape == (100, 2)
    assert (logits.argmax(1) == dataset.y_test).mean() > 0.95
    output = made.predict(dataset.x_test, verbose=0)[:, 0]
    expected = output if activation else 1 / (1 + np.exp(-output))
    np.testing.assert_allclose(softmax(logits, axis=1)[:, 1], expected, atol=1e-6)
    assert capsys.readouterr().out == (
        "one.keras: its one output, before its sigmoid if it ends in one, is the logit of yes; that"
        " of no is 0\n"
    )


def test_a_constant_is_refused_however_often_it_is_right() -> None:
    labels = np.repeat([0, 1], [98, 2]).astype(np.uint8)
    images = np.random.default_rng(0).integers(0, 256, (100, 4, 4, 1), np.uint8)
    dataset = Dataset("unbalanced", images, labels, images, labels, ("usual", "rare"))
    constant = network(keras.layers.Dense(2), shape=(4, 4, 1))
    constant.layers[-1].set_weights([np.zeros((16, 2)), np.array([1, -1])])
    constant.save("constant.keras")
    with pytest.raises(KdflowError, match=r"better than chance, got constant.keras .* 0\.9800"):
        own_model.read("constant.keras", dataset, Reading())


def test_outputs_in_another_order_than_the_classes_are_said(
    capsys: pytest.CaptureFixture[str],
) -> None:
    of_brightness(255, [0, 2, 1, 3, 4]).save("swapped.keras")
    own_model.read("swapped.keras", by_brightness(), Reading())
    shown = capsys.readouterr().out
    assert (
        "swapped.keras: its outputs seem to be in another order than the classes (a, b, c, d, e)"
        in shown
    )
    assert (
        "output 1 fits c, output 2 fits b. In that order its accuracy is 1.0000, as given 0.6"
        in shown
    )


@pytest.mark.parametrize("allow_weak", [False, True])
def test_outputs_in_another_order_are_told_from_pixels_of_another_range(
    allow_weak: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    """With other pixels this model predicts a constant, which is right more often."""
    of_brightness(255, [1, 2, 3, 4, 0]).save("rotated.keras")
    dataset, found = by_brightness(), "output 0 fits b, output 1 fits c, output 2 fits d"
    if allow_weak:
        own_model.read("rotated.keras", dataset, Reading(allow_weak=True))
        assert found in capsys.readouterr().out
    else:
        with pytest.raises(KdflowError, match=rf"likely cause: its outputs .*{found}.* 1\.0000"):
            own_model.read("rotated.keras", dataset, Reading())


@pytest.mark.parametrize("name", ["Mein Modell ü", "blumen(1)", "-x", "_"])
def test_a_file_of_any_name_teaches(name: str) -> None:
    """TensorFlow limits the names of the networks that are trained or exported."""
    keras.Sequential(of_brightness(255, range(CLASSES)).layers).save(f"{name}.keras")
    read = own_model.read(f"{name}.keras", by_brightness(), Reading()).network
    with tensorflow.Graph().as_default(), tensorflow.name_scope(read.name) as scope:
        assert scope == f"{read.name}/"
