import errno
import os
import shutil
import struct
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from kdflow.catalogue.datasets import find_dataset
from kdflow.catalogue.datasets.stored import NewDataset
from kdflow.dataset import ARRAYS, Dataset
from kdflow.errors import KdflowError
from kdflow.image_file import ImageFile

pytestmark = pytest.mark.usefixtures("cache")

Arrays = dict[str, np.ndarray]


def load(name: str) -> Dataset:
    record = find_dataset(name)
    assert record
    return record.load(name)


def test_a_users_arrays_are_taken_as_they_are(tiny: Dataset, tiny_npz: Path) -> None:
    own = load(str(tiny_npz))
    for name in ARRAYS:
        assert np.array_equal(getattr(own, name)[:], getattr(tiny, name))
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
    with pytest.raises(KdflowError, match=r"got none \(missing: x_train, y_train, x_test, y_test"):
        load(str(tmp_path / "stranger.npz"))
    np.save(tmp_path / "one.npy", np.arange(3))
    (tmp_path / "one.npy").rename(tmp_path / "one.npz")
    with pytest.raises(KdflowError, match=r"one\.npz: File is not a zip file"):
        load(str(tmp_path / "one.npz"))


def test_what_is_no_regular_file_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "endless.npz"
    os.mkfifo(path)
    with pytest.raises(KdflowError, match=r"endless.npz: not a regular file"):
        load(str(path))


def npy(descr: str, shape: str, content: bytes) -> bytes:
    """A .npy file with any header."""
    header = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}".encode()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + content


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x_train", npy("|u1", f"({2**50},)", b""), rf"takes {2**50 + 82} bytes, the file has 82"),
        ("x_train", npy("|u1", "(60, 8, 8, 3)", b"12"), r"takes \d+ bytes, the file has \d+"),
        ("y_test", npy("|O", "(30,)", b"12345678" * 30), "objects, which only pickle can read"),
        ("y_test", b"\x93NUMPY\x09\x00", "expected an array of format 1.0 or 2.0"),
        ("y_test", b"", "EOF: reading magic string"),
    ],
)
def test_an_array_of_another_size_than_its_header_says_is_refused_before_it_is_read(
    tiny: Dataset, tmp_path: Path, cache: Path, name: str, content: bytes, message: str
) -> None:
    np.savez(tmp_path / "whole.npz", **{array: getattr(tiny, array) for array in ARRAYS})
    with (
        zipfile.ZipFile(tmp_path / "whole.npz") as whole,
        zipfile.ZipFile(tmp_path / "forged.npz", "w") as forged,
    ):
        for member in whole.namelist():
            is_forged = member == f"{name}.npy"
            forged.writestr(member, content if is_forged else whole.read(member))
    with pytest.raises(KdflowError, match=rf"^dataset: expected .*forged.npz: .*{message}"):
        load(str(tmp_path / "forged.npz"))
    assert [file for file in (cache / "datasets").iterdir() if file.suffix != ".lock"] == []


def test_an_archive_with_a_password_is_refused(tiny_npz: Path) -> None:
    with zipfile.ZipFile(tiny_npz, "a") as archive:
        for member in archive.filelist:
            member.flag_bits |= 1
        archive.writestr("also.txt", "so that the directory is written again")
    with pytest.raises(KdflowError, match=r"tiny.npz: .*(password|encrypted)"):
        load(str(tiny_npz))


def test_only_the_arrays_that_are_used_are_unpacked(tiny: Dataset, tiny_npz: Path) -> None:
    with zipfile.ZipFile(tiny_npz, "a") as archive:
        archive.writestr("huge.npy", npy("|u1", f"({2**50},)", b""))
    assert load(str(tiny_npz)).digest == tiny.digest


