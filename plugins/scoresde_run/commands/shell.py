"""The command line: ``scoresde list | show | plugins``, and the commands of plugins.

An error is one line; ``--debug`` adds the traceback. Exit codes: docs/durability.md.
"""

import argparse
import errno
import inspect
import io
import os
import re
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout, suppress
from pathlib import Path
from typing import Any, NoReturn

from scoresde_core import Entry, FileError, Registry, ScoreSDEError, UsageError, load_registry, near_misses, parse
from ..machine.version import own_version
from ..machine.visible import Visible
from . import listing

_OWN = ("list", "show", "plugins")  # the commands that need no plugin
_HELP = {"-h", "--help"}
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EIO)
INTERNAL = 70  # the exit code of an unexpected error, which is a fault of the program or of a plugin


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line that lists near misses."""

    registry: Registry | None = None
    words: Sequence[str] = ()  # first words that it does not read itself, for completion

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parse; unknown words go to the list ``rest``, or are an error of the subcommand's parser (``asked``)."""
        if (word := os.environ.get("SCORESDE_COMPLETE")) is not None:  # a shell asks what may stand there
            registry = self.registry or load_registry(imports=False)
            given = sys.argv[1:] if args is None else args
            print("\n".join(registry.create("commands", "completion").answers(self, given, word, registry)))
            self.exit()
        parsed, left = self.parse_known_args(args, namespace)
        if rest := getattr(parsed, "rest", None):
            getattr(parsed, rest).extend(word for word in left if not word.startswith("-"))
            left = [word for word in left if word.startswith("-")]
        if left:
            asked = getattr(parsed, "asked", self)
            options = [option for option in asked._option_string_actions if option.startswith("--")]
            close = near_misses(left[0].partition("=")[0], options) if left[0].startswith("-") else ""
            meant = f".{close}" if close.startswith(" Did you mean") else ""
            asked.error(f"unrecognized arguments: {' '.join(left)}{meant}")
        return parsed

    def _get_value(self, action: argparse.Action, arg_string: str) -> Any:
        """The value of one argument, which may not be empty, as of an unset variable, nor exceed 64 bits."""
        if action.nargs != argparse.PARSER and not arg_string.strip():
            raise argparse.ArgumentError(action, "the value is empty: give one, or leave the option out")
        value = super()._get_value(action, arg_string)
        if isinstance(value, int) and not -(2**63) <= value < 2**63:
            raise argparse.ArgumentError(action, f"{value} does not fit into 64 bits: give a smaller number")
        return value

    def error(self, message: str) -> None:  # type: ignore[override]
        """Raise an error instead of printing the usage."""
        raise UsageError(f"{message} (see '{self.prog} --help')")


class Terminated(KeyboardInterrupt):
    """Raised on SIGTERM, so that a command cleans up as it does on Ctrl-C."""


@contextmanager
def _terminable() -> Iterator[None]:
    """Raise at SIGTERM and Ctrl-C, once no library of native code is loading, which may abort on an exception."""
    waiting: set[int] = set()

    def loading() -> bool:
        specs = (getattr(sys.modules.get(name), "__spec__", None) for name in ("torch", "numpy"))
        return any(getattr(spec, "_initializing", False) for spec in specs)

    def wait(number: int) -> None:
        while loading():
            time.sleep(0.02)
        waiting.discard(number)
        os.kill(os.getpid(), number)

    def end(number: int, frame: Any) -> None:
        if not loading():
            raise Terminated if number == signal.SIGTERM else KeyboardInterrupt
        if number not in waiting:
            waiting.add(number)
            threading.Thread(target=wait, args=(number,), daemon=True).start()

    if threading.current_thread() is not threading.main_thread():  # which alone can handle signals
        yield
        return
    ours = [signal.SIGTERM, *([signal.SIGINT] if signal.getsignal(signal.SIGINT) is signal.default_int_handler else [])]
    with ExitStack() as stack:
        for number in ours:
            stack.callback(signal.signal, number, signal.signal(number, end))
        yield


def guarded(run: Callable[[], int], debug: bool) -> int:
    """``run()``, with errors as one line and their exit code, and only :func:`visible` text on both streams."""
    if "OMP_WAIT_POLICY" not in os.environ:  # threads that wait keep their cores busy, by default for milliseconds
        os.environ.setdefault("GOMP_SPINCOUNT", "10000")  # read when torch is imported
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")
    streams = (stream or io.StringIO() for stream in (sys.stdout, sys.stderr))  # None: it is closed
    out, err = (Visible(getattr(stream, "raw", stream)) for stream in streams)
    with redirect_stdout(out), redirect_stderr(err):
        return _guarded(run, debug)


