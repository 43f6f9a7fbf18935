"""The errors shown to a user. Each message is one sentence: what is wrong, the value, and the remedy.

The command line prints the sentence (``--debug`` adds the traceback) and exits with ``exit_code``.
"""


class ScoreSDEError(Exception):
    """Base of all errors that this project raises on purpose."""

    exit_code = 1


class UsageError(ScoreSDEError):
    """A wrong request: an unknown name, a parameter out of range, a combination that cannot work."""

    exit_code = 2


class UnknownName(UsageError):
    """An unknown name; the message lists near misses."""


class AmbiguousName(UsageError):
    """A name that two plugins register; the message names both owners."""


class ManifestError(UsageError):
    """A registry file that violates the schema; ``problems`` lists every violation."""

    def __init__(self, source: str, problems: list[str]) -> None:
        self.source, self.problems = source, problems
        super().__init__(f"{source}: " + "; ".join(problems))


class PluginError(ScoreSDEError):
    """A plugin, or one of its components, could not be loaded."""


class FileError(ScoreSDEError):
    """A file that is missing, damaged, of a newer format, or cannot be written."""

    exit_code = 3


def near_misses(name: str, known: list[str] | tuple[str, ...]) -> str:
    """``" Did you mean 'a' or 'b'?"`` if there are close names, else the list of known names."""
    from difflib import get_close_matches

    close = get_close_matches(str(name).lower(), known, n=3, cutoff=0.5)
    if close:
        return " Did you mean " + " or ".join(repr(c) for c in close) + "?"
    return f" Known: {', '.join(sorted(known))}." if known else " None is registered."
