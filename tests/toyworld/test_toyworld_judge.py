"""The judge of the procedural world: right on true clips, and not fooled by wrong ones."""

import dataclasses

import judge
import numpy as np
import pytest
import world

from glc_ray.evaluation.toyworld import motion, rules

NUM_CLIPS = 100


def draw(caption, num_frames=25, seed=0):
    scene = world.sample_scene(np.random.default_rng(seed), caption)
    return judge.to_frames(world.render(scene, num_frames)[0])


@pytest.fixture(scope="module")
def captions():
    order = np.random.default_rng(3).permutation(len(world.CAPTIONS))[:NUM_CLIPS]
    return [world.CAPTIONS[index] for index in order]


@pytest.fixture(scope="module")
def clips(captions):
    return [draw(caption, seed=seed) for seed, caption in enumerate(captions)]


def test_true_clips_are_read_right(captions, clips):
    verdicts = [rules.judge(clip) for clip in clips]
    for kind in judge.KINDS:
        seen = [getattr(verdict, kind) for verdict in verdicts]
        said = [getattr(caption, kind) for caption in captions]
        assert np.mean([a == b for a, b in zip(seen, said, strict=True)]) >= 0.99, kind


def test_colour_and_shape_are_read_right_in_every_frame(captions, clips):
    for caption, clip in zip(captions[:30], clips, strict=False):
        readings = rules.read_object(clip, caption.ground, caption.sky)
        assert set(readings.colours) == {caption.colour}
        assert set(readings.shapes) == {caption.shape}
        assert readings.overlaps.min() > 0.8


def test_centres_and_radius_are_those_drawn():
    for shape in world.SHAPES:
        caption = world.Caption("blue", shape, "circles", "snow", "day")
        scene = world.sample_scene(np.random.default_rng(1), caption)
        frames = judge.to_frames(world.render(scene, 25)[0])
        readings = rules.read_object(frames, "snow", "day")
        x, y, _ = world.path_of(scene, 25)
        assert np.abs(readings.centres - np.stack([x, y], axis=1)).max() < 0.5
        assert np.abs(readings.radii - scene.radius).max() < 1.0


def test_true_clips_stay_right_under_the_noise_of_a_codec(captions, clips):
    rng = np.random.default_rng(0)
    for caption, clip in zip(captions[:20], clips, strict=False):
        noisy = (clip + rng.normal(0, 6, clip.shape)).clip(0, 255).astype(np.uint8)
        verdict = rules.judge(noisy)
        assert [getattr(verdict, kind) for kind in judge.KINDS] == [
            getattr(caption, kind) for kind in judge.KINDS
        ]


def test_no_object_has_no_colour_shape_or_motion():
    empty = np.repeat(rules.landscape("sea", "dusk")[None].astype(np.uint8), 25, axis=0)
    verdict = rules.judge(empty)
    assert (verdict.colour, verdict.shape, verdict.motion) == (None, None, None)
    assert (verdict.ground, verdict.sky) == ("sea", "dusk")


@pytest.mark.parametrize("name", motion.MOTIONS)
def test_speed_is_one_on_average_and_half_where_frames_come_twice(name):
    caption = world.Caption("red", "ball", name, "snow", "day")
    rng = np.random.default_rng(1)
    scenes = [world.sample_scene(rng, caption) for _ in range(400)]
    paths = [np.stack(world.path_of(scene, 145)[:2], axis=1) for scene in scenes]
    speeds = [motion.steps_of(path).mean() for path in paths]
    assert np.mean(speeds) == pytest.approx(motion.mean_speed(name), rel=0.06)
    clip = judge.to_frames(world.render(scenes[0], 49)[0])
    speed, slow, still = (
        rules.long_video_scores(frames, "red", "ball", name)["speed"]
        for frames in (clip, np.repeat(clip, 2, axis=0), np.repeat(clip[:1], 49, axis=0))
    )
    true = motion.steps_of(paths[0][:49]).mean() / motion.mean_speed(name)
    assert speed == pytest.approx(true, rel=0.1)
    assert slow == pytest.approx(speed / 2, rel=0.02)
    assert still == 0


