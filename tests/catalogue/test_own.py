"""Networks of one's own: files, functions and applications as students."""

import os
import shutil
from pathlib import Path

import keras
import numpy as np
import pytest

from kdflow.catalogue.networks import find_network, is_network
from kdflow.catalogue.networks.own import RECIPE
from kdflow.config.training import recipe
from kdflow.dataset import Images
from kdflow.errors import KdflowError
from kdflow.network import (
    architecture_sha256,
    build,
    check_fit,
    identity,
    untrained,
    weights_sha256,
)

SHAPE = (8, 8, 3)
FUNCTIONS = """
import keras
from keras import layers as L

def small(shape, classes, width=4, rate=0.5, last=None):
    images = keras.Input(shape)
    x = L.Conv2D(width, 3)(L.Rescaling(1 / 255)(images))
    x = L.Dropout(rate)(L.GlobalAveragePooling2D()(x))
    return keras.Model(images, L.Dense(classes, activation=last)(x))

def wide(shape, classes):
    return small(shape, classes, width=5)

def dropped(shape, classes):
    return small(shape, classes, rate=0.4)

def ends_in_softmax(shape, classes):
    return small(shape, classes, last="softmax")

def größe(shape, classes):
    return small(shape, classes)

def sequential(shape, classes):
    return keras.Sequential([L.Flatten(), L.Dense(classes)])

def pretrained(shape, classes):
    model = small(shape, classes)
    model.set_weights([0 * weight + 1 for weight in model.get_weights()])
    return model

def one_too_many(shape, classes):
    return small(shape, classes + 1)

def ends_in_sigmoids(shape, classes):
    return small(shape, classes, last="sigmoid")

def half(shape, classes):
    images = keras.Input(shape)
    x = L.Dense(4, dtype="mixed_float16", name="of_half")(L.Flatten()(images))
    return keras.Model(images, L.Dense(classes, dtype="float32")(x))

def nothing(shape, classes):
    pass

def fails(shape, classes):
    raise RuntimeError("no such\\nwidth")

def without_weights(shape, classes):
    images = keras.Input((classes, 1, 1))
    return keras.Model(images, L.Flatten()(images))

class Twice(L.Layer):
    def call(self, x):
        return 2 * x

def own_layer(shape, classes):
    images = keras.Input(shape)
    return keras.Model(images, L.Dense(classes)(L.Flatten()(Twice()(images))))

here = 3
"""


@pytest.fixture
def nets(tmp_path: Path) -> str:
    (tmp_path / "nets.py").write_text(FUNCTIONS, encoding="utf-8")
    return str(tmp_path / "nets.py")


@pytest.fixture
def train() -> Images:
    images = np.random.default_rng(0).integers(0, 256, (20, *SHAPE), np.uint8)
    return Images(images, np.arange(20) % 5, np.arange(20))


@pytest.fixture
def file(nets: str, train: Images, tmp_path: Path) -> str:
    build(f"{nets}:small", train, 5, seed=9).save(tmp_path / "mine.keras")
    return str(tmp_path / "mine.keras")


def test_what_names_a_network_of_ones_own(nets: str, file: str) -> None:
    assert find_network(f"{nets}:small").name == "nets.py:small"
    assert find_network(file).name == "mine.keras"
    assert find_network("applications:MobileNetV3Small").name == "MobileNetV3Small"
    assert not find_network("student").is_own
    for name in ("nets.py", "nowhere.py:small", "nowhere.keras", "a run id", "mine.h5", "auto"):
        assert not is_network(name)
    with pytest.raises(ValueError, match=r"^expected an existing file, /.*/nowhere\.keras$"):
        find_network("nowhere.keras")


def test_ones_own_network_has_a_recipe_which_the_data_set_changes(nets: str) -> None:
    assert recipe("cifar10", f"{nets}:small") == RECIPE
    assert recipe("digits", f"{nets}:small").batch_size == 32


