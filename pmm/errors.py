"""The one exception that means "your input, not our code", and how its messages list names."""

from collections.abc import Sequence

END = 400  # characters at either end of a long message that are shown


class InputError(ValueError):
    """Bad input from the user: a parameter, a file, an array.

    The message is one line that names the file or argument, says what was found and what to do.
    The command line prints it and exits with code 2; a library caller catches a ValueError.
    """


class MissingDependency(InputError, ImportError):
    """A package that this step needs is not installed; the message says how to install it."""


def some(names: Sequence[str], most: int = 5) -> str:
    """List the first names for a message, with dots where there are more."""
    return ", ".join(names[:most]) + (", ..." if len(names) > most else "")


def one_line(message: object) -> str:
    """Write a message in one line that a terminal can show: names of files may hold anything, and be of any length."""
    text = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in " ".join(str(message).split()))
    return text if len(text) <= 2 * END else f"{text[:END]} ... {text[-END:]}"