def _guarded(run: Callable[[], int], debug: bool) -> int:
    try:
        with _terminable():
            code = run()
            sys.stdout.flush()
            return code
    except KeyboardInterrupt as error:
        word, code = ("terminated", 143) if isinstance(error, Terminated) else ("interrupted", 130)
        print(" ".join([word, *getattr(error, "__notes__", [])]), file=sys.stderr)
        return code
    except Exception as error:
        if debug and not isinstance(error, BrokenPipeError):
            traceback.print_exc()
        if isinstance(error, OSError) and error.filename:  # such as a name that is too long for any folder
            error = FileError(f"cannot use {error.filename}: {error.strerror or error}")
        if isinstance(error, BrokenPipeError) or (isinstance(error, OSError) and error.errno in _FULL):
            # Not of a file, which would be a FileError: what the output holds would fail again.
            with open(os.devnull, "w") as nowhere, suppress(OSError, ValueError):
                os.dup2(nowhere.fileno(), sys.stdout.fileno())
            if isinstance(error, BrokenPipeError):  # nobody reads the output any more, as of head -1
                return 141
            error = FileError(f"cannot write the output: {error.strerror}")
        if isinstance(error, ScoreSDEError):
            print(f"error: {_cut(str(error))}", file=sys.stderr)
            return error.exit_code
        frame = traceback.extract_tb(error.__traceback__)[-1]
        place = f"{'/'.join(Path(frame.filename).parts[-2:])}, line {frame.lineno}"
        where = "" if debug else f" ({place}; --debug shows the traceback)"
        text = " ".join(f"{type(error).__name__}: {error}".split())
        # Torch reports in several ways that memory ran out.
        scarce = isinstance(error, MemoryError) or "OutOfMemoryError" in text or "can't allocate memory" in text
        text = f"out of memory: use a smaller batch or fewer steps ({text})" if scarce else text
        print(f"error: {_cut(text)}{where}", file=sys.stderr)
        return 1 if scarce else INTERNAL


def _cut(text: str) -> str:
    """``text`` in one line, without the middle of words of more than 600 characters, and of a very long text."""
    text = re.sub(r"\S{600,}|\s{600,}", lambda found: f"{found[0][:300]}…{found[0][-60:]}", text.replace("\n", " "))
    return text if len(text) < 20_000 else f"{text[:10_000]}…{text[-1000:]}"


def add_global_options(parser: argparse.ArgumentParser, **hidden: Any) -> None:
    """Add the options that every command has; ``hidden`` replaces their help and default."""
    told: dict[str, Any] = {"default": [], "help": "a local file of components", **hidden}
    parser.add_argument("--registry", metavar="FILE", action="append", **told)
    parser.add_argument("--debug", action="store_true", **{"help": "show tracebacks", **hidden})


def open_registry(local: Sequence[str], imports: bool = True) -> Registry:
    """The registry of everything installed and the local files; a missing file is a usage error."""
    if missing := [path for path in local if not Path(path).is_file()]:
        raise UsageError(f"there is no registry file {missing[0]}: check --registry")
    registry = load_registry(local=local) if imports else load_registry(local=local, imports=False)
    for status in registry.statuses:
        if imports and "SCORESDE_REGISTRY" in status.detail:
            print(f"plugin {status.owner}: {status.detail}", file=sys.stderr)
    return registry


def run() -> NoReturn:
    """Run :func:`main` and exit."""
    code = main()
    # A thread of a process group that frees a tensor while Python finalises would abort after the work is done.
    if os.environ.get("WORLD_SIZE", "1") != "1":
        try:
            print(end="", flush=True)
        finally:
            os._exit(code)
    sys.exit(code)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    return guarded(lambda: _dispatch(arguments), "--debug" in arguments)


def _dispatch(arguments: list[str]) -> int:
    early = Parser(prog="scoresde", add_help=False, allow_abbrev=False)
    add_global_options(early)
    known, left = early.parse_known_args(arguments)
    at = next((k for k, word in enumerate(left) if not word.startswith("-")), len(left))
    before, helps = set(left[:at]), bool(_HELP & set(left))
    word = left[at] if at < len(left) and not before & _HELP else None
    if "--version" in before:
        print(f"scoresde {own_version()}")
        return 0
    # Help only needs the names and summaries in files; plugins are imported only for a command that is in no file.
    registry = open_registry(known.registry, imports=word is not None and not helps)
    if helps and word is not None and word not in (*_OWN, *_commands(registry)):
        registry = open_registry(known.registry)
    commands = _commands(registry)
    if word is not None and word not in (*_OWN, *commands):
        raise UsageError(f"no command is called {word!r}.{near_misses(word, [*_OWN, *commands])}")
    parser = _parser(registry, commands, word)
    parsed = parser.parse_args(arguments)
    if word is None:
        parser.print_help()
        return 0
    return parsed.run(parsed, registry)  # type: ignore[no-any-return]


def _commands(registry: Registry) -> dict[str, Entry]:
    """The commands of plugins as typed: ``owner:name`` where the name is a core command or ambiguous."""
    entries = registry.entries("commands")
    words = [entry.row.name.replace("_", "-") for entry in entries]
    taken = {word for word in words if word in _OWN or words.count(word) > 1}
    return {f"{e.owner}:{word}" if word in taken else word: e for word, e in zip(words, entries, strict=True)}


def _parser(registry: Registry, plugins: Mapping[str, Entry], asked: str | None) -> Parser:
    """The parser of the command ``asked``, the only one that is imported; None: a parser for the help of all."""
    parser = Parser(prog="scoresde", description="Score-based generative models through SDEs.", allow_abbrev=False)
    parser.add_argument("--version", action="store_true", help="show program's version number and exit")
    add_global_options(parser)
    parser.registry = registry
    commands = parser.add_subparsers(metavar="COMMAND", parser_class=Parser)
    if asked is None or asked in _OWN:
        listing.configure(commands)
    for name, entry in plugins.items() if asked not in _OWN else ():
        component = registry.create("commands", parse(entry.qualified)) if name == asked else None
        row, told = entry.row, (inspect.getdoc(component) or "").partition("\n\n")[0].replace("``", "")
        command = commands.add_parser(name, **listing.told(row.summary, row.example, row.page, told))
        if component is not None:
            component.configure(command)
            command.set_defaults(run=component.run)
    for command in commands.choices.values():
        command.set_defaults(asked=command)
        add_global_options(command, default=argparse.SUPPRESS, help=argparse.SUPPRESS)
    return parser
