"""Commands in a child process whose n-th file-system operation below a folder fails, or kills the process.

An operation is a call that changes the folder: opening to write, writing (each ``write`` of the system), truncating,
closing, flushing to the disk, renaming, linking, making and removing, changing modes. Python's own calls are replaced;
safetensors writes natively, so its writer is replaced by one that has the same content and these calls. An audit hook
notices any file that was opened to write in another way.
"""

import builtins
import contextlib
import errno
import io
import json
import os
import pathlib
import pickle
import random
import shutil
import sys
import threading
import time
import traceback
from pathlib import Path

import attrs
import children
import power
import writers

ERRORS = {"ENOSPC": errno.ENOSPC, "EIO": errno.EIO, "EACCES": errno.EACCES}
MODES = ("kill", *ERRORS, "power")
KILLED = 137
_ONE_AT_A_TIME = threading.Lock()
"""Threads may try several faults at once, but a child starts in its parent's working folder, and is waited for once."""
GROWING = {"open", "write", "truncate", "mkdir", "rename", "link"}
"""Operations that need room: on a full disk all of them fail from some time on, while others succeed."""


@attrs.frozen
class Fault:
    """At the operation ``number`` (from 1, or 0 for none): ``kill``, an error of that name, or loss of ``power``."""

    number: int = 0
    mode: str = "kill"


@attrs.frozen
class Life:
    """How a child ended, and the operations that it made."""

    code: int
    out: str
    err: str
    operations: list
    unseen: list
    """Files opened to write by a call that is not replaced."""
    trace: list


def run(words, folder, log, fault=Fault()):
    """Run a command line in ``folder``, in a child that writes its report to ``log``."""
    for name in ("out", "err", "report"):
        (log / name).unlink(missing_ok=True)
    log.mkdir(exist_ok=True)
    with _ONE_AT_A_TIME:
        child = children.start(_live, words, folder, log, fault, folder=log.parent)
    for _ in range(30_000):
        with _ONE_AT_A_TIME:
            code = child.exitcode
        if code is not None:
            break
        time.sleep(0.01)
    assert code is not None, words
    report = json.loads((log / "report").read_text()) if (log / "report").exists() else {}
    texts = [(log / name).read_text(errors="replace") if (log / name).exists() else "" for name in ("out", "err")]
    trace = pickle.loads((log / "trace").read_bytes()) if report else []
    return Life(code, *texts, report.get("operations", []), report.get("unseen", []), trace)


def _live(words, folder, log, fault):
    import torch

    torch.set_num_threads(1)
    os.chdir(folder)
    streams = [(log / name).open("w", encoding="utf-8") for name in ("out", "err")]
    sys.stdout, sys.stderr = streams
    hooked = Hooked(Path(folder), fault)
    code = 1
    try:
        with hooked.installed():
            code = call(words)
    except SystemExit as end:
        code = end.code
    except BaseException:
        traceback.print_exc()
    for stream in streams:
        stream.flush()
    (log / "trace").write_bytes(pickle.dumps(hooked.trace))
    (log / "report").write_text(json.dumps({"operations": hooked.operations, "unseen": hooked.unseen}))
    os._exit(code if isinstance(code, int) else 1)


def call(words):
    """The command line ``words``, the first of which is ``scoresde`` or ``scoresde-bench``."""
    from scoresde_bench.cli import main as bench
    from scoresde_run.commands.shell import main

    return (bench if words[0] == "scoresde-bench" else main)(list(words[1:]))


