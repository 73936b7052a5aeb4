"""What a person is told of a failure, in a manifest row and on the terminal."""

from __future__ import annotations

from ray.exceptions import RayError

from glc_ray.media.decode import NonFiniteError
from glc_ray.media.ffmpeg import FFmpegError
from glc_ray.protocols import UserError
from glc_ray.runtime.errors import reason
from glc_ray.store.storage import StorageError

_FOR_PEOPLE = (UserError, StorageError, FFmpegError, NonFiniteError)
_GOES_ON = "what is finished is kept, and the same command goes on from there"


def in_words(error: Exception) -> str:
    """The message; of an error that was not written for people its type, too, and of one in another
    process no traceback.

    What may go better another time ends in saying how.
    """
    if isinstance(error, RayError):
        text = reason(error)
    else:
        text = str(error) if isinstance(error, _FOR_PEOPLE) else f"{type(error).__name__}: {error}"
    if isinstance(error, UserError):
        return text
    return f"{text}\n({_GOES_ON})" if "\n" in text else f"{text}; {_GOES_ON}"
