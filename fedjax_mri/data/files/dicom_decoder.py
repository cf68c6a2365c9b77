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

MEMORY = 2**30  # bytes that a decoder may use beside multiples of the file and its pixels
SECONDS = 10  # of processor time, and one more for each MB of pixels
REQUEST = struct.Struct("<QQQ16s")  # bytes of the file, bytes of memory, seconds, plug-in of pydicom
ANSWER = struct.Struct("<??BQ")  # decoded?, signed?, bytes a pixel; bytes that follow
_idle: list[subprocess.Popen[bytes]] = []  # processes that wait for a file; each thread takes one or starts one
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_idle.clear)


class DecodingError(Exception):
    """Why pixels could not be decoded."""


def decode_compressed(content: bytes, claimed: int, plugin: str) -> np.ndarray:
    """Returns the pixels, flat and of whatever integer type they are stored in, of a DICOM file's bytes.

    `claimed` is the number of bytes that the header says they take. Raises DecodingError.
    """
    memory, seconds = MEMORY + 8 * claimed + 4 * len(content), SECONDS + claimed // 10**6
    request = REQUEST.pack(len(content), memory, seconds, plugin.encode()) + content
    worker = waiting() or started()
    try:
        succeeded, kind, answer = ask(worker, request, most=max(2 * claimed, 1000))
    except BaseException as error:
        worker.kill()
        worker.communicate()
        if isinstance(error, (OSError, EOFError, struct.error)):
            raise DecodingError(f"the decoder failed, or needed more than {seconds} s") from None
        raise
    _idle.append(worker)
    if not succeeded:
        raise DecodingError(answer.decode("utf-8", "replace")[:200])
    return np.frombuffer(answer, kind)


def waiting() -> "subprocess.Popen[bytes] | None":
    """Returns a process that waits for a file, if there is one."""
    while _idle:
        try:
            worker = _idle.pop()
        except IndexError:  # another thread was quicker
            return None
        if worker.poll() is None:
            return worker
    return None


def started() -> "subprocess.Popen[bytes]":
    """Returns a new process. Signals from a terminal do not reach it; it ends when its input does."""
    return subprocess.Popen(
        [sys.executable, "-P", __file__],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"},  # each would reserve memory
        start_new_session=True,
    )


def ask(worker: "subprocess.Popen[bytes]", request: bytes, most: int) -> tuple[bool, str, bytes]:
    """Returns whether the process decoded, the type of pixels, and pixels or reason. Raises where it ended instead."""
    assert worker.stdin is not None and worker.stdout is not None
    worker.stdin.write(request)
    worker.stdin.flush()
    succeeded, signed, width, length = ANSWER.unpack(worker.stdout.read(ANSWER.size))
    if length > most or width not in (1, 2, 4):
        raise EOFError
    answer = worker.stdout.read(length)
    if len(answer) < length:
        raise EOFError
    return succeeded, f"<{'i' if signed else 'u'}{width}", answer


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
        length, memory, seconds, plugin = REQUEST.unpack(request)
        content = source.read(length)
        limit(memory, seconds)
        try:
            pixels = pixels_of(content, plugin.rstrip(b"\0").decode())
            said = ANSWER.pack(True, pixels.dtype.kind == "i", pixels.itemsize, pixels.nbytes)
            out.write(said + pixels.tobytes())
        except Exception as error:
            reason = " ".join(f"{type(error).__name__}: {error}".split()).encode()[:1000]
            out.write(ANSWER.pack(False, False, 1, len(reason)) + reason)
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
    """Returns the pixels of a DICOM file, little endian."""
    import io

    from pydicom.pixels import pixel_array

    array = pixel_array(io.BytesIO(content), raw=True, decoding_plugin=plugin)
    return array.astype(array.dtype.newbyteorder("<"), copy=False)


if __name__ == "__main__":
    serve()
