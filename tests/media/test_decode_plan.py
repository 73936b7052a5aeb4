"""What decoders share, and the words for it."""

from __future__ import annotations

import pytest

from glc_ray.config import DecodeSpec
from glc_ray.media.decode_plan import DecodePlan, plan_decode
from glc_ray.protocols import DecoderFacts, TileAxis, TileGeometry, UserError

NATIVE = TileGeometry(height=TileAxis(30, 25, 40, 200), width=TileAxis(45, 36, 72, 288))


def plan(
    decoders: int,
    *,
    videos: int = 1,
    latents: int = 1201,
    tiles: TileGeometry | None = NATIVE,
    frames: tuple[int, int] | None = None,
    **decode: object,
) -> DecodePlan:
    """Of CogVideoX at 480 x 720, which decodes in nine tiles."""
    return plan_decode(
        DecoderFacts(2, 4, 8, exact_warmup=76, tiles=tiles),
        (1, latents, 16, 60, 90),
        DecodeSpec(**decode),
        num_frames=4 * latents - 3,
        num_decoders=decoders,
        num_videos=videos,
        frames=frames,
    )


def test_one_decoder_has_nothing_to_share():
    chosen = plan(1)
    assert (chosen.kind, chosen.why) == ("videos", "one decoder: nothing to share")
    assert chosen.stretches == (chosen.segments,)
    assert chosen.tiles == (tuple(range(9)),)


def test_as_many_videos_as_decoders_are_decoded_one_by_each():
    chosen = plan(2, videos=3)
    assert (chosen.kind, chosen.speedup) == ("videos", 1.5)
    assert chosen.why == "3 videos for 2 decoders: each decodes whole videos"


def test_tiles_that_divide_well_need_no_warm_up():
    chosen = plan(4)
    assert chosen.kind == "tiles"
    assert chosen.why == (
        "9 tiles on 4 decoders: about 3.8x one decoder (a decoder for each video: 1.0x; "
        "4 stretches of time on as many decoders: 3.2x)"
    )
    assert sorted(place for share in chosen.tiles for place in share) == list(range(9))
    # Four tiles are whole, the others are at the edges: 7560 cells, of which 1980 on one decoder.
    assert chosen.speedup == 7560 / 1980
    assert chosen.stretches == (chosen.segments,)


def test_more_decoders_than_tiles_share_the_time():
    chosen = plan(16)
    assert (chosen.kind, len(chosen.stretches), chosen.warmup) == ("stretches", 10, 76)
    assert chosen.speedup == 1201 / (120 + 76)


def test_a_picture_of_one_tile_is_shared_in_time():
    chosen = plan(2, tiles=None)
    assert chosen.kind == "stretches"
    assert [(run[0].start, run[-1].stop) for run in chosen.stretches] == [(0, 661), (661, 1201)]
    assert chosen.why == (
        "2 stretches of time on as many decoders: about 1.8x one decoder (a decoder for each "
        "video: 1.0x; 1 tile on 1 decoder: 1.0x)"
    )


def test_a_shorter_warm_up_and_shorter_segments_are_counted():
    chosen = plan(2, tiles=None, warmup=26, segment=20)
    assert (chosen.warmup, len(chosen.segments)) == (26, 60)
    # 621 latent frames, and 580 after a warm-up of 26.
    assert chosen.speedup == 1201 / 621


def test_only_segments_that_are_wanted_are_shared_and_counted():
    """Of 20 segments of 60 latent frames (61 in the first), the sixth to the ninth."""
    chosen = plan(2, tiles=None, frames=(1300, 2100), warmup=26)
    whole = plan(2, tiles=None, warmup=26)
    assert chosen.segments == whole.segments[5:9]
    assert [[part.index for part in run] for run in chosen.stretches] == [[5, 6], [7, 8]]
    # Each after a warm-up of 26, as one decoder's run of 240 would be.
    assert chosen.speedup == (240 + 26) / (120 + 26)
    assert plan(1, frames=(1300, 2100)).stretches == (whole.segments[5:9],)
    # Within one segment there is no time to share.
    assert plan(4, tiles=None, frames=(1300, 1301)).kind == "videos"


def test_the_users_own_choice():
    chosen = plan(4, parallel="stretches")
    assert chosen.kind == "stretches"
    assert chosen.why == (
        "4 stretches of time on as many decoders, as decode.parallel says: about 3.2x one decoder"
    )
    assert plan(4, parallel="videos").kind == "videos"
    assert plan(2, videos=3, parallel="tiles").kind == "tiles"


def test_tiles_of_a_picture_without_are_refused():
    with pytest.raises(UserError) as error:
        plan(2, tiles=None, parallel="tiles")
    assert str(error.value) == (
        "decode.parallel = 'tiles': a picture of this size is one tile; use 'auto' or "
        "'stretches', or give decode.tile_height and decode.tile_width"
    )