class Hooked:
    """The calls of this process that change files below ``folder``, counted, one of them with a fault."""

    def __init__(self, folder, fault):
        self.folder, self.fault, self.full = os.path.realpath(folder), fault, False
        self.operations, self.unseen = [], []
        self.trace = []  # the operations again, with what power.Disk needs to repeat them
        self._open, self._os, self._inside = io.open, {}, 0

    @contextlib.contextmanager
    def installed(self):
        """Replace the calls."""

        def audit(event, arguments):
            if event != "open" or self._inside or not isinstance(arguments[0], str | bytes | os.PathLike):
                return
            path, _, flags = arguments
            if (flags or 0) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT) and (here := self._here(path)):
                self.unseen.append(here)

        sys.addaudithook(audit)
        singles = "truncate mkdir rmdir unlink remove chmod utime fsync fdatasync ftruncate"
        for name in singles.split():
            self._wrap(name, "unlink" if name == "remove" else name.replace("ftruncate", "truncate"), 0)
        for name, kind in {"rename": "rename", "replace": "rename", "link": "link", "symlink": "link"}.items():
            self._wrap(name, kind, 1)
        self._os["open"], os.open = os.open, self._os_open
        builtins.open = io.open = self._opened
        pathlib.io.open = self._opened
        native = sys.modules.get("safetensors.torch")
        kept = getattr(native, "serialize_file", None)
        if native is not None:
            native.serialize_file = self._safetensors
        try:
            yield
        finally:
            for name, call in self._os.items():
                setattr(os, name, call)
            builtins.open = io.open = self._open
            if native is not None:
                native.serialize_file = kept

    def operation(self, kind, path, half=None, more=()):
        """Count one operation; ``half`` does a half of it, before a fault; ``more`` is what its trace tells."""
        here = self._here(path)
        if here is None:
            return
        self.operations.append((kind, here))
        self.trace.append((kind, here, *more))
        if self.full and kind in GROWING:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        if len(self.operations) != self.fault.number:
            return
        if half is not None:
            half()
        if self.fault.mode == "kill":
            os._exit(KILLED)
        number = ERRORS[self.fault.mode]
        if number == errno.ENOSPC:
            self.full = True
            if kind not in {*GROWING, "close", "fsync"}:
                return
        raise OSError(number, os.strerror(number), str(path))

    def _here(self, path):
        """``path`` relative to the folder; None if it is elsewhere."""
        if isinstance(path, int):
            path = os.readlink(f"/proc/self/fd/{path}")
        path = os.path.abspath(os.fsdecode(path))
        path = os.path.join(os.path.realpath(os.path.dirname(path)), os.path.basename(path))
        return os.path.relpath(path, self.folder) if (path + os.sep).startswith(self.folder + os.sep) else None

    def _wrap(self, name, kind, place):
        """Count ``os.name``, which is about the path in argument ``place``."""
        original = self._os[name] = getattr(os, name)

        def call(*arguments, **more):
            path = arguments[place] if len(arguments) > place else more.get("dst", more.get("path"))
            folder = more.get("dir_fd")
            if folder is not None:
                path = os.path.join(os.readlink(f"/proc/self/fd/{folder}"), os.fsdecode(path))
            told = ()
            if kind == "rename":
                told = (self._here(arguments[0]),)
            elif kind == "truncate":
                told = (arguments[1],)
            self.operation(kind, path, more=told)
            return original(*arguments, **more)

        setattr(os, name, call)

    def _os_open(self, path, flags, *arguments, **more):
        writes = flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        if writes:
            self.operation("open", path, more=(bool(flags & os.O_TRUNC),))
        with self._quietly():
            return self._os["open"](path, flags, *arguments, **more)

    @contextlib.contextmanager
    def _quietly(self):
        self._inside += 1
        try:
            yield
        finally:
            self._inside -= 1

    def _opened(self, file, mode="r", buffering=-1, encoding=None, errors=None, newline=None, closefd=True,
                opener=None):  # fmt: skip
        plain = not isinstance(file, str | bytes | os.PathLike) or opener is not None
        if plain or not set(mode) & set("wax+") or self._here(file) is None:
            return self._open(file, mode, buffering, encoding, errors, newline, closefd, opener)
        self.operation("open", file, more=("w" in mode,))
        with self._quietly():
            raw = Raw(file, mode.replace("b", "").replace("t", ""), self)
        if buffering == 0:
            return raw
        binary = io.BufferedRandom(raw) if "+" in mode else io.BufferedWriter(raw)
        if "b" in mode:
            return binary
        text = io.TextIOWrapper(binary, encoding or "utf-8", errors, newline, line_buffering=buffering == 1)
        text.mode = mode
        return text

    def _safetensors(self, tensors, path, metadata=None):
        import safetensors

        with self._opened(path, "wb") as file:
            file.write(safetensors.serialize(tensors, metadata))


