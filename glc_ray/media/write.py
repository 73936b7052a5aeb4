"""From final latents to the files of one video: decode, encode and contact sheet in one pass."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from fractions import Fraction
from pathlib import Path

from torch import Tensor

from glc_ray.config import EncodeSpec
from glc_ray.media.contact_sheet import ContactSheet
from glc_ray.media.decode import Frames, stream_decode
from glc_ray.media.encode import EncodeReport, encode_video
from glc_ray.media.formats import choose
from glc_ray.protocols import FrameDecoder


def write_video(
    decoder: FrameDecoder,
    latents_BFCHW: Tensor,
    video_path: Path,
    contact_sheet_path: Path,
    *,
    num_frames: int,
    fps: float | Fraction,
    prompt: str,
    settings: EncodeSpec | None = None,
    metadata: Mapping[str, str] | None = None,
    on_frames: Callable[[int], None] | None = None,
) -> EncodeReport:
    """Decode latents, encode the frames as they come and draw the contact sheet.

    Each file appears whole or not at all; the contact sheet follows the video.

    Args:
        decoder: a loaded VAE.
        latents_BFCHW: (1, K, C, H, W) final latents on any device.
        video_path: the file, or the folder of pictures.
        contact_sheet_path: the PNG file.
        num_frames: how many frames the video gets; what the latents give beyond is dropped.
        fps: frames per second.
        prompt: title of the contact sheet.
        settings: how frames are compressed; none is H.264.
        metadata: tags of the container; values may hold any characters.
        on_frames: called with the number of frames so far after each temporal batch.

    Raises:
        UserError: no ffmpeg, settings that it cannot do, or a size that the format cannot hold.
        NonFiniteError: latents or pixels hold NaN or infinity.
        FFmpegError: ffmpeg failed; the message ends with its last lines.
        ValueError: the latents decode to fewer than ``num_frames`` frames.
    """
    sheet = ContactSheet(num_frames, title=prompt, fps=fps)
    settings = settings or EncodeSpec()
    decoded = stream_decode(decoder, latents_BFCHW, choose(settings).bit_depth)
    frames = _watch(decoded, num_frames, sheet, on_frames)
    report = encode_video(frames, video_path, fps=fps, settings=settings, metadata=metadata)
    sheet.save(contact_sheet_path)
    return report


def _watch(
    batches: Iterable[Frames],
    num_frames: int,
    sheet: ContactSheet,
    on_frames: Callable[[int], None] | None,
) -> Iterator[Frames]:
    """Show passing frames to the contact sheet and the caller, and count them."""
    done = 0
    for frames in batches:
        frames = frames[: num_frames - done]
        done += len(frames)
        sheet.add(frames)
        yield frames
        if on_frames is not None:
            on_frames(done)
    if done != num_frames:
        raise ValueError(f"the latents decode to {done} frames; {num_frames} are needed")
