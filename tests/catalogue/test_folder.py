import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import ROOT
from PIL import Image

from kdflow.catalogue.datasets import find_dataset, folder
from kdflow.dataset import Dataset
from kdflow.errors import KdflowError
from kdflow.image_file import ImageFile

pytestmark = pytest.mark.usefixtures("cache")

CLASSES = ("ash", "elm", "oak")


def load(path: Path, **options: Any) -> Dataset:
    record = find_dataset(str(path))
    assert record
    return record.load(str(path), **options)


def add_photos(root: Path, count: int, *, seed: int = 0, size: tuple[int, int] = (6, 5)) -> None:
    """`count` photos of each class, none twice, whose red says the class."""
    rng = np.random.default_rng(seed)
    for label, name in enumerate(CLASSES):
        (root / name).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            pixels = rng.integers(0, 256, (*size, 3), np.uint8)
            pixels[..., 0] = 100 * label
            Image.fromarray(pixels).save(root / name / f"{seed}-{number}.png")


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Ten photos in each of three folders."""
    add_photos(tmp_path / "photos", 10)
    return tmp_path / "photos"


@pytest.fixture
def split_photos(tmp_path: Path) -> Path:
    """Four photos of each class for training, two for testing."""
    add_photos(tmp_path / "parted" / "train", 4)
    add_photos(tmp_path / "parted" / "test", 2, seed=1)
    return tmp_path / "parted"


def decoded(root: Path) -> np.ndarray:
    """All photos below a folder, sorted by class and name."""
    files = sorted(root.glob("*/*"))
    return np.stack([np.asarray(Image.open(file).convert("RGB")) for file in files])


def stored(cache: Path) -> list[str]:
    return sorted(p.name for p in (cache / "datasets").iterdir() if p.suffix != ".lock")


# --- what is read -------------------------------------------------------------------------------


def test_train_and_test_folders_are_the_splits(split_photos: Path) -> None:
    own = load(split_photos)
    assert np.array_equal(own.x_train[:], decoded(split_photos / "train"))
    assert np.array_equal(own.x_test[:], decoded(split_photos / "test"))
    assert own.y_train.tolist() == np.repeat([0, 1, 2], 4).tolist()
    assert own.y_test.tolist() == np.repeat([0, 1, 2], 2).tolist()
    assert own.class_names == CLASSES
    assert own.image_shape == (6, 5, 3)
    assert type(own.x_train) is ImageFile


def test_val_serves_as_test_and_is_not_used_beside_one(
    split_photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    expected = load(split_photos).digest
    (split_photos / "test").rename(split_photos / "val")
    assert load(split_photos).digest == expected
    shutil.copytree(split_photos / "val", split_photos / "test")
    (split_photos / "val" / "ash" / "1-0.png").unlink()
    capsys.readouterr()
    assert load(split_photos).digest == expected
    assert "parted/val is not used" in capsys.readouterr().out


def test_one_level_is_split_by_class_always_in_the_same_way(photos: Path) -> None:
    own = load(photos)
    assert np.bincount(own.y_train).tolist() == [8, 8, 8]
    assert np.bincount(own.y_test).tolist() == [2, 2, 2]
    for images, labels in ((own.x_train, own.y_train), (own.x_test, own.y_test)):
        assert (images[:][..., 0] == 100 * labels[:, None, None]).all()
    both = np.concatenate([own.x_train[:], own.x_test[:]])
    assert {image.tobytes() for image in both} == {i.tobytes() for i in decoded(photos)}
    np.random.seed(1)
    assert load(photos).digest == own.digest
    larger = load(photos, test_share=0.4)
    assert np.bincount(larger.y_test).tolist() == [4, 4, 4]


def test_classes_called_train_and_test_are_classes_where_there_are_others(photos: Path) -> None:
    (photos / "ash").rename(photos / "train")
    (photos / "elm").rename(photos / "test")
    assert load(photos).class_names == ("oak", "test", "train")


def test_hidden_files_and_files_beside_the_class_folders_are_not_read(
    photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    expected = load(photos).digest
    (photos / ".hidden").mkdir()
    (photos / "ash" / ".DS_Store").write_bytes(b"hidden")
    (photos / "README.txt").write_text("notes")
    assert load(photos).digest == expected
    assert "photos, not used: 1\n" in capsys.readouterr().out


def test_links_to_files_are_followed(photos: Path, tmp_path: Path) -> None:
    expected = load(photos).digest
    linked = tmp_path / "linked"
    for file in photos.glob("*/*"):
        (linked / file.parent.name).mkdir(parents=True, exist_ok=True)
        (linked / file.parent.name / file.name).symlink_to(file)
    assert load(linked).digest == expected


def test_photos_of_many_sizes_are_resized_to_a_square(photos: Path) -> None:
    add_photos(photos, 3, seed=1, size=(9, 14))
    own = load(photos, image_size=4)
    assert own.image_shape == (4, 4, 3)
    assert len(own.x_train) + len(own.x_test) == 3 * 13
    with pytest.raises(
        KdflowError,
        match=r"^image_size: expected .* 2 sizes, from 5x6 to 14x9, got 0 .*image_size=96",
    ):
        load(photos)


def test_photos_in_both_splits_are_counted_every_time(
    split_photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    load(split_photos)
    assert "too high" not in capsys.readouterr().out
    shutil.copy(split_photos / "train/ash/0-0.png", split_photos / "test/ash/again.png")
    for _ in range(2):
        load(split_photos)
        assert (
            "1 of 7 test images are byte for byte the same as training images"
            in capsys.readouterr().out
        )


# --- what is refused ----------------------------------------------------------------------------


def emptied(path: Path) -> Path:
    shutil.rmtree(path)
    path.mkdir()
    return path


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda p: p.rename(p / ".." / "gone"),
            r"expected a folder of class folders, got \S+photos: nothing of that name",
        ),
        (emptied, "two or more class folders in .*, got none"),
        (lambda p: [(p / name).rename(p / f".{name}") for name in CLASSES[1:]], "got one, 'ash'"),
        (lambda p: emptied(p / "elm"), "expected images in every class folder, got none in .*elm"),
        (lambda p: (p / "ash" / "notes.txt").write_text("x"), r"got \S+notes.txt: not a JPEG, PNG"),
        (
            lambda p: (p / "ash" / "deeper").mkdir(),
            "only image files in .*ash, got the folder deeper",
        ),
        (lambda p: os.mkfifo(p / "ash" / "pipe"), "got .*ash/pipe, which is not a regular file"),
        (
            lambda p: (p / "ash" / "led").symlink_to("nowhere"),
            "ash/led, which is not a regular file",
        ),
        (
            lambda p: [file.unlink() for file in (p / "elm").glob("*[1-9].png")],
            "two or more images in every class folder, .* got 1 in elm",
        ),
    ],
)
def test_an_unfit_folder_is_refused_in_one_line_and_nothing_is_kept(
    photos: Path, cache: Path, change: Callable[[Path], object], message: str
) -> None:
    change(photos)
    with pytest.raises(KdflowError, match=message) as refused:
        folder.load_folder(f"{photos}/")
    assert "\n" not in str(refused.value)
    assert not (cache / "datasets").exists() or stored(cache) == []


def test_a_name_that_is_no_utf_8_is_refused(photos: Path) -> None:
    os.rename(os.fsencode(photos / "ash"), os.fsencode(photos / "ash") + b"\xe9")  # noqa: PTH104
    with pytest.raises(KdflowError, match=r"names are UTF-8 in \S+, got b'ash\\xe9'"):
        folder.load_folder(f"{photos}/")


@pytest.mark.parametrize(("share", "words"), [(0.8, "train on"), (0.1, "test on")])
def test_a_split_that_leaves_nothing_of_a_class_is_refused(
    photos: Path, share: float, words: str
) -> None:
    for file in (photos / "elm").glob("*[2-9].png"):  # two are left
        file.unlink()
    with pytest.raises(KdflowError, match=rf"got {share} \(none of elm to {words}\)"):
        folder.load_folder(f"{photos}/", test_share=share)


def test_a_split_without_class_folders_is_refused(split_photos: Path) -> None:
    emptied(split_photos / "test")
    with pytest.raises(KdflowError, match=r"the same class folders .* got 'ash' in train alone"):
        load(split_photos)


@pytest.mark.parametrize("split", ["train", "test"])
def test_a_class_of_one_split_alone_is_refused(split_photos: Path, split: str) -> None:
    (split_photos / split / "yew").mkdir()
    shutil.copy(split_photos / "train/ash/0-0.png", split_photos / split / "yew")
    with pytest.raises(KdflowError, match=rf"the same class folders .* got 'yew' in {split} alone"):
        load(split_photos)


def test_train_alone_needs_something_to_test_on(split_photos: Path) -> None:
    shutil.rmtree(split_photos / "test")
    with pytest.raises(KdflowError, match=r"got one, 'train' \(beside train/, a test/ or val/"):
        load(split_photos)


def test_a_test_share_has_no_use_where_there_are_test_images(split_photos: Path) -> None:
    with pytest.raises(KdflowError, match=r"^test_share: expected no value, .* got 0.3"):
        load(split_photos, test_share=0.3)


def test_with_skip_bad_it_is_as_if_the_bad_files_were_not_there(
    photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    expected = load(photos).digest
    (photos / "ash" / "notes.txt").write_text("x")
    (photos / "ash" / "deeper").mkdir()
    whole = (photos / "elm" / "0-0.png").read_bytes()
    (photos / "elm" / "half.png").write_bytes(whole[:100])
    assert load(photos, skip_bad=True).digest == expected
    assert "skipped files that are not images: 3\n" in capsys.readouterr().out
    for file in (photos / "oak").iterdir():
        file.write_bytes(b"no image any more")
    with pytest.raises(KdflowError, match=r"in every class folder, got none in .*oak"):
        load(photos, skip_bad=True)


# --- the cache ----------------------------------------------------------------------------------


def test_photos_are_decoded_once_and_a_changed_one_gives_another_digest(
    photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = load(photos)
    with monkeypatch.context() as patch:
        patch.setattr(folder, "pixels_of", lambda *_: pytest.fail("they are decoded already"))
        assert load(photos).digest == first.digest
    file = photos / "ash" / "0-3.png"
    times = file.stat()
    pixels = np.asarray(Image.open(file)).copy()
    pixels[0, 0, 1] ^= 1
    Image.fromarray(pixels).save(file)
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))  # as if it had not been changed
    changed = load(photos)
    assert changed.digest != first.digest
    both = np.concatenate([changed.x_train[:], changed.x_test[:]])
    assert (both == pixels).all(axis=(1, 2, 3)).sum() == 1


def test_the_digest_is_that_of_the_pixels_wherever_they_are_from(
    photos: Path, tmp_path: Path
) -> None:
    own = load(photos)
    arrays = {name: getattr(own, name)[:] for name in ("x_train", "y_train", "x_test", "y_test")}
    assert Dataset("in memory", **arrays, class_names=CLASSES).digest == own.digest
    shutil.copytree(photos, tmp_path / "elsewhere")
    assert load(tmp_path / "elsewhere").digest == own.digest


def test_a_changed_cache_is_written_again(
    photos: Path, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = load(photos)
    array = first.x_train.path
    pixels = first.x_train[:]
    array.write_bytes(array.read_bytes()[:-1] + b"\0")
    assert np.array_equal(load(photos).x_train[:], pixels)
    assert "has changed since it was written" in capsys.readouterr().out
    (array.parent / "manifest.json").write_text("{}")
    assert load(photos).digest == first.digest
    assert stored(cache) == [array.parent.name]


def test_too_little_room_is_refused_before_a_photo_is_decoded(
    photos: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage("/")._replace(free=30 * 32 * 32 * 3 - 1)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    monkeypatch.setattr(folder, "pixels_of", lambda *_: pytest.fail("nothing is to be decoded"))
    with pytest.raises(KdflowError, match=r"^expected 0.1 MB of room in .* 32x32 pixels, "):
        load(photos, image_size=32)
    assert stored(cache) == []


IMPORT = r"""if True:
    import sys, threading, time
    from kdflow.catalogue.datasets import folder, photo
    left = threading.Semaphore(int(sys.argv[2]))  # how many are decoded before it hangs
    def slow(*given):
        left.acquire()
        time.sleep(0.1)
        sys.stdout.write("decoding\n")
        sys.stdout.flush()
        return photo.pixels_of(*given)
    folder.pixels_of = slow
    print("digest", folder.load_folder(sys.argv[1]).digest)
"""


def importing(photos: Path, decoded: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", IMPORT, str(photos), str(decoded)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)


def test_after_a_kill_nothing_half_made_is_used(photos: Path, cache: Path) -> None:
    killed = importing(photos, decoded=10)
    assert killed.stdout
    for _ in range(10):
        while "decoding" not in killed.stdout.readline():
            assert killed.poll() is None
    killed.kill()
    killed.communicate()
    (left,) = stored(cache)
    assert left.endswith(".new")
    own = load(photos)
    both = np.concatenate([own.x_train[:], own.x_test[:]])
    assert {image.tobytes() for image in both} == {i.tobytes() for i in decoded(photos)}
    assert stored(cache) == [left.removesuffix(".new")]


@pytest.mark.slow
def test_of_two_processes_one_decodes_and_both_have_the_data(photos: Path) -> None:
    outputs = [
        process.communicate()[0] for process in [importing(photos, decoded=30) for _ in range(2)]
    ]
    assert sorted(output.count("decoding\n") for output in outputs) == [0, 30]
    digests = {line for output in outputs for line in output.splitlines() if "digest " in line}
    assert digests == {f"digest {load(photos).digest}"}