@pytest.mark.parametrize("function", ["small", "ends_in_softmax", "sequential"])
def test_a_function_gives_a_student_that_follows_from_the_seed(
    function: str, nets: str, train: Images
) -> None:
    name = f"{nets}:{function}"
    first = build(name, train, 5, seed=3)
    masked = np.asarray(first(train.images, training=True))
    build("pupil", train, 5, seed=5)  # whatever ran before
    again, other = (build(name, train, 5, seed=seed) for seed in (3, 4))
    assert first.output_shape == (None, 5)
    assert first.layers[-1].activation is keras.activations.linear
    assert [it.name for it in first.layers] == [it.name for it in again.layers]
    assert weights_sha256(first) == weights_sha256(again) != weights_sha256(other)
    assert np.array_equal(masked, again(train.images, training=True))
    hashes = {architecture_sha256(it) for it in (first, again, other, untrained(name, SHAPE, 5))}
    assert len(hashes) == 1


def test_a_function_may_have_any_name(nets: str, train: Images) -> None:
    assert build(f"{nets}:größe", train, 5, seed=3).name == "gr__e"


def test_a_softmax_that_is_taken_off_is_printed(
    nets: str, train: Images, capsys: pytest.CaptureFixture[str]
) -> None:
    build(f"{nets}:ends_in_softmax", train, 5, seed=0)
    assert "nets.py:ends_in_softmax: its final softmax is removed" in capsys.readouterr().out
    build(f"{nets}:small", train, 5, seed=0)
    assert capsys.readouterr().out == ""


def test_a_file_gives_its_architecture_freshly_initialised_or_its_weights(
    file: str, train: Images
) -> None:
    stored = keras.saving.load_model(file, compile=False)
    fresh, again, other = (build(file, train, 5, seed=seed) for seed in (3, 3, 4))
    assert architecture_sha256(fresh) == architecture_sha256(stored)
    assert weights_sha256(fresh) == weights_sha256(again) != weights_sha256(other)
    assert weights_sha256(fresh) != weights_sha256(stored)
    masked, same = (np.asarray(it(train.images, training=True)) for it in (fresh, again))
    assert np.array_equal(masked, same)
    kept = build(file, train, 5, seed=3, keeps_weights=True)
    assert weights_sha256(kept) == weights_sha256(stored)


@pytest.mark.parametrize(
    ("name", "first"),
    [
        ("MobileNetV3Small", 1.0),
        pytest.param("MobileNetV2", 1 / 127.5, marks=pytest.mark.slow),
    ],
)
def test_an_application_takes_pixels_and_gives_logits(name: str, first: float) -> None:
    network = untrained(f"applications:{name}", (32, 32, 3), 5)
    assert (network.input_shape, network.output_shape) == ((None, 32, 32, 3), (None, 5))
    assert network.inputs[0].dtype == "uint8"
    assert network.get_layer("pixels").scale == first
    rescaled = keras.Model(
        network.inputs[0], network.get_layer("Conv1" if first != 1 else "conv").input
    )
    white, black = (np.asarray(rescaled(np.full((1, 32, 32, 3), v, np.uint8))) for v in (255, 0))
    np.testing.assert_allclose([white.max(), black.min()], [1, -1], atol=1e-6)
    assert np.abs(np.asarray(network(np.full((1, 32, 32, 3), 9, np.uint8))).sum() - 1) > 1e-3


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "{nets}:one_too_many",
            r"with 5 outputs, one per class, from .*, got the output shape \(6",
        ),
        ("{nets}:ends_in_sigmoids", "that ends in logits from nets.py:ends_in.*, got sigmoids"),
        ("{nets}:half", "expected layers of float32 or bfloat16 from .*, got float16 in of_half;"),
        ("{nets}:nothing", "expected a Keras model from nets.py:nothing, got a NoneType"),
        ("{nets}:fails", "to run without an error, got RuntimeError: no such width"),
        ("{nets}:absent", "expected a function absent in .*nets.py, got none"),
        ("{nets}:here", "expected a function here in .*nets.py, got none"),
        ("{nets}:without_weights", "expected a network that takes images of shape"),
        ("{nets}:own_layer", "expected a network of Keras' own layers from nets.py:own_layer, got"),
        ("applications:MobileNetV9", "expected one of .*MobileNetV2.* got 'MobileNetV9'"),
        ("applications:VGG16", r"VGG16: expected images that it takes, got \(8, 8, 3\)"),
        ("nowhere.keras", "expected an existing file, .*nowhere.keras, got 'nowhere.keras'"),
    ],
)
def test_what_is_no_student_of_these_images_is_refused_in_one_line(
    name: str, message: str, nets: str
) -> None:
    with pytest.raises(KdflowError, match=message) as refused:
        check_fit(name.format(nets=nets), SHAPE, 5)
    assert "\n" not in str(refused.value)


