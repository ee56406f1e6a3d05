"""`clean` shows what is left over, and removes only what it is asked to and nobody uses."""

import os
import subprocess
import sys
import time
from pathlib import Path

import mlflow
import pytest
from filelock import FileLock

from kdflow.__main__ import main
from kdflow.artifacts import checkpoints
from kdflow.commands.clean import LeftOver
from kdflow.tracking import journal

pytestmark = pytest.mark.usefixtures("store")


@pytest.fixture
def filled(cache: Path) -> Path:
    """A cache with a state, a journal and data, all of them ten days old."""
    with checkpoints.locked("a" * 32) as checkpoint:
        assert checkpoint
        checkpoint.set_claim(checkpoints.Claim("b" * 32, "code", "key", "cpu"))
    written = journal.new("c" * 32, "http://elsewhere", ends_run=True)
    written.add("tags", {"a": "1"})
    written._lock.release()
    (cache / "cifar10.npz").write_bytes(bytes(2_000_000))
    ago = time.time() - 10 * 24 * 60 * 60
    for path in cache.rglob("*"):
        os.utime(path, (ago, ago))
    return cache


def names(cache: Path) -> list[str]:
    return sorted(str(path.relative_to(cache)) for path in cache.rglob("*") if path.is_file())


def test_it_shows_and_removes_nothing_unless_asked(
    filled: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = names(filled)
    assert main(["clean"]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert shown[0] == (
        "clean: cifar10.npz, cached data, made again when needed: 2.00MB, 10 days old, can be"
        " removed"
    )
    assert "1 entries not yet delivered to a tracking store" in shown[1]
    assert f"the state of interrupted run {'b' * 32}" in shown[2]
    assert len(shown) == 3
    assert names(filled) == before


def test_it_removes_what_is_old_enough(filled: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (filled / "onnxruntime-web-1.30.0.tgz").write_bytes(b"")
    assert main(["clean", "--remove", "true"]) == 0
    shown = capsys.readouterr().out
    assert f"clean: freed 2.00MB in {filled}" in shown
    assert "clean: 1 more, changed within the last 7 days (--older_than 0 shows them)" in shown
    assert names(filled) == ["onnxruntime-web-1.30.0.tgz"]


def test_what_is_not_of_kdflow_is_neither_shown_nor_removed(
    filled: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (filled / "photos").mkdir()
    for name in ("thesis.tex", "photos/cat.png"):
        (filled / name).write_text("of the user, who set KDFLOW_CACHE to this folder")
    assert main(["clean", "--remove", "true", "--older_than", "0"]) == 0
    assert names(filled) == ["photos/cat.png", "thesis.tex"]
    shown = capsys.readouterr().out
    assert "thesis" not in shown
    assert "photos" not in shown


def test_it_removes_nothing_that_is_in_use(
    filled: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with checkpoints.locked("a" * 32) as checkpoint:
        assert main(["clean", "--remove", "true", "--older_than", "0"]) == 0
        assert checkpoint
        assert checkpoint.claim()
    assert "in use" in capsys.readouterr().out


def test_it_removes_no_journal_that_a_process_writes(cache: Path) -> None:
    written = journal.new("a" * 32, "http://elsewhere:5000", ends_run=True)
    written.add("tags", {"a": "1"})
    assert main(["clean", "--remove", "true", "--older_than", "0"]) == 0
    assert [entry.content for entry in written.waiting()] == [{"a": "1"}]


def test_an_empty_cache_is_clean(cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["clean"]) == 0
    assert capsys.readouterr().out == f"clean: nothing is left over in {cache}\n"


def test_it_ends_the_silent_runs_of_a_host(cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    client = mlflow.MlflowClient()
    tags = {"kdflow.host": "gone", "kdflow.heartbeat": "5"}
    run_id = client.create_run("0", tags=tags).info.run_id
    assert main(["clean", "--end_runs_of", "gone"]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert shown[1:] == [f"clean: run {run_id} of gone is now KILLED"]
    assert client.get_run(run_id).info.status == "KILLED"


def test_sync_says_which_store_the_rest_is_for(
    filled: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["sync"]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert shown[0] == (
        f"sync: 1 entries of run {'c' * 32} are for the tracking store http://elsewhere; set"
        " MLFLOW_TRACKING_URI to it and run sync again"
    )
    assert shown[1].startswith("sync: sqlite:")
    assert shown[1].endswith(" has all entries that can be delivered")


def test_a_state_that_nobody_resumed_is_removed_after_the_stated_days(
    filled: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoints.remove_old()
    assert checkpoints.names() == ["a" * 32]
    monkeypatch.setattr(checkpoints, "KEPT_DAYS", 9)
    checkpoints.remove_old()
    assert checkpoints.names() == []


def test_a_journal_that_cannot_be_read_is_not_in_use_and_can_be_removed(
    filled: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder,) = (each for each in (filled / "journal").iterdir() if each.is_dir())
    (folder / "opened.json").write_text("damaged")
    assert main(["clean", "--older_than", "0"]) == 0
    shown = capsys.readouterr()
    assert f"{folder} cannot be read" in shown.err
    assert f"clean: journal/{folder.name}, entries not yet delivered" in shown.out
    assert "in use" not in shown.out
    assert main(["clean", "--older_than", "0", "--remove", "true"]) == 0
    assert not folder.exists()


def test_each_decoded_data_set_has_an_age_of_its_own(
    cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ago = time.time() - 30 * 24 * 60 * 60
    for name in ("old", "new"):
        (cache / "datasets" / name).mkdir(parents=True)
        (cache / "datasets" / name / "x_train.npy").write_bytes(bytes(1000))
        (cache / "datasets" / f"{name}.lock").touch()
    for path in (cache / "datasets" / "old" / "x_train.npy", cache / "datasets" / "old"):
        os.utime(path, (ago, ago))
    assert main(["clean", "--remove", "true"]) == 0
    shown = capsys.readouterr().out
    assert "clean: datasets/old, cached data, made again when needed: 1.00kB, 30 days old" in shown
    assert "clean: 1 more, changed within the last 7 days" in shown
    assert names(cache) == ["datasets/new.lock", "datasets/new/x_train.npy", "datasets/old.lock"]


def test_what_another_process_removes_meanwhile_has_no_age(tmp_path: Path) -> None:
    gone = LeftOver(tmp_path / "gone", "a step's state", None)
    assert gone.bytes == 0
    assert gone.age == pytest.approx(0)


def test_what_another_process_is_writing_is_not_removed(cache: Path) -> None:
    (cache / "datasets" / "a.new").mkdir(parents=True)
    finished = subprocess.run(
        [sys.executable, "-c", "import os; print(os.getpid())"],
        check=True,
        capture_output=True,
        text=True,
    )
    mine, left = cache / f".new.{os.getpid()}.cifar10.npz", f".new.{int(finished.stdout)}.x.npz"
    mine.touch()
    (cache / left).touch()
    with FileLock(cache / "datasets" / "a.lock"):
        assert main(["clean", "--remove", "true", "--older_than", "0"]) == 0
    assert (cache / "datasets" / "a.new").exists()
    assert mine.exists()
    assert not (cache / left).exists()
    assert main(["clean", "--remove", "true", "--older_than", "0"]) == 0
    assert not (cache / "datasets" / "a.new").exists()
