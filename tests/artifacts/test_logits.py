import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kdflow.artifacts import logits
from kdflow.artifacts.manifest import Manifest
from kdflow.config.views import Views
from kdflow.dataset import Dataset, sha256
from kdflow.errors import KdflowError, UnfitError, UnreachableError
from kdflow.evaluate.metrics import accuracy


def write(folder: Path, train: np.ndarray, test: np.ndarray, dataset: Dataset) -> Manifest:
    return logits.write(folder, train, test, dataset, teacher="abc", network="vgg", holdout=0.1)


def perfect(dataset: Dataset, split: str) -> np.ndarray:
    """The logits of a teacher that is always right: (1, images, classes)."""
    labels = getattr(dataset, f"y_{split}")
    return 9 * np.eye(dataset.classes, dtype=np.float32)[np.newaxis, labels]


def made_for(dataset: Dataset, views: int = 2) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(1)
    return (
        rng.normal(size=(views, len(dataset.y_train), 3)).astype(np.float16),
        rng.normal(size=(views, len(dataset.y_test), 3)).astype(np.float16),
    )


@pytest.fixture
def folder(tiny: Dataset, tmp_path: Path) -> Path:
    train, test = made_for(tiny)
    write(tmp_path / "logits", train, test, tiny)
    return tmp_path / "logits"


def edit_manifest(folder: Path, **changes: object) -> None:
    path = folder / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def resave(folder: Path, change: Callable[[np.ndarray], np.ndarray]) -> None:
    """Replace the training logits, with a manifest that vouches for the new ones."""
    path = folder / "train_logits.npy"
    array = change(np.load(path))
    np.save(path, array)
    recorded = json.loads((folder / "manifest.json").read_text())["sha256"]
    edit_manifest(folder, sha256=recorded | {"train": sha256(array)})


def test_what_is_written_is_read_back_as_a_memory_map(folder: Path, tiny: Dataset) -> None:
    read = logits.read(folder, tiny, views=Views(2))
    for stored, made in zip((read.train, read.test), made_for(tiny), strict=True):
        assert isinstance(stored, np.memmap)
        assert np.array_equal(stored, made)
        assert stored.dtype == np.float16


def test_rows_in_another_order_than_the_images_are_refused(tiny: Dataset, tmp_path: Path) -> None:
    in_order = {split: perfect(tiny, split) for split in logits.SPLITS}
    written = write(tmp_path / "right", **in_order, dataset=tiny)
    assert written.accuracy == {"train": 1.0, "test": 1.0}
    for split, found in {
        "train": "training rows in another order: 0 predictions match their labels; a random order"
        " would give about 20, the best order 60 (compared with: 30 of at most 30;",
        "test": "test rows in another order: 0 predictions match their labels; a random order"
        " would give about 10, the best order 30 (compared with: 60 of at most 60;",
    }.items():
        shuffled = np.roll(in_order[split], 1, axis=1)  # the labels of `tiny` go round
        with pytest.raises(
            KdflowError,
            match=f"expected rows in the order of the data set's images, got {re.escape(found)}",
        ):
            write(tmp_path / "wrong", **in_order | {split: shuffled}, dataset=tiny)
    assert not (tmp_path / "wrong").exists()


def test_rows_whose_order_is_certain_are_read_as_they_are(tiny: Dataset, tmp_path: Path) -> None:
    train = np.roll(perfect(tiny, "train"), 1, axis=1)
    folder, test = tmp_path / "logits", perfect(tiny, "test")
    logits.write(folder, train, test, tiny, teacher="a", network="b", in_order=True)
    assert np.array_equal(logits.read(folder, tiny).train, train)


def test_rows_in_another_order_of_two_classes_are_refused(tmp_path: Path) -> None:
    labels, images = np.tile([0, 1], 20), np.zeros((40, 4, 4, 1), np.uint8)
    two = Dataset("two", images, labels, images, labels, ("a", "b"))
    in_order = perfect(two, "train")
    by_class = in_order[:, np.argsort(labels)]
    assert accuracy(by_class[0], labels) == 0.5
    write(tmp_path / "right", in_order, in_order, two)
    with pytest.raises(KdflowError, match="expected rows in the order of the data set's images"):
        write(tmp_path / "wrong", by_class, in_order, two)


