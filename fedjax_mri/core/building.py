"""What settings build, which may be those of a user's own class, is checked here to be of the right kind."""

from typing import Any, TypeVar

from fedjax_mri.core.errors import UserError, short_message

Built = TypeVar("Built")


def build(settings: Any, kind: type[Built], *given: Any) -> Built:
    """Returns what `settings.build(*given)` makes.

    Raises UserError, naming the file and line of `build`, where it is not of the `kind`, or takes other arguments.
    """
    try:
        made = settings.build(*given)
    except TypeError as error:
        if error.__traceback__ is not None and error.__traceback__.tb_next is not None:  # raised within `build`
            raise
        raise UserError(
            f"{source_location(settings)} cannot be called with {len(given)} arguments: {short_message(error)}"
        ) from error
    if not isinstance(made, kind):
        wrong = "None; is a return missing?" if made is None else f"{article(type(made))}; return {article(kind)}"
        raise UserError(f"{source_location(settings)} returns {wrong}")
    return made


def source_location(settings: Any) -> str:
    """Returns file, line and name of the method `build` of settings."""
    code = getattr(type(settings).build, "__code__", None)
    where = f"{code.co_filename}, line {code.co_firstlineno}: " if code else ""
    return f"{where}{type(settings).__name__}.build"


def article(kind: type) -> str:
    """Returns the name of a type with its article."""
    return f"{'an' if kind.__name__[0] in 'aeiouAEIOU' else 'a'} {kind.__name__}"
