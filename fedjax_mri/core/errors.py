"""The one exception that means: the user can mend this, and the message says how."""


class UserError(Exception):
    """Bad input. The message is one line that names the value, the file where there is one, and the remedy."""


def brief(error: Exception) -> str:
    """Another library's words on one short line."""
    return " ".join(str(error).split())[:160] or type(error).__name__


def known(value: object) -> bool:
    """Whether a number is known now, and not only when a program runs."""
    import jax

    return not isinstance(value, jax.core.Tracer)
