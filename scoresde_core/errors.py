"""The errors that reach a user. Each carries one sentence: what is wrong, its value, and the remedy.

The command line prints the sentence alone (``--debug`` adds the traceback) and exits with ``exit_code``.
"""


class ScoreSDEError(Exception):
    """Base of every error this project raises on purpose."""

    exit_code = 1


class UsageError(ScoreSDEError):
    """The request itself is wrong: an unknown name, a parameter out of range, a combination that cannot work."""

    exit_code = 2


class UnknownName(UsageError):
    """A name that no component has; the message lists near misses."""


class AmbiguousName(UsageError):
    """A bare name that two plugins claim; the message names both owners."""


class ManifestError(UsageError):
    """A registry file that does not follow the schema; ``problems`` holds every fault found."""

    def __init__(self, source: str, problems: list[str]) -> None:
        self.source, self.problems = source, problems
        super().__init__(f"{source}: " + "; ".join(problems))


class PluginError(ScoreSDEError):
    """A plugin broke while it was loaded or while a component of it was resolved."""


class FileError(ScoreSDEError):
    """A file that is missing, damaged, of a newer format, or cannot be written."""


def near_misses(name: str, known: list[str] | tuple[str, ...]) -> str:
    """``" Did you mean 'a' or 'b'?"`` for close names, else the list of what there is."""
    from difflib import get_close_matches

    close = get_close_matches(str(name).lower(), known, n=3, cutoff=0.5)
    if close:
        return " Did you mean " + " or ".join(repr(c) for c in close) + "?"
    return f" Known: {', '.join(sorted(known))}." if known else " None is registered."