class Raw(io.FileIO):
    """A file whose writes, truncations and closing are operations."""

    def __init__(self, file, mode, hooked):
        self.hooked, self.path = hooked, os.path.abspath(os.fsdecode(file))
        super().__init__(file, mode)

    def write(self, data):
        data = memoryview(data).cast("B")
        half = lambda: super(Raw, self).write(data[: len(data) // 2])  # noqa: E731
        self.hooked.operation("write", self.path, half, (self.tell(), bytes(data)))
        return super().write(data)

    def truncate(self, size=None):
        self.hooked.operation("truncate", self.path, more=(self.tell() if size is None else size,))
        return super().truncate(size)

    def close(self):
        if not self.closed:
            try:
                self.hooked.operation("close", self.path)
            finally:
                super().close()


class Trial:
    """A command, undisturbed in ``folder/straight`` and then with faults, each in a fresh copy of ``start``."""

    def __init__(self, name, words, start, folder):
        self.name, self.words, self.start, self.folder = name, words, start, folder
        straight = folder / "straight"
        shutil.copytree(start, straight)
        self.straight = run(words, straight, folder / "log")
        assert self.straight.code == 0, self.straight.err
        assert not self.straight.unseen, self.straight.unseen
        assert self.straight.operations
        self.content = writers.content(straight)
        assert not writers.left(straight)
        self.disk = power.Disk(start, self.straight.trace)

    def survives(self, fault):
        """What went wrong with ``fault`` and after it; None if nothing."""
        place = self.folder / f"{fault.mode}-{fault.number}"
        log = self.folder / f"log-{place.name}"
        try:
            if fault.mode == "power":
                return self._without_power(place, log, fault.number)
            shutil.copytree(self.start, place)
            return self._problem(place, log, fault)
        finally:
            shutil.rmtree(place)
            shutil.rmtree(log, ignore_errors=True)

    def _without_power(self, place, log, number):
        """Repeat after what the power may leave: no change that is not flushed, those of entries, some."""
        *prefixes, links = self.disk.outcomes(number)
        for lucky in ([], links, random.Random(number).choice([links, *prefixes])):
            self.disk.after(number, place, lucky)
            at = f"{self.straight.operations[number - 1]}, {len(lucky)} lucky"
            if number == len(self.straight.operations) and (lost := self._lost(writers.content(place))):
                return f"{at}: lost {lost}"
            if problem := self._repeated(place, log, at):
                return problem
        return None

    def _lost(self, found):
        return [key for key, value in self.content.items() if found.get(key) != value]

    def _problem(self, place, log, fault):
        life = run(self.words, place, log, fault)
        at = self.straight.operations[fault.number - 1]
        if fault.mode == "kill":
            if life.code != KILLED:
                return f"{at}: not killed, {life.code}: {life.err}"
        elif life.code not in (0, 1, 3) or (
            life.code and "error: " not in life.err and "failed" not in life.out + life.err
        ):
            return f"{at}: exit code {life.code}, {life.err}"
        elif "Traceback" in life.err or "--debug shows" in life.err:
            return f"{at}: unexpected error: {life.err}"
        return self._repeated(place, log, at, life.err)

    def _repeated(self, place, log, at, told=""):
        rows = _rows(place)
        again = run(self.words, place, log)
        if again.code:
            return f"{at}: repeated, exit code {again.code}: {again.err}"
        if hidden := writers.left(place):
            return f"{at}: left {hidden}"
        if lost := [line for line in rows if line not in _rows(place)]:
            return f"{at}: {len(lost)} rows are lost"
        found = writers.content(place)
        different = sorted({*self._lost(found), *(found.keys() - self.content.keys())})
        if different == sorted(key for key in writers.unpictured(place, told) if key not in found):
            return None
        return f"{at}: different {different}" if different else None


def _rows(folder):
    """The lines of results that are whole."""
    path = folder / "out" / "results.jsonl"
    text = path.read_text() if path.exists() else ""
    return [line for line in text.rpartition("\n")[0].splitlines() if json.loads(line)["status"] == "done"]
