"""What a run logs is on disk first, whole or not at all."""

import json
import os
import resource
import socket
from pathlib import Path

import pytest

from kdflow.errors import KdflowError
from kdflow.tracking import journal

pytestmark = pytest.mark.usefixtures("cache")


def of_a_process_that_ended(run_id: str) -> journal.Journal:
    """A journal that is no longer locked."""
    written = journal.new(run_id, "sqlite:///a.db", ends_run=True)
    written._lock.release()
    return written


def test_what_is_added_is_read_back_in_order_until_it_is_delivered() -> None:
    written = of_a_process_that_ended("run")
    first = written.add("tags", {"a": "1"})
    written.add("metrics", {"values": {"loss": float("nan")}})
    with journal.left_over() as journals:
        (read,) = journals
        assert read.opened == ("run", "sqlite:///a.db", True, socket.gethostname())
        assert [(entry.number, entry.kind) for entry in read.waiting()] == [
            (0, "tags"),
            (1, "metrics"),
        ]
        assert str(read.waiting()[1].content["values"]["loss"]) == "nan"
        read.set_delivered(first)
        assert [entry.number for entry in read.waiting()] == [1]


def test_a_line_that_a_kill_cut_off_is_not_an_entry() -> None:
    written = of_a_process_that_ended("run")
    written.add("tags", {"a": "1"})
    with (written.folder / "entries.jsonl").open("a") as file:
        file.write(json.dumps(["tags", {"b": "2"}])[:-3])
    with journal.left_over() as journals:
        assert [entry.content for entry in journals[0].waiting()] == [{"a": "1"}]


def test_an_entry_that_the_disk_has_no_room_for_leaves_nothing_of_itself() -> None:
    written = of_a_process_that_ended("run")
    written.add("tags", {"a": "1"})
    size = (written.folder / "entries.jsonl").stat().st_size
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    # a write beyond the limit writes what fits, as one to a full disk does
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 10, hard))
    try:
        with pytest.raises(KdflowError, match="expected a folder with room to write to"):
            written.add("tags", {"b": "2"})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert written.add("tags", {"c": "3"}).number == 1
    with journal.left_over() as journals:
        assert [entry.content for entry in journals[0].waiting()] == [{"a": "1"}, {"c": "3"}]


def test_a_journal_that_another_process_writes_is_left_alone() -> None:
    written = journal.new("run", "sqlite:///a.db", ends_run=True)
    with journal.left_over() as journals:
        assert journals == []
    written.remove()


def test_a_journal_that_was_killed_before_its_first_line_is_removed(cache: Path) -> None:
    (cache / "journal" / "run-00000000").mkdir(parents=True)
    with journal.left_over() as journals:
        assert journals == []
    assert not (cache / "journal" / "run-00000000").exists()


def test_a_journal_is_removed_once_the_store_has_all_of_a_run_that_has_ended(cache: Path) -> None:
    written = journal.new("run", "sqlite:///a.db", ends_run=True)
    with written.new_files() as folder:
        (folder / "text").write_text("it")
    entry = written.add("files", {"folder": None})
    assert (written.files(entry.number) / "text").read_text() == "it"
    written.close()
    assert written.folder.exists()
    written.set_delivered(entry)
    assert list((cache / "journal").iterdir()) == []


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_cache_that_cannot_be_written_to_is_one_line_as_a_user(cache: Path) -> None:
    cache.mkdir(exist_ok=True)
    cache.chmod(0o500)
    with pytest.raises(KdflowError, match="set KDFLOW_CACHE to another folder"):
        journal.new("run", "sqlite:///a.db", ends_run=True)


def test_a_cache_that_is_a_file_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("KDFLOW_CACHE", str(tmp_path / "file"))
    with pytest.raises(KdflowError, match=r"^cache: expected a folder with room .*another folder$"):
        journal.new("run", "sqlite:///a.db", ends_run=True)


@pytest.mark.parametrize("damage", ["opened.json", "entries.jsonl"])
def test_a_journal_that_cannot_be_read_is_kept_and_named(
    damage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    written = of_a_process_that_ended("run")
    written.add("tags", {"a": "1"})
    (written.folder / damage).write_bytes(b'{"run_id": "\xff"}\n')
    with journal.left_over() as journals:
        assert journals == []
    assert (written.folder / "entries.jsonl").exists()
    shown = capsys.readouterr().err
    assert shown.startswith(f"journal: {written.folder} cannot be read (")
    assert shown.count("\n") == 1
