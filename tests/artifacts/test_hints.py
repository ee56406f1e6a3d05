import errno
import io
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kdflow.artifacts import checkpoints, hints
from kdflow.artifacts.checkpoints import Checkpoint
from kdflow.artifacts.hints import TEACHER_BATCH, Recomputed, cached, check_room
from kdflow.dataset import Images
from kdflow.errors import KdflowError, NoRoomError
from kdflow.features import features
from kdflow.network import build


class StandIn:
    """A teacher whose hint is the image itself, over 8; it counts how often it is asked."""

    output_shape = (None, 2, 2, 3)

    def __init__(self, factor: float = 0.125) -> None:
        self.factor, self.asked = factor, np.zeros(256, int)

    def predict_on_batch(self, images: np.ndarray) -> np.ndarray:
        np.add.at(self.asked, images[:, 0, 0, 0], 1)
        return images.astype(np.float32) * np.float32(self.factor)


@pytest.fixture
def images() -> np.ndarray:
    """250 images, each with its own first number."""
    images = np.random.default_rng(0).integers(0, 256, (250, 2, 2, 3), np.uint8)
    images[:, 0, 0, 0] = np.arange(250)
    return images


def test_the_hints_of_chosen_images_are_their_own_in_half_precision(
    images: np.ndarray, tmp_path: Path
) -> None:
    chosen = np.array([249, 0, 100, 99, 0])
    with cached(StandIn(1 / 3), [images[:120], images], tmp_path) as (first, second):
        for made in (first, second):
            assert made.shape == (2, 2, 3)
        found = second.of(chosen)
        expected = (images[chosen].astype(np.float32) * np.float32(1 / 3)).astype(np.float16)
        assert found.dtype == np.float16
        assert np.array_equal(found, expected)
        assert np.array_equal(first.of(np.array([119])), second.of(np.array([119])))


def test_no_page_of_the_file_stays_mapped_where_it_would_count_as_memory(
    images: np.ndarray, tmp_path: Path
) -> None:
    with cached(StandIn(), [images], tmp_path) as (made,):
        found = made.of(np.arange(5))
        inode = f" {os.fstat(made.file.fileno()).st_ino} "
        assert inode not in Path("/proc/self/maps").read_text()
        mapped = np.memmap(made.file, np.float16, "r")
        assert inode in Path("/proc/self/maps").read_text()
        assert np.array_equal(found.ravel(), mapped[: found.size])


def test_each_image_passes_the_teacher_once(images: np.ndarray, tmp_path: Path) -> None:
    assert len(images) % TEACHER_BATCH  # the last batch is a smaller one
    teacher = StandIn()
    with cached(teacher, [images], tmp_path) as (made,):
        for _ in range(3):
            made.of(np.arange(250))
    assert np.array_equal(teacher.asked[:250], np.ones(250))


def test_the_teacher_is_in_inference_mode(tmp_path: Path) -> None:
    # its normalisation has seen nothing yet, so in training mode the maps would be others
    images = np.random.default_rng(0).integers(0, 256, (20, 8, 8, 3), np.uint8)
    train = Images(images, np.arange(20) % 10, np.arange(20))
    teacher = features(build("fast", train, 10, seed=0), "norm2_2_gelu")
    before = [weight.copy() for weight in teacher.get_weights()]
    with cached(teacher, [images], tmp_path) as (made,):
        found = made.of(np.arange(20)).astype(np.float32)
    assert all(map(np.array_equal, teacher.get_weights(), before))
    np.testing.assert_allclose(found, teacher(images, training=False), rtol=1e-3, atol=1e-3)
    assert np.abs(found - np.asarray(teacher(images, training=True))).max() > 0.1


def test_hints_of_an_interrupted_step_are_not_computed_again(
    images: np.ndarray, tmp_path: Path
) -> None:
    checkpoint, teacher = Checkpoint(tmp_path), StandIn()
    with cached(teacher, [images[:120], images], tmp_path, checkpoint) as (_, whole):
        expected = whole.of(np.arange(250))
    kept = tmp_path / "hints-1"
    kept.write_bytes(kept.read_bytes()[: 2 * TEACHER_BATCH * 24 - 7])  # killed within a write
    teacher.asked[:] = 0
    with cached(teacher, [images[:120], images], tmp_path, checkpoint) as (_, whole):
        assert np.array_equal(whole.of(np.arange(250)), expected)
    again = np.zeros(250)
    again[TEACHER_BATCH:120] += 1  # the last batch of the first array, which is a smaller one
    again[TEACHER_BATCH:] += 1
    assert np.array_equal(teacher.asked[:250], again)


