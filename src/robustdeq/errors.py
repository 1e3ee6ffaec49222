"""The one exception that stands for a mistake in the input rather than in the program."""


class InputError(ValueError):
    """Input that cannot be used: one sentence that names the culprit and the remedy.

    The command line prints the sentence alone and exits with status 2; in Python it is a `ValueError`.
    """
