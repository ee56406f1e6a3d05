from pathlib import Path

import numpy as np
import pytest

from kdflow.artifacts import checkpoints
from kdflow.artifacts.checkpoints import Checkpoint, Claim


@pytest.fixture
def checkpoint(tmp_path: Path) -> Checkpoint:
    return Checkpoint(tmp_path)


def test_a_state_is_read_as_it_was_saved_and_replaces_the_one_before(
    checkpoint: Checkpoint,
) -> None:
    assert checkpoint.load() is None
    for epoch in (1, 2):
        checkpoint.save({"weights": np.arange(3.0) * epoch}, {"epoch": epoch})
    loaded = checkpoint.load()
    assert loaded
    arrays, described = loaded
    np.testing.assert_array_equal(arrays["weights"], [0, 2, 4])
    assert described == {"epoch": 2}


def test_a_write_that_fails_keeps_the_state_before(
    checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint.save({"weights": np.ones(3)}, {"epoch": 1})

    def full(file: object, **arrays: np.ndarray) -> None:
        file.write(b"half")  # type: ignore[attr-defined]
        raise OSError("No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(np, "savez", full)
        with pytest.raises(OSError, match="No space"):
            checkpoint.save({"weights": np.zeros(3)}, {"epoch": 2})
    loaded = checkpoint.load()
    assert loaded
    assert loaded[1] == {"epoch": 1}


def test_a_claim_and_parts_are_read_as_they_were_written(checkpoint: Checkpoint) -> None:
    assert checkpoint.claim() is None
    claim = Claim("run", "code", "key", "cpu")
    checkpoint.set_claim(claim)
    checkpoint.save_part("train-0", np.eye(2))
    assert checkpoint.claim() == claim
    part = checkpoint.load_part("train-0")
    assert part is not None
    np.testing.assert_array_equal(part, np.eye(2))
    assert checkpoint.load_part("train-1") is None
    (checkpoint.folder / "train-2.npy").touch()  # of a machine whose power failed
    assert checkpoint.load_part("train-2") is None
    checkpoint.clear()
    assert checkpoint.claim() is None
    assert checkpoint.load_part("train-0") is None


def test_one_process_has_a_place_and_what_is_removed_leaves_nothing(cache: Path) -> None:
    with checkpoints.locked("name") as first:
        assert first
        first.set_claim(Claim("run", "code", "", "cpu"))
        with checkpoints.locked("name") as second:
            assert second is None
        with checkpoints.locked("other") as other:
            assert other
    assert checkpoints.names() == ["name", "other"]
    with checkpoints.locked("name") as again:
        assert again
        assert again.claim() == Claim("run", "code", "", "cpu")
        again.remove()
    assert checkpoints.names() == ["other"]


def test_without_a_writable_cache_there_is_no_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("KDFLOW_CACHE", str(tmp_path / "file"))
    with checkpoints.locked("name") as checkpoint:
        assert checkpoint is None
