"""Frames to encode, and what came of them: real ffmpeg writes, PyAV reads."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from PIL import Image

from glc_ray.config import EncodeSpec
from glc_ray.media.encode import encode_frames
from glc_ray.media.formats import choose
from glc_ray.media.segments import SegmentFile, SegmentReport, encode_segment, join


def moving_texture(num_frames: int, bit_depth: int = 8, height: int = 64, width: int = 96):
    """(n, height, width, 3): a smooth texture that drifts under film grain and fixed light."""
    random = np.random.default_rng(7)
    coarse = Image.fromarray(random.integers(0, 256, (24, 40), dtype=np.uint8))
    texture = np.asarray(coarse.resize((width * 3, height * 3), Image.Resampling.BICUBIC)) / 255
    drift = [texture[t % 64 : t % 64 + height, t % 64 : t % 64 + width] for t in range(num_frames)]
    grain = random.normal(0, 0.015, (num_frames, height, width))
    grey = np.stack(drift)[..., None] * 0.6 + grain[..., None]
    y, x = np.mgrid[0:height, 0:width]
    light = np.stack([0.15 + 0 * x, 0.2 * x / width, 0.3 * y / height], -1)
    levels = 2**bit_depth - 1
    return np.round((grey + light).clip(0, 1) * levels).astype(f"u{bit_depth // 8}")


def segment_suffix(settings: EncodeSpec) -> str:
    """Of a segment's file name; empty for formats whose segments are folders."""
    return choose(settings).segment_suffix


def encode(
    batches: Iterable[np.ndarray],
    path: Path,
    *,
    fps: float = 8,
    settings: EncodeSpec | None = None,
    metadata: Mapping[str, str] | None = None,
) -> SegmentReport:
    """A video of one segment, as a render makes it: encoded, then joined to ``path``."""
    settings = settings or EncodeSpec()
    segment = path.with_name(f"segment of {path.name}{segment_suffix(settings)}")
    report = encode_segment(batches, segment, first_frame=0, fps=fps, settings=settings)
    pieces = [SegmentFile(segment, report.num_frames)]
    join(pieces, path, fps=fps, settings=settings, metadata=metadata)
    shutil.rmtree(segment) if segment.is_dir() else segment.unlink()
    return report


def encode_in_one_piece(
    batches: Iterable[np.ndarray], path: Path, *, fps: float, settings: EncodeSpec
) -> None:
    """The frames straight into the container of the whole, without a segment or a join."""
    encoding = choose(settings)
    if not encoding.format.suffix:
        path.mkdir()
    encode_frames(batches, path, fps=fps, encoding=encoding, muxer=encoding.format.muxer)


def contents(folder: Path, pattern: str = "*") -> dict[str, bytes]:
    """Bytes of the files of a folder, by name."""
    return {file.name: file.read_bytes() for file in folder.glob(pattern)}


def read(path: Path, pixels: str = "rgb24") -> tuple[list[Fraction], np.ndarray]:
    """Times in seconds, and frames (n, height, width, 3)."""
    with av.open(str(path)) as container:
        frames = list(container.decode(video=0))
        times = [frame.pts * frame.time_base for frame in frames]
        return times, np.stack([frame.to_ndarray(format=pixels) for frame in frames])


def read_folder(folder: Path, pixels: str) -> np.ndarray:
    """Frames (n, height, width, 3) of a folder of pictures, by name."""
    return np.concatenate([read(file, pixels)[1] for file in sorted(folder.glob("frame_*"))])


def packet_times(path: Path) -> list[tuple[Fraction, Fraction]]:
    """(decoding, presentation) times of all packets in the order of the file."""
    with av.open(str(path)) as container:
        packets = [packet for packet in container.demux(video=0) if packet.size]
        return [(p.dts * p.time_base, p.pts * p.time_base) for p in packets]


def psnr(frames: np.ndarray, source: np.ndarray) -> np.ndarray:
    """Of each frame, in dB; the source may have 16 bits."""
    eight_bits = source if source.dtype == np.uint8 else source / 257
    error = ((frames.astype(float) - eight_bits) ** 2).mean((1, 2, 3))
    return 10 * np.log10(255**2 / np.maximum(error, 1e-9))


def names(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.iterdir())


def running_ffmpegs() -> list[int]:
    """Those that this process started; it has other children, such as a cluster's."""
    tasks = Path("/proc/self/task").glob("*/children")
    found = [int(child) for task in tasks for child in task.read_text().split()]
    return [child for child in found if "ffmpeg" in Path(f"/proc/{child}/exe").resolve().name]