def test_rows_of_a_weak_teacher_in_another_order_are_refused(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    labels = np.tile(np.arange(100), 20)
    images = np.zeros((2000, 2, 2, 1), np.uint8)
    many = Dataset("many", images, labels, images, labels, tuple(map(str, range(100))))
    guessed = np.where(rng.random(2000) < 0.3, labels, rng.integers(100, size=2000))
    in_order = np.eye(100, dtype=np.float32)[np.newaxis, guessed] * 9
    assert accuracy(in_order[0], labels) == pytest.approx(0.307, abs=0.03)
    write(tmp_path / "right", in_order, in_order, many)
    shuffled = rng.permutation(in_order, axis=1)
    for train, test in ((shuffled, in_order), (in_order, shuffled)):
        with pytest.raises(KdflowError, match="expected rows in the order of the data set's"):
            write(tmp_path / "wrong", train, test, many)


def test_probabilities_are_refused(tiny: Dataset, tmp_path: Path) -> None:
    train, test = (np.exp(array.astype(np.float32)) for array in made_for(tiny))
    train, test = (array / array.sum(axis=-1, keepdims=True) for array in (train, test))
    with pytest.raises(KdflowError, match="expected raw logits, got probabilities in the train"):
        write(tmp_path / "p", train, test, tiny)


def test_rounded_probabilities_and_sigmoids_are_refused(tiny: Dataset, tmp_path: Path) -> None:
    train, test = (np.abs(np.sin(array.astype(np.float32))) for array in made_for(tiny))
    with pytest.raises(KdflowError, match="got the train logits whose values are all from 0 to 1"):
        write(tmp_path / "p", train, test, tiny)


def test_the_manifest_says_what_the_logits_belong_to(folder: Path, tiny: Dataset) -> None:
    train, test = made_for(tiny)
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["format"] == 1
    assert (manifest["teacher"], manifest["network"], manifest["holdout"]) == ("abc", "vgg", 0.1)
    assert (manifest["dataset"], manifest["dataset_digest"]) == ("tiny", tiny.digest)
    assert manifest["views"] == [[False, 0, 0], [True, 0, 0]]
    assert manifest["class_names"] == ["dark", "mid", "light"]
    assert manifest["dtype"] == "float16"
    assert manifest["accuracy"] == {
        "train": (train[0].argmax(1) == tiny.y_train).mean(),
        "test": (test[0].argmax(1) == tiny.y_test).mean(),
    }


@pytest.mark.parametrize(
    ("train", "test", "got"),
    [
        (np.zeros((60, 3)), np.zeros((30, 3)), r"train images, got float64 \(60, 3\)"),
        (np.zeros((1, 60, 3), "f8"), np.zeros((1, 30, 3), "f8"), "train images, got float64"),
        (-np.ones((1, 60, 3), "f4"), np.zeros((1, 31, 3), "f4"), r"test images, .*\(1, 31, 3\)"),
    ],
)
def test_arrays_of_another_shape_or_type_are_not_written(
    tiny: Dataset, tmp_path: Path, train: np.ndarray, test: np.ndarray, got: str
) -> None:
    with pytest.raises(KdflowError, match=f"^logits: expected float16 or float32 .*{got}"):
        write(tmp_path / "logits", train, test, tiny)
    assert not (tmp_path / "logits").exists()


@pytest.mark.parametrize("views", [0, 163, 200])
def test_only_as_many_views_as_exist_are_written(tiny: Dataset, tmp_path: Path, views: int) -> None:
    train, test = made_for(tiny, views)
    expected = f"^logits: expected 1 to 162 views of the train images, got {views}$"
    with pytest.raises(KdflowError, match=expected):
        write(tmp_path / "logits", train, test, tiny)
    assert not (tmp_path / "logits").exists()


@pytest.mark.parametrize("views", [0, 3])
def test_the_test_images_have_view_0_and_no_more_views_than_the_training_images(
    tiny: Dataset, tmp_path: Path, views: int
) -> None:
    train, _ = made_for(tiny)
    _, test = made_for(tiny, views)
    expected = f"^logits: expected 1 to 2 views of the test images, got {views}$"
    with pytest.raises(KdflowError, match=expected):
        write(tmp_path / "logits", train, test, tiny)
    assert not (tmp_path / "logits").exists()


def test_one_view_of_the_test_images_is_enough(tiny: Dataset, tmp_path: Path) -> None:
    train, test = made_for(tiny)
    write(tmp_path / "logits", train, test[:1], tiny)
    read = logits.read(tmp_path / "logits", tiny, views=Views(2))
    assert np.array_equal(read.train, train)
    assert np.array_equal(read.test, test[:1])


def test_logits_of_all_views_are_written_and_read(tiny: Dataset, tmp_path: Path) -> None:
    train, test = made_for(tiny, 162)
    write(tmp_path / "logits", train, test, tiny)
    read = logits.read(tmp_path / "logits", tiny, views=Views(162))
    assert np.array_equal(read.train, train)
    assert len({tuple(view) for view in read.manifest.views}) == 162


def test_logits_of_two_types_are_not_written(tiny: Dataset, tmp_path: Path) -> None:
    # a manifest has one type for both, so that they could not be read
    train, test = made_for(tiny)
    for mixed in ((train, test.astype("f4")), (train.astype("f4"), test)):
        with pytest.raises(
            KdflowError,
            match=f"^logits: expected one type for both splits, got {mixed[0].dtype} and"
            f" {mixed[1].dtype}$",
        ):
            write(tmp_path / "logits", *mixed, dataset=tiny)
    assert not (tmp_path / "logits").exists()


@pytest.mark.parametrize("split", logits.SPLITS)
def test_lists_are_not_written(tiny: Dataset, tmp_path: Path, split: str) -> None:
    given: dict[str, Any] = dict(zip(logits.SPLITS, made_for(tiny), strict=True))
    given[split] = given[split].tolist()
    with pytest.raises(
        KdflowError, match=f"^logits: expected a NumPy array on the {split} images, got a list$"
    ):
        write(tmp_path / "logits", **given, dataset=tiny)
    assert not (tmp_path / "logits").exists()


def test_logits_that_are_not_finite_are_not_written(tiny: Dataset, tmp_path: Path) -> None:
    train, test = made_for(tiny)
    test[0, 0, 0] = np.nan
    with pytest.raises(KdflowError, match="expected finite values in the test logits, got 1"):
        write(tmp_path / "new", train, test, tiny)
    assert not (tmp_path / "new").exists()


def test_the_manifests_hash_is_that_of_its_file(folder: Path, tiny: Dataset) -> None:
    before = logits.read(folder, tiny).manifest_sha256
    edit_manifest(folder, teacher="xyz")
    assert logits.read(folder, tiny).manifest_sha256 != before


def test_a_folder_with_other_files_is_left_as_it_is(folder: Path, tiny: Dataset) -> None:
    (folder / "photo.png").write_bytes(b"")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    read = logits.read(folder, tiny)
    with pytest.raises(KdflowError, match=r"which holds photo.png; name another folder"):
        write(folder, read.train + 1, read.test, tiny)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_a_folder_of_logits_is_replaced(folder: Path, tiny: Dataset) -> None:
    read = logits.read(folder, tiny)
    train = np.array(read.train) + 1
    write(folder, train, np.array(read.test), tiny)
    assert np.array_equal(logits.read(folder, tiny).train, train)


@pytest.mark.parametrize("holdout", [-0.1, 1, 10])
def test_a_holdout_that_is_no_share_is_refused(
    holdout: float, folder: Path, tiny: Dataset, tmp_path: Path
) -> None:
    read, new = logits.read(folder, tiny), tmp_path / "new"
    with pytest.raises(KdflowError, match=rf"expected a holdout from 0 .* got {holdout}"):
        logits.write(new, read.train, read.test, tiny, teacher="a", network="b", holdout=holdout)
    assert not new.exists()


def test_probabilities_without_a_manifest_have_a_way_out(tmp_path: Path, tiny: Dataset) -> None:
    (tmp_path / "train_probabilities.npy").write_bytes(b"")
    with pytest.raises(KdflowError, match=r"got none; set values=probabilities"):
        logits.read(tmp_path, tiny)


def test_logits_of_other_images_are_refused(folder: Path, tiny: Dataset) -> None:
    other = replace(tiny, x_test=255 - tiny.x_test)
    expected = rf"data set digest {other.digest}\), got those of {tiny.name} \({tiny.digest}\)"
    with pytest.raises(KdflowError, match=expected):
        logits.read(folder, other)


def test_too_few_views_are_refused(folder: Path, tiny: Dataset) -> None:
    with pytest.raises(KdflowError, match="expected the first 3 views of view_set=shifts, got 2 "):
        logits.read(folder, tiny, views=Views(3))


def test_views_of_another_set_are_refused(folder: Path, tiny: Dataset, tmp_path: Path) -> None:
    with pytest.raises(KdflowError, match="the first 2 views of view_set=photos, got 2 of another"):
        logits.read(folder, tiny, views=Views(2, "photos"))
    arrays = made_for(tiny, 162)
    logits.write(
        tmp_path / "photos", *arrays, tiny, teacher="abc", network="vgg", view_set="photos"
    )
    read = logits.read(tmp_path / "photos", tiny, views=Views(162, "photos"))
    assert read.manifest.views[2] == (False, 0.9, 0, 0, "darker")
    with pytest.raises(KdflowError, match="the first 1 views of view_set=shifts, got 162"):
        logits.read(tmp_path / "photos", tiny)


def test_means_over_mirror_images_are_not_taken_for_a_views_own_logits(
    folder: Path, tiny: Dataset, tmp_path: Path
) -> None:
    with pytest.raises(
        KdflowError, match="expected averaged=true, as in this run, got averaged=false"
    ):
        logits.read(folder, tiny, averaged=True)
    arrays = made_for(tiny)
    logits.write(tmp_path / "means", *arrays, tiny, teacher="abc", network="vgg", averaged=True)
    assert logits.read(tmp_path / "means", tiny, averaged=True).manifest.averaged
    with pytest.raises(
        KdflowError, match="expected averaged=false, as in this run, got averaged=true"
    ):
        logits.read(tmp_path / "means", tiny)


def test_a_changed_byte_is_refused(folder: Path, tiny: Dataset) -> None:
    path = folder / "test_logits.npy"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(KdflowError, match=r"SHA-256 of test_logits\.npy: expected"):
        logits.read(folder, tiny)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda a: a[:, :-1],
            r"shape of train_logits.npy: expected \(2, 60, 3\), got \(2, 59, 3\)",
        ),
        (
            lambda a: a.astype(np.float32),
            "dtype of train_logits.npy: expected float16, got float32",
        ),
        (
            lambda a: np.where(a == a.max(), np.nan, a),
            "expected finite values in train_logits.npy, got 1",
        ),
        (
            lambda a: np.where(a == a.max(), np.inf, a),
            "expected finite values in train_logits.npy, got 1",
        ),
        (
            lambda a: np.full_like(a, 1 / 3),
            "expected raw logits, got probabilities in train_logits.npy",
        ),
        (lambda a: -a, "accuracy of train_logits.npy: expected"),
    ],
    ids=["shape", "dtype", "nan", "inf", "probabilities", "accuracy"],
)
def test_unfit_arrays_are_refused_whatever_their_hash(
    folder: Path, tiny: Dataset, change: Callable[[np.ndarray], np.ndarray], message: str
) -> None:
    resave(folder, change)
    with pytest.raises(KdflowError, match=message):
        logits.read(folder, tiny)


