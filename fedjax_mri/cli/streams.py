"""Standard streams that never end a command: a reader may leave, and any text can be printed."""

import errno
import io
import os
import sys
from typing import Any

GONE = (errno.EPIPE, errno.EIO)  # a pipe that nobody reads any more, as after `| head`, and a terminal that was closed


class LastingFile(io.FileIO):
    """A file that takes everything in silence once its reader has gone, so that a run outlives its terminal."""

    def write(self, data: Any) -> int:
        """Writes `data` as far as the reader takes it, and returns the number of bytes.

        Raises OSError once on any other trouble, such as a full disk, and is silent from then on.
        """
        try:
            return super().write(data)
        except OSError as error:
            os.dup2(os.open(os.devnull, os.O_WRONLY), self.fileno())
            if error.errno in GONE:
                return memoryview(data).nbytes
            error.filename = "standard output" if self.fileno() == 1 else "standard error"
            raise


def make_lasting() -> None:
    """Makes stdout and stderr last. A stream that was closed before the start goes nowhere.

    A character that the encoding of a stream does not have is printed as its number, such as \\xe9.
    """
    sys.stdout, sys.stderr = lasting(sys.stdout, 1), lasting(sys.stderr, 2)


def lasting(stream: Any, number: int) -> io.TextIOWrapper:
    """Returns a stream on the file descriptor `number` in place of `stream`, which is None where that is closed."""
    if stream is None:
        return open(os.devnull, "w", encoding="utf-8")  # also keeps the number from being given to another file
    stream.flush()
    file = io.BufferedWriter(LastingFile(stream.fileno(), "w", closefd=False))
    by_line = stream.line_buffering or stream.write_through or number == 2
    return io.TextIOWrapper(file, stream.encoding, "backslashreplace", line_buffering=by_line)
