"""The exception for bad input, which the user can correct."""


class UserError(Exception):
    """Raised on bad input. The message is one line that names the value, the file if there is one, and the remedy."""


def install(extra: str) -> str:
    """Returns how to install what an extra of this package needs, for the end of a message."""
    return f"in the folder of fedjax_mri's source, run pip install '.[{extra}]'"


def short_message(error: BaseException) -> str:
    """Returns the message of another library's exception, as one line of at most 160 characters."""
    return " ".join(str(error).split())[:160] or type(error).__name__


def is_concrete(value: object) -> bool:
    """Returns whether a value is known now. A tracer's is known only when the compiled program runs."""
    import jax

    return not isinstance(value, jax.core.Tracer)
