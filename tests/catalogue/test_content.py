import hashlib
import os
from pathlib import Path
from typing import Any

import pytest

from kdflow.catalogue.datasets import content
from kdflow.catalogue.datasets.content import sha256_of
from kdflow.errors import KdflowError

pytestmark = pytest.mark.usefixtures("cache")


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Three files that count as settled although they are new."""
    monkeypatch.setattr(content, "SETTLED_NS", -(10**12))
    files = [tmp_path / name for name in ("a", "b", "c")]
    for file in files:
        file.write_text(f"content of {file.name}")
    return files


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files that are read."""
    names: list[str] = []
    digest = hashlib.file_digest

    def recorded(file: Any, algorithm: str) -> Any:
        names.append(Path(file.name).name)
        return digest(file, algorithm)

    monkeypatch.setattr(hashlib, "file_digest", recorded)
    return names


def expected(files: list[Path]) -> list[str]:
    return [hashlib.sha256(file.read_bytes()).hexdigest() for file in files]


def test_a_file_is_read_once_and_again_after_a_change(
    files: list[Path], read: list[str], tmp_path: Path
) -> None:
    assert sha256_of(files, tmp_path) == expected(files)
    assert sorted(read) == ["a", "b", "c"]
    assert sha256_of(files, tmp_path) == expected(files)
    assert len(read) == 3
    files[1].write_text("CONTENT of b")
    assert sha256_of(files, tmp_path) == expected(files)
    assert read[3:] == ["b"]


def test_a_change_is_seen_though_size_and_time_of_modification_stay(
    files: list[Path], read: list[str], tmp_path: Path
) -> None:
    sha256_of(files, tmp_path)
    times = files[2].stat()
    files[2].write_text("content of C")
    os.utime(files[2], ns=(times.st_atime_ns, times.st_mtime_ns))
    assert sha256_of(files, tmp_path) == expected(files)
    assert read[3:] == ["c"]


def test_a_file_that_was_changed_just_now_is_read_again(
    files: list[Path], read: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # its times could stay as they are at another change within the clock's resolution
    monkeypatch.setattr(content, "SETTLED_NS", 10**12)
    sha256_of(files, tmp_path)
    sha256_of(files, tmp_path)
    assert len(read) == 6


@pytest.mark.parametrize("damage", ["", "[]", '{"a": 1}', '{"a": [1, 2]}'])
def test_with_a_damaged_index_all_are_read(
    files: list[Path], read: list[str], tmp_path: Path, cache: Path, damage: str
) -> None:
    sha256_of(files, tmp_path)
    (index,) = (cache / "digests").iterdir()
    index.write_text(damage)
    assert sha256_of(files, tmp_path) == expected(files)
    assert len(read) == 6


def test_a_file_that_is_gone_is_named(files: list[Path], tmp_path: Path) -> None:
    files[0].unlink()
    with pytest.raises(KdflowError, match=r"^dataset: \S+a cannot be read: No such file"):
        sha256_of(files, tmp_path)


def test_single_files_of_one_folder_do_not_displace_each_other(
    files: list[Path], read: list[str]
) -> None:
    for _ in range(2):
        for file in files:
            assert sha256_of([file], file) == expected([file])
    assert sorted(read) == ["a", "b", "c"]
