"""Bytes that the server and one client exchange in a round."""

from typing import NamedTuple


class Traffic(NamedTuple):
    """Bytes of one client in one round."""

    down: int  # the broadcast that it is sent
    up: int  # the update that it sends, after all stages of the uplink