def test_a_file_with_an_error_is_named(tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text("import nothing_of_this_name\n")
    with pytest.raises(KdflowError, match=r"broken.py to run without an error, got ModuleNotFound"):
        check_fit(f"{tmp_path}/broken.py:small", SHAPE, 5)


def test_a_file_may_import_what_lies_beside_it(tmp_path: Path, nets: str) -> None:
    shutil.copy(nets, tmp_path / "blocks_beside.py")
    (tmp_path / "uses.py").write_text("from blocks_beside import small\n")
    assert untrained(f"{tmp_path}/uses.py:small", SHAPE, 5).output_shape == (None, 5)


def test_files_in_two_folders_may_import_other_modules_of_one_name(tmp_path: Path) -> None:
    sizes = []
    for width in (4, 5):
        folder = tmp_path / f"v{width}"
        folder.mkdir()
        (folder / "blocks.py").write_text(f"WIDTH = {width}\n{FUNCTIONS}")
        (folder / "nets.py").write_text(
            "import blocks\n\n"
            "def mine(shape, classes):\n    return blocks.small(shape, classes, blocks.WIDTH)\n"
        )
        network = untrained(f"{folder}/nets.py:mine", SHAPE, 5)
        sizes.append(network.layers[2].filters)
    assert sizes == [4, 5]


def test_grey_images_are_refused_by_an_application() -> None:
    with pytest.raises(
        KdflowError, match=r"^MobileNetV2: expected images of 3 channels, .* got 1$"
    ):
        check_fit("applications:MobileNetV2", (32, 32, 1), 5)


def test_dropout_and_kept_weights_are_for_networks_that_have_them(nets: str) -> None:
    with pytest.raises(KdflowError, match=r"dropout=0, as none is added to your own, got 0.1"):
        check_fit(f"{nets}:small", SHAPE, 5, 0.1)
    for name in (f"{nets}:small", "student"):
        with pytest.raises(KdflowError, match=r"expected initial_weights=fresh, as only a .keras"):
            check_fit(name, SHAPE, 5, keeps_weights=True)


def test_what_a_layer_has_adapted_to_is_part_of_the_identity(tmp_path: Path) -> None:
    def identity_of(scale: float) -> str:
        images = keras.Input(SHAPE)
        adapted = keras.layers.Normalization(axis=None, name="normalised")
        adapted.adapt(scale * np.arange(9))
        x = keras.layers.Flatten(name="flat")(adapted(images))
        network = keras.Model(images, keras.layers.Dense(5, name="logits")(x), name="it")
        network.save(tmp_path / f"{scale}.keras")
        return identity(str(tmp_path / f"{scale}.keras"), SHAPE, 5, keeps_weights=False)

    assert identity_of(1) != identity_of(100)


def test_the_identity_is_of_what_is_trained_and_not_of_the_files_name(
    nets: str, file: str, tmp_path: Path
) -> None:
    def of(name: str, kept: bool = False) -> str:
        return identity(name, SHAPE, 5, keeps_weights=kept)

    small = of(f"{nets}:small")
    shutil.copy(nets, tmp_path / "other_name.py")
    shutil.copy(file, tmp_path / "renamed.keras")
    assert of(f"{tmp_path}/other_name.py:small") == small
    assert of(f"{tmp_path}/renamed.keras") == of(file)
    # the layers, the rate of a dropout, and weights that a function sets
    different = {of(f"{nets}:{name}") for name in ("wide", "dropped", "pretrained")}
    assert len(different | {small, of(file), of(file, kept=True)}) == 6


def test_an_edited_file_is_read_again(nets: str) -> None:
    before = identity(f"{nets}:small", SHAPE, 5, keeps_weights=False)
    text = FUNCTIONS.replace("width=4", "width=6")
    Path(nets).write_text(text)
    os.utime(nets, ns=(1, 1))
    assert identity(f"{nets}:small", SHAPE, 5, keeps_weights=False) != before