def test_recomputed_hints_are_those_on_disk(images: np.ndarray, tmp_path: Path) -> None:
    chosen = np.array([249, 0, 100, 99, 0])
    recomputed = Recomputed(StandIn(1 / 3), images)
    with cached(StandIn(1 / 3), [images], tmp_path) as (on_disk,):
        assert recomputed.shape == on_disk.shape
        assert np.array_equal(recomputed.of(chosen), on_disk.of(chosen))
    with pytest.raises(KdflowError, match=r"^hint_layer: expected .* up to 65,504, got 255000"):
        Recomputed(StandIn(1000), np.full_like(images, 255)).of(chosen)


def test_what_an_interrupted_step_has_on_disk_counts_as_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KDFLOW_CACHE", str(tmp_path))
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage)
    with pytest.raises(
        KdflowError, match=r"run `hint` with hint_values=recomputed, which needs no disk \(.*\)$"
    ):
        check_room(tmp_path, 100, (2, 2, 3))  # 2,400 bytes
    folder = tmp_path / checkpoints.FOLDER / "a step"
    folder.mkdir(parents=True)
    (folder / "hints-0").write_bytes(bytes(1400))
    check_room(tmp_path, 100, (2, 2, 3))


def test_hints_of_another_step_are_no_room_for_these(
    images: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KDFLOW_CACHE", str(tmp_path))
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage)
    own, other = (tmp_path / checkpoints.FOLDER / name for name in ("own", "other"))
    for folder in (own, other):
        folder.mkdir(parents=True)
    (other / "hints-0").write_bytes(bytes(10_000))
    checkpoint = Checkpoint(own)
    check_room(tmp_path, 250, (2, 2, 3))  # before it is known which step's they are
    with pytest.raises(NoRoomError, match=r"^expected 0.0 MB of room in .* the hints of 250"):
        cached(StandIn(), [images], tmp_path, checkpoint).__enter__()
    (own / "hints-0").write_bytes(bytes(6000))  # all 250 of 24 bytes
    with cached(StandIn(), [images], tmp_path, checkpoint) as (made,):
        assert len(made.of(np.arange(250))) == 250


@pytest.mark.parametrize("error", [None, ValueError, KeyboardInterrupt])
def test_the_room_is_free_again_however_the_block_ends(
    error: type[BaseException] | None,
    images: np.ndarray,
    tmp_path: Path,
) -> None:
    files: list[Any] = []

    def use() -> None:
        with cached(StandIn(), [images], tmp_path) as (made,):
            files.append(made.file)
            assert list(tmp_path.iterdir()) == []  # not even a killed process leaves a file
            if error:
                raise error

    if error:
        with pytest.raises(error):
            use()
    else:
        use()
    assert files[0].closed


def test_room_is_counted_in_halves() -> None:
    assert hints.bytes_needed(50_000, (8, 8, 256)) == 1_638_400_000


def test_too_small_a_disk_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(tmp_path)
    for free in (1_638_400_000, 1_638_399_999):
        less = usage._replace(free=free)
        monkeypatch.setattr(shutil, "disk_usage", lambda folder, less=less: less)
        if free == 1_638_400_000:
            check_room(tmp_path / "made", 50_000, (8, 8, 256))
    with pytest.raises(
        KdflowError,
        match=r"^expected 1,638\.4 MB of room in .*made for the hints of 50,000 images, got"
        r" 1,638\.4 MB; set KDFLOW_CACHE to another folder, or run `hint` with"
        r" hint_values=recomputed, which needs no disk \(`init` takes its run's id\)$",
    ):
        check_room(tmp_path / "made", 50_000, (8, 8, 256))


def test_a_folder_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(KdflowError, match=r"^cache: expected .* got .*Not a directory"):
        check_room(tmp_path / "file" / "folder", 1, (1, 1, 1))


def test_a_disk_that_fills_up_is_reported_in_one_line(
    images: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class FullDisk(io.BytesIO):
        def write(self, _: Any) -> int:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(tempfile, "TemporaryFile", lambda **_: FullDisk())
    with (
        pytest.raises(
            KdflowError,
            match=r"^cache: expected .*No space left.*=recomputed, which needs no disk \(.*\)$",
        ),
        cached(StandIn(), [images], tmp_path),
    ):
        pass


def test_a_hint_that_half_precision_cannot_hold_is_refused(
    images: np.ndarray, tmp_path: Path
) -> None:
    with (
        pytest.raises(KdflowError, match=r"^hint_layer: expected .* up to 65,504, got 25500"),
        cached(StandIn(1000), [np.full_like(images, 255)], tmp_path),
    ):
        pass
