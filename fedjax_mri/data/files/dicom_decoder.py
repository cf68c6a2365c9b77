"""Decodes compressed DICOM pixels in processes of their own, since decoders are where hostile files strike.

A process has a limit of memory and of processor time for each file. It is kept for the next file, and replaced when it
dies. It is given bytes and gives back bytes: nothing that it says is believed beyond their number.
This file is also the program of that process, and imports nothing of ours for that reason.
"""

import atexit
import os
import struct
import subprocess
import sys

import numpy as np

MEMORY = 2**30  # bytes that a decoder may use beside a multiple of what it decodes
SECONDS = 30  # of processor time, and one more for each MB that it decodes
REQUEST = struct.Struct("<QQQ16s")  # bytes of the file and of its pixels, seconds; plug-in of pydicom
ANSWER = struct.Struct("<?c?Q")  # decoded?, 1 or 2 or 4 bytes a pixel, signed?; bytes that follow
_idle: list[subprocess.Popen[bytes]] = []  # processes that wait for a file; each thread takes one or starts one
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_idle.clear)


class DecodingError(Exception):
    """Why pixels could not be decoded."""


def decode(content: bytes, claimed: int, plugin: str, seconds: float = SECONDS) -> np.ndarray:
    """The pixels, flat and of whatever integer type they are stored in, of a DICOM file's bytes.

    `claimed` is the number of bytes that the header says they take. Raises DecodingError.
    """
    worker = waiting() or started()
    budget = int(seconds + claimed / 1e6 + 1)
    try:
        succeeded, width, signed, answer = ask(worker, content, claimed, plugin, budget)
    except BaseException as error:
        worker.kill()
        worker.communicate()
        if isinstance(error, (OSError, EOFError, struct.error)):
            raise DecodingError(f"its decoder failed, or needed more than {budget} s or too much memory") from None
        raise
    _idle.append(worker)
    if not succeeded:
        raise DecodingError(answer.decode("utf-8", "replace")[:200])
    return np.frombuffer(answer, f"<{'i' if signed else 'u'}{width.decode()}")


def waiting() -> "subprocess.Popen[bytes] | None":
    """A process that waits for a file, if there is one."""
    while _idle:
        try:
            worker = _idle.pop()
        except IndexError:  # another thread was quicker
            return None
        if worker.poll() is None:
            return worker
    return None


def started() -> "subprocess.Popen[bytes]":
    """A new process. Signals from a terminal do not reach it; it ends when its input does."""
    return subprocess.Popen(
        [sys.executable, "-P", __file__],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"},  # each would reserve memory
        start_new_session=True,
    )


def ask(
    worker: "subprocess.Popen[bytes]", content: bytes, claimed: int, plugin: str, seconds: int
) -> tuple[bool, bytes, bool, bytes]:
    """Whether the process decoded, bytes a pixel, signed, and pixels or reason. Raises where it ended instead."""
    assert worker.stdin is not None and worker.stdout is not None
    worker.stdin.write(REQUEST.pack(len(content), claimed, seconds, plugin.encode()) + content)
    worker.stdin.flush()
    succeeded, width, signed, length = ANSWER.unpack(worker.stdout.read(ANSWER.size))
    if length > max(2 * claimed, 1000) or width not in (b"1", b"2", b"4"):
        raise OSError("more than a decoder can have to say")
    answer = worker.stdout.read(length)
    if len(answer) < length:
        raise EOFError
    return succeeded, width, signed, answer


@atexit.register
def close() -> None:
    """Ends the processes that wait."""
    while worker := waiting():
        worker.communicate()


def serve() -> None:
    """Decodes files from standard input to standard output until there are no more."""
    source, out = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what decoders print is no answer
    while request := source.read(REQUEST.size):
        length, claimed, seconds, plugin = REQUEST.unpack(request)
        limit(MEMORY + 8 * claimed + 4 * length, seconds)
        try:
            pixels = pixels_of(source.read(length), plugin.rstrip(b"\0").decode())
            said = ANSWER.pack(True, str(pixels.itemsize).encode(), pixels.dtype.kind == "i", pixels.nbytes)
            out.write(said + pixels.tobytes())
        except Exception as error:
            reason = " ".join(f"{type(error).__name__}: {error}".split()).encode()[:1000]
            out.write(ANSWER.pack(False, b"1", False, len(reason)) + reason)
        out.flush()


def limit(memory: int, seconds: int) -> None:
    """Limits this process, where the system can, to bytes of memory and seconds of processor time from now on."""
    try:
        import resource
    except ImportError:  # Windows
        return
    used = sum(resource.getrusage(resource.RUSAGE_SELF)[:2])
    for kind, value in ((resource.RLIMIT_AS, memory), (resource.RLIMIT_CPU, int(used) + seconds)):
        _, most = resource.getrlimit(kind)
        resource.setrlimit(kind, (value if most == resource.RLIM_INFINITY else min(value, most), most))


def pixels_of(content: bytes, plugin: str) -> np.ndarray:
    """The pixels of a DICOM file, little endian."""
    import io

    from pydicom.pixels import pixel_array

    array = pixel_array(io.BytesIO(content), raw=True, decoding_plugin=plugin)
    return array.astype(array.dtype.newbyteorder("<"), copy=False)


if __name__ == "__main__":
    serve()
