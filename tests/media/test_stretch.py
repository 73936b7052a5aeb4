"""Segments and stretches as a plan: properties, closed forms and a search of all divisions."""

from __future__ import annotations

from itertools import combinations, pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from glc_ray.media.stretch import Segment, latent_frames_to_decode, segments, stretches
from glc_ray.protocols import DecoderFacts

COGVIDEOX = DecoderFacts(batch_size=2, temporal_ratio=4, spatial_ratio=8, exact_warmup=76)
WAN = DecoderFacts(batch_size=1, temporal_ratio=4, spatial_ratio=8, exact_warmup=38)

both = st.sampled_from([COGVIDEOX, WAN])


@given(both, st.integers(1, 300), st.integers(1, 80), st.data())
def test_segments_cover_the_video_in_whole_temporal_batches(facts, latents, length, data):
    available = facts.frames_before(latents, latents)
    num_frames = data.draw(st.integers(max(available - 3, 1), available))
    parts = segments(facts, latents, num_frames=num_frames, segment_latent_frames=length)
    assert [part.index for part in parts] == list(range(len(parts)))
    assert (parts[0].start, parts[-1].stop, parts[0].first_frame) == (0, latents, 0)
    starts = {batch.start for batch in facts.temporal_batches(latents)}
    for one, two in pairwise(parts):
        assert one.stop == two.start
        assert two.start in starts
        assert one.first_frame + one.num_frames == two.first_frame
    assert sum(part.num_frames for part in parts) == num_frames
    sizes = [part.stop - part.start for part in parts]
    # The first temporal batch of an odd number of latent frames is one longer.
    assert max(sizes) <= max(length, facts.batch_size) + facts.batch_size - 1
    assert max(sizes) - min(sizes) <= 2 * facts.batch_size - 1


def test_segments_of_a_long_video():
    """4,801 frames are 1,201 latent frames: 20 segments of 60, the first with the odd one."""
    parts = segments(COGVIDEOX, 1201, num_frames=4801)
    assert len(parts) == 20
    assert parts[0] == Segment(0, start=0, stop=61, first_frame=0, num_frames=241)
    assert parts[1] == Segment(1, start=61, stop=121, first_frame=241, num_frames=240)
    assert parts[19] == Segment(19, start=1141, stop=1201, first_frame=4561, num_frames=240)


@pytest.mark.parametrize(
    ("latents", "num_frames", "expected"),
    [
        (7, 25, [9, 8, 8]),
        # 21 frames are 6 latent frames, which CogVideoX makes 7.
        (7, 21, [9, 8, 4]),
        (7, 17, [9, 8]),
        # An even number, as of a clip without the odd one: no frame of its own in front.
        (6, 24, [8, 8, 8]),
        (1, 1, [1]),
    ],
)
def test_frames_of_segments_of_cogvideox(latents, num_frames, expected):
    parts = segments(COGVIDEOX, latents, num_frames=num_frames, segment_latent_frames=2)
    assert [part.num_frames for part in parts] == expected


def test_frames_of_segments_of_wan():
    parts = segments(WAN, 5, num_frames=17, segment_latent_frames=2)
    assert [(part.start, part.stop, part.num_frames) for part in parts] == [
        (0, 1, 1),
        (1, 3, 8),
        (3, 5, 8),
    ]


def test_too_few_latents_are_refused():
    with pytest.raises(ValueError, match="the latents decode to 25 frames; 26 are needed"):
        segments(COGVIDEOX, 7, num_frames=26)


@given(both, st.integers(1, 60), st.integers(1, 12), st.integers(1, 6), st.integers(0, 30))
def test_no_other_division_has_a_shorter_longest_stretch(facts, latents, length, decoders, warmup):
    num_frames = facts.frames_before(latents, latents)
    length = max(length, -(-latents // 8))
    parts = segments(facts, latents, num_frames=num_frames, segment_latent_frames=length)
    found = stretches(parts, decoders, warmup=warmup)
    assert sum(found, ()) == parts
    assert len(found) <= decoders
    longest = max(latent_frames_to_decode(stretch, warmup) for stretch in found)
    assert longest == min(
        max(
            latent_frames_to_decode(parts[a:b], warmup) for a, b in pairwise((0, *cuts, len(parts)))
        )
        for count in range(min(decoders, len(parts)))
        for cuts in combinations(range(1, len(parts)), count)
    )


def test_a_warm_up_that_costs_more_than_it_saves_leaves_decoders_out():
    parts = segments(COGVIDEOX, 121, num_frames=481)
    assert len(parts) == 2
    # 61 + 60 latent frames in one go, or 60 after a warm-up of 61 (all that there are).
    assert len(stretches(parts, 2, warmup=76)) == 1
    assert len(stretches(parts, 2, warmup=26)) == 2


def test_what_is_missing_in_the_middle_is_decoded_apart():
    parts = segments(COGVIDEOX, 601, num_frames=2401)
    missing = [parts[index] for index in (1, 2, 3, 7, 8)]
    found = stretches(missing, 2, warmup=44)
    assert [[part.index for part in stretch] for stretch in found] == [[1, 2, 3], [7, 8]]
    # More gaps than decoders: some decode two of them.
    assert len(stretches([parts[1], parts[4], parts[7]], 2, warmup=44)) == 3
    assert stretches([], 2) == ()
