"""Files and folders that appear whole or not at all."""

import multiprocessing
import os
import signal

import pytest
from scoresde_core.errors import FileError
from scoresde_run.machine import files


def half_written(path, error):
    with files.replacing(path) as temporary:
        temporary.write_text("half of the n")
        raise error


class TestReplacing:
    def test_write_replaces_the_whole_file(self, tmp_path):
        path = tmp_path / "new" / "it.txt"
        for content in ("long: ü\n" * 100, b"short"):
            files.write(path, content)
        assert path.read_bytes() == b"short"
        assert [p.name for p in path.parent.iterdir()] == ["it.txt"]

    @pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt(), ValueError()])
    def test_an_error_in_the_middle_leaves_the_old_file_alone(self, tmp_path, error):
        (tmp_path / "it").write_text("old")
        expected = FileError if isinstance(error, OSError) else type(error)
        with pytest.raises(expected) as caught:
            half_written(tmp_path / "it", error)
        if isinstance(error, OSError):
            assert str(caught.value) == f"cannot write {tmp_path / 'it'}: No space left on device"
        assert {p.name: p.read_text() for p in tmp_path.iterdir()} == {"it": "old"}

    def test_a_parent_that_is_a_file(self, tmp_path):
        (tmp_path / "it").touch()
        with pytest.raises(FileError, match=r"cannot write .*it/new: "):
            files.write(tmp_path / "it" / "new", "")

    def test_files_follow_the_umask(self, tmp_path):
        before = os.umask(0o027)
        try:
            files.write(tmp_path / "it", "")
            with files.new_folder(tmp_path / "folder") as temporary:
                (temporary / "it").touch(0o600)
        finally:
            os.umask(before)
        modes = [p.stat().st_mode & 0o777 for p in (tmp_path / "it", tmp_path / "folder", tmp_path / "folder" / "it")]
        assert modes == [0o640, 0o750, 0o640]


def killed_writing(folder):
    """SIGKILL with half of a file and half of a folder written."""
    with files.replacing(folder / "it") as temporary, files.new_folder(folder / "more") as scratch:
        temporary.write_text("half of the n")
        (scratch / "inside").touch()
        os.kill(os.getpid(), signal.SIGKILL)


def test_a_kill_leaves_the_old_file_and_temporaries_that_are_cleaned(tmp_path):
    files.write(tmp_path / "it", "old")
    child = multiprocessing.get_context("fork").Process(target=killed_writing, args=(tmp_path,))
    child.start()
    child.join(60)
    assert child.exitcode == -signal.SIGKILL
    left = sorted(p.name for p in tmp_path.iterdir())
    assert left[-1] == "it"
    assert len(left) == 3
    assert all(name.startswith(".") and name.endswith(".part") for name in left[:2])
    files.clean(tmp_path)
    assert {p.name: p.read_text() for p in tmp_path.iterdir()} == {"it": "old"}


def test_discard_removes_a_folder_in_one_step(tmp_path, monkeypatch):
    (tmp_path / "it" / "inside").mkdir(parents=True)
    with monkeypatch.context() as patch:
        patch.setattr(files.shutil, "rmtree", lambda *_, **__: None)  # as if killed there
        files.discard(tmp_path / "it")
    assert not (tmp_path / "it").exists()
    files.clean(tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_temporary_of_a_killed_process_goes_when_the_file_is_made_again(tmp_path):
    """As a file and as a folder, whichever was there; that of a living process stays."""
    for left in ("file", "folder"):
        part = tmp_path / ".it.part"
        (part / "inside").mkdir(parents=True) if left == "folder" else part.write_text("half")
        files.write(tmp_path / "it", "new")
        assert [p.name for p in tmp_path.iterdir()] == ["it"]
    with files.replacing(tmp_path / "it") as first, files.replacing(tmp_path / "it") as second:
        assert (first.name, second.name) == (".it.part", ".it.1.part")
        files.clean(tmp_path)
        first.write_text("1")
        second.write_text("2")
    assert {p.name: p.read_text() for p in tmp_path.iterdir()} == {"it": "1"}


def test_a_new_folder_of_ours_has_its_mark_from_the_first(tmp_path, monkeypatch):
    """A folder that another made, empty or not, is never taken for one that a kill left."""
    made = []
    rename = files.Path.rename
    monkeypatch.setattr(files.Path, "rename", lambda path, to: made.append(sorted(path.iterdir())) or rename(path, to))
    with files.locked(tmp_path / "new" / "run", "working"):
        assert [p.name for p in made[0]] == [files.LOCK]
        assert (tmp_path / "new" / "run" / files.LOCK).is_file()
    monkeypatch.setattr(files.Path, "rename", rename)
    with files.locked(tmp_path / "new" / "run", "working"):
        pass
