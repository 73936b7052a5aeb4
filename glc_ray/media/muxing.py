"""What ffmpeg is told about the file that it writes, as opposed to the pictures in it."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

from glc_ray.media.formats import Format

# Tags that MP4 has atoms for; every player shows them.
_MP4_TAGS = {"title", "artist", "album", "comment", "copyright", "date", "description", "genre"}

_LONGEST_TAG = 100_000
FOLDER_TAGS = "video.json"
"""Beside the frames of a folder: frame rate, number of frames, and tags."""


def output_options(
    format: Format, muxer: str, metadata: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """ffmpeg's options of an output file: container, tags, nothing of the machine.

    Args:
        format: of the whole.
        muxer: ffmpeg's name of the container; of a segment it may be another than the whole's.
        metadata: tags; left out where the format holds none.
    """
    options: dict[str, Any] = {
        "format": muxer,
        # No version of the muxer in the file.
        "fflags": "+bitexact",
        "flags": "+bitexact",
    }
    if muxer == format.muxer:
        options |= format.options
    tags = metadata if metadata and format.tags else {}
    if muxer in ("mp4", "mov"):
        options["movflags"] = "+faststart"
        if not tags.keys() <= _MP4_TAGS:
            options["movflags"] += "+use_metadata_tags"  # or ffmpeg drops what MP4 does not know
    # ffmpeg-python takes each option once; ffmpeg ignores what follows "metadata:g".
    for index, (key, value) in enumerate(tags.items()):
        options[f"metadata:g:{index}"] = f"{_checked_key(key)}={_as_argument(value)}"
    return options


def file_url(path: Path) -> str:
    """``file:`` and the absolute path keep "-x.mp4" and "a:b.mp4" from being read as an option or a
    protocol."""
    return f"file:{path.absolute()}"


def frame_name(frame: int, format: Format) -> str:
    """Name of the file of a frame in a folder; numbers are those of the whole video."""
    return f"frame_{frame:06d}{format.frame_suffix}"


def frame_pattern(folder: Path, format: Format) -> str:
    """ffmpeg's word for ``frame_name`` in a folder, whatever the folder is called."""
    return f"{file_url(folder).replace('%', '%%')}/frame_%06d{format.frame_suffix}"


def write_folder_tags(
    folder: Path, fps: float | Fraction, num_frames: int, metadata: Mapping[str, str]
) -> None:
    """Write what pictures cannot say of themselves beside the frames, as JSON."""
    facts = {"fps": str(Fraction(str(fps))), "num_frames": num_frames, **metadata}
    text = json.dumps(facts, indent=2, ensure_ascii=True)
    (folder / FOLDER_TAGS).write_text(f"{text}\n", encoding="ascii")


def _checked_key(key: str) -> str:
    if not key.replace("_", "").isalnum() or not key.isascii():
        raise ValueError(f"metadata key {key!r}: use ASCII letters, digits and _")
    return key


def _as_argument(value: str) -> str:
    """What an argument of a program can hold: no NUL, and only what the locale can encode."""
    encoding = sys.getfilesystemencoding()
    argument = str(value).replace("\0", "�").encode(encoding, "replace")
    # Linux takes 131,072 bytes of each, its key included.
    return argument[:_LONGEST_TAG].decode(encoding, "ignore")
