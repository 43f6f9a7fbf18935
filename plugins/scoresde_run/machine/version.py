"""The version of scoresde itself."""

from importlib.metadata import PackageNotFoundError, version


def own_version() -> str:
    """The installed version, or ``checkout``."""
    try:
        return version("scoresde")
    except PackageNotFoundError:
        return "checkout"
