"""The one exception that means: the user can mend this, and the message says how."""


class UserError(Exception):
    """Bad input. The message is one line that names the value, the file where there is one, and the remedy."""