def test_images_are_read_from_the_cache_and_a_changed_file_is_unpacked_again(
    tiny: Dataset, tiny_npz: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = load(str(tiny_npz))
    assert type(first.x_train) is ImageFile
    with monkeypatch.context() as patch:
        patch.setattr(zipfile, "ZipFile", lambda *_: pytest.fail("it is unpacked already"))
        again = load(str(tiny_npz))
    assert again.digest == first.digest == tiny.digest
    assert np.array_equal(again.x_test[:], tiny.x_test)
    changed = {name: getattr(tiny, name) for name in ARRAYS} | {"x_test": 255 - tiny.x_test}
    np.savez(tiny_npz, **changed)
    assert np.array_equal(load(str(tiny_npz)).x_test[:], changed["x_test"])
    assert load(str(tiny_npz)).digest == replace(tiny, x_test=changed["x_test"]).digest


def test_class_names_are_taken_and_are_numbers_where_there_are_none(
    tiny: Dataset, tiny_npz: Path
) -> None:
    assert load(str(tiny_npz)).class_names == ("0", "1", "2")
    arrays = {name: getattr(tiny, name) for name in ARRAYS}
    np.savez(tiny_npz, **arrays, class_names=np.array(["oak", "elm", "ash"]))
    assert load(str(tiny_npz)).class_names == ("oak", "elm", "ash")
    np.savez(tiny_npz, **arrays, class_names=np.array(["oak", "elm"]))
    with pytest.raises(KdflowError, match=r"expected class_names as 3 strings, .* got <U3 \(2,\)"):
        load(str(tiny_npz))
    np.savez(tiny_npz, **arrays, class_names=np.array(["oak", "elm", "oak"]))
    with pytest.raises(KdflowError, match="expected 3 different class_names"):
        load(str(tiny_npz))


def test_medmnists_names_and_label_columns_are_read_and_its_validation_is_not(
    tiny: Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "medical.npz"
    np.savez(
        path,
        train_images=tiny.x_train,
        train_labels=tiny.y_train[:, np.newaxis],
        val_images=tiny.x_test[:3],
        val_labels=tiny.y_test[:3, np.newaxis],
        test_images=tiny.x_test,
        test_labels=tiny.y_test[:, np.newaxis],
    )
    assert load(str(path)).digest == tiny.digest
    assert "val_images, val_labels of" in capsys.readouterr().out


def test_arrays_that_are_not_read_are_named(
    tiny: Dataset, tiny_npz: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arrays = {name: getattr(tiny, name) for name in ARRAYS}
    np.savez(tiny_npz, **arrays, x_val=tiny.x_test[:3], y_val=tiny.y_test[:3])
    assert load(str(tiny_npz)).digest == tiny.digest
    assert f"x_val, y_val of {tiny_npz}: not used" in capsys.readouterr().out


def test_images_in_pytorchs_order_are_refused_with_the_way_to_turn_them(
    tiny: Dataset, tmp_path: Path
) -> None:
    arrays = {name: getattr(tiny, name) for name in ARRAYS}
    arrays["x_train"] = tiny.x_train.transpose(0, 3, 1, 2)
    np.savez(tmp_path / "torch.npz", **arrays)
    message = (
        r"got \(60, 3, 8, 8\), which is PyTorch's order .* save x_train.transpose\(0, 2, 3, 1\)"
    )
    with pytest.raises(KdflowError, match=message):
        load(str(tmp_path / "torch.npz"))


def test_arrays_in_fortrans_order_and_compressed_ones_are_the_same_images(
    tiny: Dataset, tmp_path: Path
) -> None:
    arrays = {name: np.asfortranarray(getattr(tiny, name)) for name in ARRAYS}
    np.savez_compressed(tmp_path / "fortran.npz", **arrays)  # type: ignore[arg-type]
    assert load(str(tmp_path / "fortran.npz")).digest == tiny.digest


def test_a_disk_with_too_little_room_is_refused_before_anything_is_unpacked(
    tiny_npz: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage("/")._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(KdflowError, match=r"^expected 0.0 MB of room in .* got 0.0 MB;"):
        load(str(tiny_npz))
    assert [file for file in (cache / "datasets").iterdir() if file.suffix != ".lock"] == []


def test_a_cache_that_is_full_is_no_fault_of_the_file(
    tiny_npz: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write(*_: object) -> None:
        raise OSError(errno.EDQUOT, "Disk quota exceeded")

    monkeypatch.setattr(NewDataset, "write", write)
    with pytest.raises(KdflowError, match=r"^cache: expected a folder with room.*KDFLOW_CACHE"):
        load(str(tiny_npz))
