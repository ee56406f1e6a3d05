import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from kdflow.catalogue.datasets import find_dataset
from kdflow.dataset import ARRAYS, Dataset
from kdflow.errors import KdflowError

Arrays = dict[str, np.ndarray]


def load(name: str) -> Dataset:
    record = find_dataset(name)
    assert record
    return record.load(name)


def test_a_users_arrays_are_taken_as_they_are(tiny: Dataset, tiny_npz: Path) -> None:
    own = load(str(tiny_npz))
    for name in ARRAYS:
        assert np.array_equal(getattr(own, name), getattr(tiny, name))
    assert (own.classes, own.image_shape) == (3, (8, 8, 3))
    assert own.digest == tiny.digest


def test_grey_images_and_columns_of_labels_are_understood(tiny: Dataset, tmp_path: Path) -> None:
    path = tmp_path / "grey.npz"
    np.savez(
        path,
        x_train=tiny.x_train[..., 0],
        y_train=tiny.y_train.astype(np.int64)[:, None],
        x_test=tiny.x_test[..., 0],
        y_test=tiny.y_test,
    )
    grey = load(str(path))
    assert grey.image_shape == (8, 8, 1)
    assert np.array_equal(grey.y_train, tiny.y_train)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a: a.pop("y_test"), r"got x_train, y_train, x_test \(missing: y_test\)"),
        (lambda a: a.update(x_train=a["x_train"] / 255), r"x_train as uint8 images .* got float64"),
        (
            lambda a: a.update(x_train=a["x_train"][0, 0]),
            r"x_train as uint8 images .* got uint8 \(8, 3\)",
        ),
        (lambda a: a.update(x_test=a["x_test"][:, :4]), "images of one shape, got"),
        (
            lambda a: a.update(y_train=a["y_train"] / 1),
            r"y_train as 60 integers.*got float64 \(60,\)",
        ),
        (lambda a: a.update(y_train=a["y_train"][:9]), r"y_train as 60 integers.*got uint8 \(9,\)"),
        (
            lambda a: a.update(y_train=a["y_train"].astype(int) - 1),
            "labels of 0 or more in y_train, got -1",
        ),
        (lambda a: a.update(y_test=a["y_test"] + 1), "got the label 3 where 3 classes"),
        (lambda a: a.update(y_train=a["y_train"] * 2), "got the label 4 where 3 classes"),
        (
            lambda a: a.update(y_train=a["y_train"] * 0, y_test=a["y_test"] * 0),
            "got a single class",
        ),
        (lambda a: a["y_train"].put(0, 255), "got the label 255 where 4 classes"),
        (lambda a: a.update(x_train=np.array([{}], dtype=object)), "an .npz file of plain arrays"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_users_unfit_arrays_are_refused(
    tiny: Dataset, tmp_path: Path, change: Callable[[Arrays], object], message: str
) -> None:
    arrays = {name: getattr(tiny, name) for name in ARRAYS}
    change(arrays)
    np.savez(tmp_path / "own.npz", **arrays)
    with pytest.raises(KdflowError, match=f"^dataset: expected .*{message}"):
        load(str(tmp_path / "own.npz"))


def test_a_file_that_is_missing_or_no_npz_is_refused(tmp_path: Path) -> None:
    with pytest.raises(KdflowError, match=r"nowhere.npz: \[Errno 2\] No such file"):
        load(str(tmp_path / "nowhere.npz"))
    with pytest.raises(KdflowError, match="File name too long"):
        load("x" * 300 + ".npz")
    (tmp_path / "text.npz").write_text("not a zip file")
    with pytest.raises(KdflowError, match=r"an \.npz file of plain arrays"):
        load(str(tmp_path / "text.npz"))
    with zipfile.ZipFile(tmp_path / "stranger.npz", "w") as archive:
        archive.writestr("x_train", b"no array")
    with pytest.raises(KdflowError, match="something in it is no array"):
        load(str(tmp_path / "stranger.npz"))
    with zipfile.ZipFile(tmp_path / "forged.npz", "w") as archive:
        header = b"{'descr': '|u1', 'fortran_order': False, 'shape': (%d,), }" % 2**50
        archive.writestr(
            "x_train.npy", b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header
        )
    with pytest.raises(KdflowError, match=r"forged.npz: .*allocate"):
        load(str(tmp_path / "forged.npz"))
    with zipfile.ZipFile(tmp_path / "locked.npz", "w") as archive:
        archive.writestr("x_train.npy", b"")
        archive.filelist[0].flag_bits |= 1  # says that a password is needed
    with pytest.raises(KdflowError, match=r"locked.npz: .*password"):
        load(str(tmp_path / "locked.npz"))
    np.save(tmp_path / "one.npy", np.arange(3))
    (tmp_path / "one.npy").rename(tmp_path / "one.npz")
    with pytest.raises(KdflowError, match="a single array"):
        load(str(tmp_path / "one.npz"))
