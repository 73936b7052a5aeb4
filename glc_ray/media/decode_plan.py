"""What several decoders share: whole videos, the tiles of a picture, or stretches of time.

All three give the same bits (stretches with a warm-up long enough), so that time decides. It is
estimated by counting what is decoded, a tile by its latent cells; tiles that cross processes and
waiting are left out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from glc_ray.config import DecodeSpec
from glc_ray.media.stretch import (
    SEGMENT_LATENT_FRAMES,
    Segment,
    Stretch,
    latent_frames_to_decode,
    segments,
    stretches,
    wanted_frames,
)
from glc_ray.media.tiles import TileGrid, assign_tiles, tile_grid, tile_sizes
from glc_ray.protocols import DecoderFacts, UserError

Kind = Literal["videos", "tiles", "stretches"]


@dataclass(frozen=True)
class DecodePlan:
    """How each video of a run is decoded."""

    kind: Kind
    why: str
    """The choice in words, with what the others would give."""
    speedup: float
    """Estimated, against one decoder for all videos."""
    segments: tuple[Segment, ...]
    """The segments that the file is made of, in order."""
    stretches: tuple[Stretch, ...]
    """Each is decoded apart from the others; one of all segments unless ``kind`` is stretches."""
    warmup: int
    """Latent frames of warm-up in front of a stretch."""
    tiles: tuple[tuple[int, ...], ...]
    """Tiles of each decoder that works on a stretch; all with one unless ``kind`` is tiles."""


def plan_decode(
    facts: DecoderFacts,
    latents_shape: tuple[int, int, int, int, int],
    decode: DecodeSpec,
    *,
    num_frames: int,
    num_decoders: int,
    num_videos: int = 1,
    frames: tuple[int, int] | None = None,
) -> DecodePlan:
    """Choose what decoders share.

    As many videos as decoders or more are decoded one by each; otherwise what is estimated to be
    fastest, or what ``decode.parallel`` says.

    Args:
        facts: of the VAE.
        latents_shape: (1, K, C, H, W) of a video, without leading frames.
        decode: the specification.
        num_frames: pixel frames of a video.
        num_decoders: how many there are.
        num_videos: how many are decoded in the run.
        frames: first pixel frame that is wanted, and the one after the last; None is all of them.
            Segments without a wanted frame are not decoded.

    Raises:
        UserError: tiles asked for where the picture is one tile.
    """
    _, num_latent_frames, _, height, width = latents_shape
    grid = tile_grid(facts.tiles, height, width)
    warmup = facts.exact_warmup if decode.warmup is None else decode.warmup
    warmup = max(warmup, facts.least_warmup)
    whole = segments(
        facts,
        num_latent_frames,
        num_frames=num_frames,
        segment_latent_frames=decode.segment or SEGMENT_LATENT_FRAMES,
    )
    parts = tuple(part for part in whole if wanted_frames(part, frames))
    runs = stretches(parts, num_decoders, warmup=warmup)
    shares = assign_tiles(grid, num_decoders)
    longest = max(latent_frames_to_decode(run, warmup) for run in runs)
    speedups: dict[Kind, float] = {
        "videos": num_videos / -(-num_videos // num_decoders),
        "tiles": _tiles_speedup(grid, shares),
        "stretches": latent_frames_to_decode(parts, warmup) / longest,
    }
    words: dict[Kind, str] = {
        "videos": "a decoder for each video",
        "tiles": f"{_count(len(grid), 'tile')} on {_count(len(shares), 'decoder')}",
        "stretches": f"{_count(len(runs), 'stretch', 'es')} of time on as many decoders",
    }
    kind = _choose(decode.parallel, speedups, len(grid), num_decoders, num_videos)
    return DecodePlan(
        kind=kind,
        why=_why(kind, decode.parallel, words, speedups, num_decoders, num_videos),
        speedup=speedups[kind],
        segments=parts,
        stretches=runs if kind == "stretches" else (parts,),
        warmup=warmup,
        tiles=shares if kind == "tiles" else (tuple(range(len(grid))),),
    )


def _choose(
    parallel: Literal["auto"] | Kind,
    speedups: dict[Kind, float],
    num_tiles: int,
    num_decoders: int,
    num_videos: int,
) -> Kind:
    if parallel == "tiles" and num_tiles == 1:
        raise UserError(
            "decode.parallel = 'tiles': a picture of this size is one tile; use 'auto' or "
            "'stretches', or give decode.tile_height and decode.tile_width"
        )
    if parallel != "auto":
        return parallel
    if num_videos >= num_decoders:
        return "videos"
    # Of equals the first, which does less besides decoding.
    return max(speedups, key=lambda kind: speedups[kind])


def _why(
    kind: Kind,
    parallel: Literal["auto"] | Kind,
    words: dict[Kind, str],
    speedups: dict[Kind, float],
    num_decoders: int,
    num_videos: int,
) -> str:
    if parallel != "auto":
        return f"{words[kind]}, as decode.parallel says: about {speedups[kind]:.1f}x one decoder"
    if num_decoders == 1:
        return "one decoder: nothing to share"
    if num_videos >= num_decoders:
        return f"{num_videos} videos for {num_decoders} decoders: each decodes whole videos"
    others = [f"{words[other]}: {speedups[other]:.1f}x" for other in speedups if other != kind]
    return f"{words[kind]}: about {speedups[kind]:.1f}x one decoder ({'; '.join(others)})"


def _tiles_speedup(grid: TileGrid, shares: tuple[tuple[int, ...], ...]) -> float:
    sizes = tile_sizes(grid)
    return sum(sizes) / max(sum(sizes[place] for place in share) for share in shares)


def _count(number: int, noun: str, plural: str = "s") -> str:
    return f"{number} {noun}{plural if number > 1 else ''}"
