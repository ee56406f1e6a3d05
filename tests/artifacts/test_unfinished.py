from pathlib import Path

import numpy as np
import pytest

from kdflow.artifacts import unfinished
from kdflow.artifacts.unfinished import Claim, Unfinished


@pytest.fixture
def place(tmp_path: Path) -> Unfinished:
    return Unfinished(tmp_path)


def test_a_state_is_read_as_it_was_saved_and_replaces_the_one_before(place: Unfinished) -> None:
    assert place.load() is None
    for epoch in (1, 2):
        place.save({"weights": np.arange(3.0) * epoch}, {"epoch": epoch})
    loaded = place.load()
    assert loaded
    arrays, described = loaded
    np.testing.assert_array_equal(arrays["weights"], [0, 2, 4])
    assert described == {"epoch": 2}


def test_a_write_that_fails_keeps_the_state_before(
    place: Unfinished, monkeypatch: pytest.MonkeyPatch
) -> None:
    place.save({"weights": np.ones(3)}, {"epoch": 1})

    def full(file: object, **arrays: np.ndarray) -> None:
        file.write(b"half")  # type: ignore[attr-defined]
        raise OSError("No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(np, "savez", full)
        with pytest.raises(OSError, match="No space"):
            place.save({"weights": np.zeros(3)}, {"epoch": 2})
    loaded = place.load()
    assert loaded
    assert loaded[1] == {"epoch": 1}


def test_a_claim_and_parts_are_read_as_they_were_written(place: Unfinished) -> None:
    assert place.claim() is None
    claim = Claim("run", "code", "key", "cpu")
    place.set_claim(claim)
    place.save_part("train-0", np.eye(2))
    assert place.claim() == claim
    part = place.load_part("train-0")
    assert part is not None
    np.testing.assert_array_equal(part, np.eye(2))
    assert place.load_part("train-1") is None
    place.clear()
    assert place.claim() is None
    assert place.load_part("train-0") is None


def test_one_process_has_a_place_and_what_is_removed_leaves_nothing(cache: Path) -> None:
    with unfinished.locked("name") as first:
        assert first
        first.set_claim(Claim("run", "code", "", "cpu"))
        with unfinished.locked("name") as second:
            assert second is None
        with unfinished.locked("other") as other:
            assert other
    assert unfinished.names() == ["name", "other"]
    with unfinished.locked("name") as again:
        assert again
        assert again.claim() == Claim("run", "code", "", "cpu")
        again.remove()
    assert unfinished.names() == ["other"]


def test_without_a_writable_cache_there_is_no_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("KDFLOW_CACHE", str(tmp_path / "file"))
    with unfinished.locked("name") as place:
        assert place is None