def test_an_object_that_jumps_follows_no_law():
    caption = world.Caption("red", "ball", "rolls", "meadow", "day")
    scene = world.sample_scene(np.random.default_rng(0), caption)
    elsewhere = dataclasses.replace(scene, phase=scene.phase + 0.3)
    clips = [judge.to_frames(world.render(s, 25)[0]) for s in (scene, elsewhere)]
    assert [rules.judge(clip).motion for clip in clips] == ["rolls", "rolls"]
    verdict = rules.judge(np.concatenate([clips[0][:12], clips[1][12:]]))
    assert verdict.motion is None
    assert (verdict.colour, verdict.shape) == ("red", "ball")


def test_a_shuffled_clip_follows_no_law():
    caption = world.Caption("pink", "box", "circles", "snow", "night")
    clip = draw(caption)
    shuffled = clip[np.random.default_rng(0).permutation(25)]
    verdict = rules.judge(shuffled)
    assert verdict.motion is None
    assert (verdict.colour, verdict.shape) == ("pink", "box")


def test_half_an_object_has_no_shape():
    """A smear that covers a plausible area in the right colour is no ball, box or triangle."""
    caption = world.Caption("red", "ball", "floats", "sea", "day")
    clip = draw(caption)
    empty = rules.landscape("sea", "day").astype(np.uint8)
    smear = np.repeat(empty[None], 25, axis=0)
    smear[:, 20:28, 20:60] = (225, 25, 35)
    assert rules.judge(smear).shape is None
    assert rules.judge(clip).shape == "ball"


@pytest.mark.parametrize("name", motion.MOTIONS)
def test_a_law_is_fitted_with_its_period(name):
    period = np.sqrt(np.prod(motion.PERIODS[name]))
    frames = np.arange(60)
    turn, drift = 2 * np.pi * frames / period + 1.0, 2 * np.pi * frames / (3.7 * period) + 2.0
    centres = np.stack(motion.path_of(name, 13.0, turn, drift, 0.85), axis=1)
    fit = motion.fit_motion(name, 13.0, centres)
    assert fit.distance < 1.5
    assert fit.period == pytest.approx(period, rel=0.1)
    centres[5:9] = np.nan
    assert motion.fit_motion(name, 13.0, centres).distance < 1.5
    moved = centres + np.array([0.0, 12.0])
    assert motion.fit_motion(name, 13.0, moved).distance > rules.FAR_FROM_LAW


def test_an_unknown_motion_and_an_empty_path():
    with pytest.raises(ValueError, match="unknown motion 'hops'"):
        motion.path_of("hops", 13.0, np.zeros(1), np.zeros(1), np.ones(1))
    assert motion.fit_motion("rolls", 13.0, np.full((25, 2), np.nan)).distance == np.inf
    assert motion.largest_step(np.full((25, 2), np.nan)) == 0.0


def test_a_true_long_video_is_right_throughout():
    caption = world.Caption("green", "triangle", "swings", "desert", "dusk")
    scores = rules.long_video_scores(draw(caption, 241), "green", "triangle", "swings")
    assert scores["present"] == scores["colour"] == scores["shape"] == scores["motion"] == 1.0
    assert scores["longest_step"] < 7
    assert scores["background_change"] < 1.0


def test_a_long_video_is_scored_for_what_goes_wrong():
    caption = world.Caption("green", "box", "rolls", "sea", "day")
    other = world.Caption("yellow", "ball", "rolls", "sea", "day")
    frames = draw(caption, 121)
    empty = rules.landscape("sea", "day").astype(np.uint8)
    gone = frames.copy()
    gone[60:75] = empty
    scores = rules.long_video_scores(gone, "green", "box", "rolls")
    assert scores["present"] == pytest.approx(106 / 121)
    assert scores["motion"] < 1.0
    changed = np.concatenate([frames[:60], draw(other, 121, seed=0)[60:]])
    scores = rules.long_video_scores(changed, "green", "box", "rolls")
    assert scores["colour"] == scores["shape"] == pytest.approx(60 / 121)
    assert scores["present"] == 1.0
    darker = frames.copy()
    darker[80:] = (darker[80:] * 0.8).astype(np.uint8)
    assert rules.long_video_scores(darker, "green", "box", "rolls")["background_change"] > 20
