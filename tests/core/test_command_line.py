"""The command line: plugins cannot break it, errors are one line, and signals leave no partial files."""

import errno
import os
import resource
import signal
import subprocess
import sys
import time
import zlib

import numpy as np
import pytest
from scoresde_core.errors import FileError
from scoresde_run.commands.shell import main
from scoresde_run.machine.files import check_new, locked
from scoresde_run.results.results import Results
from scoresde_run.results.rows import SCHEMA


@pytest.fixture
def scoresde(tmp_path, monkeypatch, capsys):
    """Run ``scoresde`` in an empty folder; returns (exit code, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        code = main(list(arguments))
        out = capsys.readouterr()
        return code, out.out, out.err

    return run


@pytest.fixture
def plugin(scoresde, tmp_path):
    """Write a registry file ``mine.yaml`` of commands."""

    def write(**commands):
        rows = [f"  {name}: {{target: 'nowhere:Command', summary: '{summary}'}}" for name, summary in commands.items()]
        (tmp_path / "mine.yaml").write_text("\n".join(["api: 1", "commands:", *rows]))
        return "--registry", "mine.yaml"

    return write


class TestCommandsOfPlugins:
    def test_a_name_of_the_core_needs_its_owner(self, scoresde, plugin):
        local = plugin(show="mine")
        assert scoresde("list", "sdes", *local)[0] == 0
        code, _, err = scoresde(*local, "show")
        assert (code, "the following arguments are required" in err) == (2, True)
        code, _, err = scoresde(*local, "mine:show")
        assert (code, "mine:show (nowhere:Command) cannot be loaded" in err) == (1, True)

    def test_two_with_the_same_name(self, scoresde, plugin):
        local = plugin(evaluate="mine")
        assert scoresde("list", "sdes", *local)[0] == 0
        code, _, err = scoresde(*local, "evaluate")
        assert code == 2
        assert err == "error: no command is called 'evaluate'. Did you mean 'mine:evaluate' or 'scoresde:evaluate'?\n"
        code, _, err = scoresde(*local, "scoresde:evaluate", "nowhere", "--out", "e")
        assert (code, "nowhere is not a checkpoint" in err) == (3, True)

    def test_a_summary_with_a_percent_sign(self, scoresde, plugin, capsys):
        local = plugin(other="50% faster, 100 %s")
        with pytest.raises(SystemExit) as ended:
            main([*local, "--help"])
        assert ended.value.code == 0
        assert "50% faster, 100 %s" in capsys.readouterr().out


class TestOneLine:
    def test_an_option_without_its_value(self, scoresde):
        code, out, err = scoresde("list", "--registry")
        assert (code, out, err.count("\n")) == (2, "", 1)
        assert err.startswith("error: argument --registry: expected one argument")

    @pytest.mark.parametrize(
        ("arguments", "words"),
        [
            (["sample", "--target", "mixture2d", "--out", "o", "--stps=3"], "--stps=3. Did you mean '--steps' or"),
            (["train", "moons_vp", "--out", "o", "--dwnload"], "'--tensorboard'? (see 'scoresde train --help')"),
            (["list", "--qqq"], "error: unrecognized arguments: --qqq (see 'scoresde list --help')"),
            (["show", "sde", "VP"], "no sde is called 'VP'. Did you mean 'vp'"),
        ],
    )
    def test_a_typo_lists_near_misses(self, scoresde, arguments, words):
        code, out, err = scoresde(*arguments)
        assert (code, out, err.count("\n"), words in err) == (2, "", 1, True), err

    def test_an_unwritable_output_is_an_error_before_any_work(self, scoresde, monkeypatch):
        def refuse(*_, **__):
            raise PermissionError(errno.EACCES, "Permission denied")

        monkeypatch.setattr("os.mkdir", refuse)
        data = "exact[target=mixture2d,count=50]"
        code, out, err = scoresde("stats", data, "--features", "identity", "--out", "x.safetensors")
        assert (code, out, err.count("\n"), "Permission denied; choose another --out" in err) == (3, "", 1, True)

    def test_a_terminal_without_unicode(self, scoresde, tmp_path):
        row = "  mine: {target: 'nowhere:Loss', summary: 'Fréchet'}"
        (tmp_path / "mine.yaml").write_text(f"api: 1\nlosses:\n{row}\n", encoding="utf-8")
        words = [sys.executable, "-m", "scoresde_core", "list", "losses", "--registry", "mine.yaml"]
        done = subprocess.run(words, capture_output=True, env={**os.environ, "PYTHONIOENCODING": "ascii"})
        assert (done.returncode, done.stderr, b"Fr?chet" in done.stdout) == (0, b"", True)

    @pytest.mark.parametrize(
        ("error", "code", "words"),
        [
            (MemoryError("no"), 1, "error: out of memory: use a smaller batch"),
            (
                RuntimeError("DefaultCPUAllocator: can't allocate memory:\n 9 bytes"), 1,
                "use a smaller batch or fewer steps",
            ),
            (
                RuntimeError("one\ntwo\n  three"), 70,
                "error: RuntimeError: one two three (core/test_command_line.py, line",
            ),
        ],
    )  # fmt: skip
    def test_an_unexpected_error(self, scoresde, monkeypatch, error, code, words):
        def fail(*_):
            raise error

        monkeypatch.setattr("scoresde_core.registry.Registry.entries", fail)
        found, _, err = scoresde("list")
        assert (found, err.count("\n"), words in err) == (code, 1, True)


class TestFiles:
    def test_an_unwritable_folder_is_an_error_before_any_work(self, scoresde, monkeypatch):
        def refuse(*_, **__):
            raise OSError(errno.EROFS, "Read-only file system")

        monkeypatch.setattr("os.mkdir", refuse)
        code, out, err = scoresde("sample", "--target", "mixture2d", "--out", "o", "--device", "cpu")
        assert (code, out, err.count("\n")) == (3, "", 1)
        assert "Read-only file system; choose another --out" in err

    def test_the_check_leaves_no_file(self, tmp_path):
        check_new(tmp_path / "o")
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize(
        ("harm", "words"),
        [
            (lambda path: np.savez(path, images=np.uint8(3)), "holds uint8 of shape []"),
            (lambda path: np.savez(path, images=np.array(["a"])), "give numbers of at most 64 bits, one event per row"),
            (lambda path: np.savez(path), "has no array"),
            (lambda path: path.write_bytes(b"\x93NUMPY"), "cannot read"),
            (lambda path: path.mkdir(), "cannot read"),
        ],
        ids=["a number", "words", "nothing", "another format", "a folder"],
    )
    def test_an_npz_of_something_else(self, scoresde, tmp_path, harm, words):
        harm(tmp_path / "x.npz")
        code, _, err = scoresde("sample", "--target", "mnist_mfa", "--n", "1", "--steps", "1", "--condition", "inpaint",
                                "--observe", "./x.npz", "--out", "o", "--device", "cpu")  # fmt: skip
        assert (code > 0, err.count("\n"), words in err) == (True, 1, True)

    def test_an_npz_whose_data_do_not_unpack(self, scoresde, tmp_path, monkeypatch):
        np.savez_compressed(tmp_path / "x.npz", images=np.zeros((1, 28, 28), np.uint8))

        def broken(*_, **__):
            raise zlib.error("invalid stored block lengths")

        monkeypatch.setattr(np.lib.format, "read_array", broken)
        code, _, err = scoresde("sample", "--target", "mnist_mfa", "--n", "1", "--steps", "1", "--condition", "inpaint",
                                "--observe", "./x.npz", "--out", "o", "--device", "cpu")  # fmt: skip
        assert (code, "cannot read x.npz as an .npz file: invalid stored block" in err) == (3, True)


class TestResults:
    def row(self, cell):
        return {"schema": SCHEMA, "cell": cell, "status": "done"}

    def test_a_full_disk_keeps_the_rows_before(self, tmp_path):
        results = Results(tmp_path)
        results.append(self.row("a"))
        size = results.path.stat().st_size
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size + 10, hard))  # the largest size of a file
        try:
            with pytest.raises(FileError, match=r"cannot write .*results\.jsonl: .*too large; earlier rows are kept"):
                results.append(self.row("b"))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert results.path.stat().st_size == size
        results.append(self.row("c"))
        assert list(Results.peek(tmp_path)) == ["a", "c"]

    def test_reading_creates_nothing(self, tmp_path):
        assert Results.peek(tmp_path) == {}
        assert list(tmp_path.iterdir()) == []


class TestLocks:
    @pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
    def test_a_file_system_without_locks_is_not_reported_as_locked(self, tmp_path, monkeypatch, number):
        def fail(*_):
            raise OSError(number, "no locks available")

        monkeypatch.setattr("fcntl.lockf", fail)
        monkeypatch.setattr("fcntl.flock", fail)
        with locked(tmp_path, "training"), Results(tmp_path).claim():
            pass

    def test_another_process_is_named(self, tmp_path):
        code = (
            "import fcntl, sys; f = open(sys.argv[1], 'a'); fcntl.{}(f, fcntl.LOCK_EX); print(1, flush=True); input()"
        )
        for name, kind, enter in ((".lock", "lockf", lambda: locked(tmp_path, "training")),
                                  ("results.jsonl", "flock", lambda: Results(tmp_path).claim())):  # fmt: skip
            pipe, command = subprocess.PIPE, [sys.executable, "-c", code.format(kind), str(tmp_path / name)]
            with subprocess.Popen(command, stdin=pipe, stdout=pipe) as other:
                other.stdout.readline()
                with pytest.raises(FileError, match="another"), enter():
                    pass
                other.stdin.close()


@pytest.fixture
def default_sigint():
    """Handle SIGINT as in a terminal: a shell starts background processes with SIGINT ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize(
    ("number", "code", "word"), [(signal.SIGTERM, 143, "terminated"), (signal.SIGINT, 130, "interrupted")]
)
def test_a_signal_ends_a_command_in_one_line(scoresde, tmp_path, monkeypatch, default_sigint, number, code, word):
    before = signal.getsignal(number)

    def struck(*_):
        os.kill(os.getpid(), number)
        time.sleep(5)

    # Interrupted while writing: the partial file is removed.
    monkeypatch.setattr("scoresde_run.commands.drawn._write", struck)
    found, _, err = scoresde(
        "sample", "--target", "mixture2d", "--n", "2", "--steps", "2", "--out", "o", "--device", "cpu"
    )
    assert (found, err.splitlines()[-1]) == (code, word)
    assert list(tmp_path.iterdir()) == []
    assert signal.getsignal(number) is before


def test_output_that_nobody_reads_ends_every_command_quietly(tmp_path):
    """As with ``head -1``: the exit code is that of a program which SIGPIPE ends."""
    words, pipe = [sys.executable, "-m", "scoresde_core", "list"], subprocess.PIPE
    with subprocess.Popen(words, cwd=tmp_path, stdout=pipe, stderr=pipe, text=True) as process:
        process.stdout.close()  # before anything is written
        assert (process.wait(), process.stderr.read()) == (141, "")


def test_an_unknown_option_without_a_command_is_a_usage_error(capsys):
    assert main(["--bogus"]) == 2
    assert "--bogus" in capsys.readouterr().err
