"""From final latents to the files of one video: decode, encode and contact sheet in one pass."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from fractions import Fraction
from pathlib import Path

from torch import Tensor

from glc_ray.media.contact_sheet import ContactSheet
from glc_ray.media.decode import Frames, stream_decode
from glc_ray.media.encode import EncodeReport, EncodeSettings, encode_video
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
    crf: int = EncodeSettings.crf,
    preset: str = EncodeSettings.preset,
    metadata: Mapping[str, str] | None = None,
    on_frames: Callable[[int], None] | None = None,
) -> EncodeReport:
    """Decode latents, encode the frames as they come and draw the contact sheet.

    Each file appears whole or not at all; the contact sheet follows the video.

    Args:
        decoder: a loaded VAE.
        latents_BFCHW: (1, K, C, H, W) final latents on any device.
        video_path: the MP4 file.
        contact_sheet_path: the PNG file.
        num_frames: how many frames the video gets; what the latents give beyond is dropped.
        fps: frames per second.
        prompt: title of the contact sheet.
        crf: quality of x264: 0 lossless, 51 worst.
        preset: effort of x264.
        metadata: tags of the container; values may hold any characters.
        on_frames: called with the number of frames so far after each temporal batch.

    Raises:
        UserError: no ffmpeg, or a side of the picture is odd.
        NonFiniteError: latents or pixels hold NaN or infinity.
        FFmpegError: ffmpeg failed; the message ends with its last lines.
        ValueError: the latents decode to fewer than ``num_frames`` frames.
    """
    sheet = ContactSheet(num_frames, title=prompt, fps=fps)
    frames = _watch(stream_decode(decoder, latents_BFCHW), num_frames, sheet, on_frames)
    settings = EncodeSettings(crf=crf, preset=preset)
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
