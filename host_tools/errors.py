"""The one exception that the tools raise on purpose."""


class BarenetError(Exception):
    """Something the user can do something about.

    The message is one line that says what happened and what to do next; the command line prints it and exits with
    `exit_code`.
    """

    exit_code = 1