def test_pickled_logits_are_never_unpickled(folder: Path, tiny: Dataset) -> None:
    np.save(folder / "train_logits.npy", np.array([print], dtype=object), allow_pickle=True)
    with pytest.raises(KdflowError, match=r"expected an array in train_logits\.npy"):
        logits.read(folder, tiny)


@pytest.mark.parametrize("name", ["train_logits.npy", "test_logits.npy", "manifest.json"])
def test_a_missing_file_is_named(folder: Path, tiny: Dataset, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(UnfitError, match=name):
        logits.read(folder, tiny)


@pytest.mark.parametrize("name", ["train_logits.npy", "test_logits.npy", "manifest.json"])
def test_a_file_that_cannot_be_read_is_not_called_damaged(
    folder: Path, tiny: Dataset, name: str
) -> None:
    # nothing is known of it, so nothing is made again in its place
    (folder / name).unlink()
    (folder / name).mkdir()
    with pytest.raises(UnreachableError, match=f"{name} cannot be read"):
        logits.read(folder, tiny)


def test_the_digest_is_of_what_a_student_learns_from(tiny: Dataset, tmp_path: Path) -> None:
    def digest_of(train: np.ndarray, test: np.ndarray, views: int) -> str:
        write(tmp_path, train, test, tiny)
        return logits.digest(logits.read(tmp_path, tiny), views)

    train, test = made_for(tiny, 3)
    of_two = digest_of(train, test, 2)
    assert digest_of(train[:2], test[:2], 2) == of_two  # a larger export serves as well
    assert digest_of(train, test, 3) != of_two
    for changed in (train, test):
        before = changed.copy()
        changed[0, 0] = changed[0, 0][::-1]
        assert digest_of(train, test, 2) != of_two
        changed[:] = before
    train[2] = -train[2]  # a view that the student does not see
    test[1:] = -test[1:]
    assert digest_of(train, test, 2) == of_two


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": 2}, "manifest.json: format"),
        ({"sha256": {}}, "SHA-256 of train_logits.npy: expected None"),
        ({"accuracy": {}}, "accuracy of train_logits.npy: expected None"),
        (
            {"accuracy": {"train": float("nan"), "test": 0}},
            "accuracy of train_logits.npy: expected nan",
        ),
        ({"class_names": ["a", "b", "c"]}, "class names: expected"),
        ({"temperature": 4}, "manifest.json: temperature"),
    ],
)
def test_a_manifest_that_does_not_fit_is_refused(
    folder: Path, tiny: Dataset, changes: dict[str, object], message: str
) -> None:
    edit_manifest(folder, **changes)
    with pytest.raises(KdflowError, match=message):
        logits.read(folder, tiny)


def test_a_manifest_that_is_no_text_is_refused(folder: Path, tiny: Dataset) -> None:
    (folder / "manifest.json").write_bytes(b"\xff\xfe{}")
    with pytest.raises(KdflowError, match=r"expected text in manifest.json, .*can't decode"):
        logits.read(folder, tiny)


def test_a_manifest_that_is_no_json_is_refused(folder: Path, tiny: Dataset) -> None:
    (folder / "manifest.json").write_text("{")
    with pytest.raises(KdflowError, match=r"manifest\.json"):
        logits.read(folder, tiny)
