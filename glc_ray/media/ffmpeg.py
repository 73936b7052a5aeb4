"""The ffmpeg program: where it is, and a run of it that is fed through a pipe."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
from collections import deque
from contextlib import suppress
from functools import lru_cache
from threading import Thread
from typing import Any

import ffmpeg
import imageio_ffmpeg

from glc_ray.protocols import UserError
from glc_ray.store.storage import expanded

FFMPEG_VARIABLE = "GLC_RAY_FFMPEG"
"""Environment variable that names another ffmpeg than the one in the imageio-ffmpeg package."""

_QUIET = ("-hide_banner", "-nostats", "-loglevel", "error", "-y")
_KEPT_LINES = 20


class FFmpegError(RuntimeError):
    """ffmpeg failed; the message ends with its last lines."""


def find_ffmpeg(named: str | None = None) -> str:
    """The ffmpeg program to use.

    Args:
        named: a path, or a name on PATH; without it ``GLC_RAY_FFMPEG``, and without that the
            program that the imageio-ffmpeg package carries or finds.

    Raises:
        UserError: it is not there or not executable.
    """
    named = named or os.environ.get(FFMPEG_VARIABLE)
    if named:
        return _named_ffmpeg(named)
    try:
        return imageio_ffmpeg.get_ffmpeg_exe()
    except RuntimeError:
        raise UserError(
            "no ffmpeg: the package imageio-ffmpeg carries none for this platform and there is "
            "none on PATH; install ffmpeg (apt install ffmpeg, conda install ffmpeg) or name one "
            f"by {FFMPEG_VARIABLE}=/path/to/ffmpeg"
        ) from None


@lru_cache
def encoders_of(program: str) -> frozenset[str]:
    """Names of the video encoders that an ffmpeg was built with; it is asked once.

    Raises:
        FFmpegError: it did not answer.
    """
    asked = [program, "-hide_banner", "-encoders"]
    try:
        answer = subprocess.run(asked, stdin=subprocess.DEVNULL, capture_output=True)  # noqa: S603
    except OSError as error:
        raise FFmpegError(f"{program} cannot be run: {error}") from None
    if answer.returncode != 0:
        said = answer.stderr.decode(errors="replace").strip() or "(it said nothing)"
        raise FFmpegError(f"{program} -encoders failed with exit code {answer.returncode}:\n{said}")
    # " V....D libx264   H.264 / AVC ..."; six letters of flags, the first one V for video.
    rows = (line.split() for line in answer.stdout.decode(errors="replace").splitlines())
    return frozenset(
        row[1] for row in rows if len(row) > 1 and len(row[0]) == 6 and row[0][0] == "V"
    )


class FFmpegProcess:
    """A running ffmpeg that reads ``pipe:0``.

    Its messages are read by a thread all the time: ffmpeg would block on a full pipe otherwise.
    """

    def __init__(self, stream: Any, program: str) -> None:
        """Start it.

        Args:
            stream: what to do, from ffmpeg-python, which passes arguments without a shell.
            program: the ffmpeg to run.
        """
        self._process: subprocess.Popen[bytes] = ffmpeg.run_async(
            stream, cmd=[program, *_QUIET], pipe_stdin=True, pipe_stderr=True
        )
        self._last_lines: deque[str] = deque(maxlen=_KEPT_LINES)
        self._reader = Thread(target=self._drain, daemon=True)
        self._reader.start()

    def write(self, data: memoryview) -> None:
        """Hand on bytes; returns when ffmpeg or the pipe has taken them.

        Raises:
            FFmpegError: ffmpeg is dead.
        """
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(data)
        except BrokenPipeError:
            raise self._failure() from None

    def finish(self) -> None:
        """Close the input and wait until ffmpeg has written everything.

        Raises:
            FFmpegError: it did not succeed.
        """
        assert self._process.stdin is not None
        try:
            self._process.stdin.close()
        except BrokenPipeError:
            raise self._failure() from None
        if self._process.wait() != 0:
            raise self._failure()
        self._reader.join()

    def kill(self) -> None:
        """End it at once, in whatever state."""
        self._process.kill()
        self._process.wait()
        self._reader.join()
        # Closing flushes what the dead process did not take.
        if self._process.stdin is not None:
            with suppress(BrokenPipeError):
                self._process.stdin.close()

    def _drain(self) -> None:
        assert self._process.stderr is not None
        with self._process.stderr as messages:
            for line in messages:
                self._last_lines.append(line.decode(errors="replace").rstrip())

    def _failure(self) -> FFmpegError:
        code = self._process.wait()
        self._reader.join()
        how = f"was killed by signal {-code}" if code < 0 else f"failed with exit code {code}"
        said = "\n".join(self._last_lines) or "(it said nothing)"
        if code == -signal.SIGKILL:
            how += ", by somebody or for want of memory"
        if os.strerror(errno.ENOSPC) in said:
            how += (
                ", because the disk that it writes to is full; make room there, or name another "
                "folder by TMPDIR"
            )
        return FFmpegError(f"ffmpeg {how}:\n{said}")


def _named_ffmpeg(named: str) -> str:
    program = shutil.which(str(expanded(named)))
    if program is None:
        raise UserError(
            f"{FFMPEG_VARIABLE} = {named!r}: no such program, or it may not be executed; give the "
            f"path of an ffmpeg, or unset {FFMPEG_VARIABLE} to use the one that is installed with "
            "glc-ray"
        )
    return program
