import errno
from pathlib import Path

import pytest

from kdflow.cache import writing_to
from kdflow.errors import NoRoomError


def failing(error: OSError, folder: Path) -> None:
    with writing_to(folder):
        raise error


@pytest.mark.parametrize("name", [None, "new", "a/b", ".", ".."])
def test_what_cannot_be_written_to_the_folder_is_an_error_of_its_room(
    name: str | None, tmp_path: Path
) -> None:
    folder = tmp_path / "cache"
    error = OSError(
        errno.ENOSPC, "No space left on device", name and str((folder / name).resolve())
    )
    with pytest.raises(NoRoomError, match=f"^cache: expected a folder .*, got {folder} .*No space"):
        failing(error, folder)
    assert folder.is_dir()


def test_an_error_of_another_file_is_not_blamed_on_the_folder(tmp_path: Path) -> None:
    error = PermissionError(errno.EACCES, "Permission denied", str(tmp_path / "source"))
    with pytest.raises(PermissionError) as raised:
        failing(error, tmp_path / "cache")
    assert raised.value is error
