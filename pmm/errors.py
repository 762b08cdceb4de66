"""The one exception that means "your input, not our code"."""


class InputError(ValueError):
    """Bad input from the user: a parameter, a file, an array.

    The message is one line that names the file or argument, says what was found and what to do.
    The command line prints it and exits with code 2; a library caller catches a ValueError.
    """


class MissingDependency(InputError, ImportError):
    """A package that this step needs is not installed; the message says how to install it."""
