"""What is refused, by name."""

from enum import Enum

from fedjax_mri.core.errors import UserError


class Fault(Enum):
    """Why a message, or a setting, is refused."""

    FORMAT = "not a message of this protocol"
    VERSION = "unknown version"
    TYPE = "unknown type"
    LENGTH = "wrong length"
    SESSION = "another session or round"
    SENDER = "unknown sender"
    SIGNATURE = "forged"
    REPEATED = "repeated"
    LATE = "late: its step is closed"
    EARLY = "early: its step has not begun"
    KEYS = "keys that cannot be used"
    THRESHOLD = "fewer clients than the threshold"
    MEMBERS = "clients that took no part in the step before"
    OVERLAP = "clients that are said to have sent and to have dropped out"
    SHARES = "shares that were not made for this client, or that no secret belongs to"
    DISAGREEMENT = "clients that were told of other survivors"
    RANGE = "values whose sum could overflow"


class Refused(UserError):
    """A message or a setting that is refused; `fault` says why."""

    def __init__(self, fault: Fault, detail: str) -> None:
        super().__init__(f"secure: {fault.value}: {detail}")
        self.fault = fault


def require(valid: bool, fault: Fault, detail: str) -> None:
    """Raises Refused unless `valid`."""
    if not valid:
        raise Refused(fault, detail)
