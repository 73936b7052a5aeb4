"""The procedural world: captions and clips."""

import hashlib

import numpy as np
import pytest
import world

CAPTION = world.Caption("red", "ball", "bounces", "meadow", "day")


def clip_of(caption, num_frames=25, seed=0):
    return world.render(world.sample_scene(np.random.default_rng(seed), caption), num_frames)


def test_sentences_read_as_the_readme_says():
    assert str(CAPTION) == "a red ball bounces over the meadow at day"
    assert str(world.CAPTIONS[0]).startswith("a red ball")
    assert "an orange box" in {" ".join(str(c).split()[:3]) for c in world.CAPTIONS}


def test_held_out_captions_are_disjoint_from_training_and_never_change():
    assert len(world.CAPTIONS) == 7 * 3 * 5 * 4 * 3
    assert len(set(world.HELD_OUT)) == 100
    assert not set(world.HELD_OUT) & set(world.TRAINING)
    assert len(world.HELD_OUT) + len(world.TRAINING) == len(world.CAPTIONS)
    digest = hashlib.sha256("\n".join(map(str, world.HELD_OUT)).encode()).hexdigest()
    assert digest[:12] == "21beec087149"


@pytest.mark.parametrize("motion", world.MOTIONS)
def test_a_clip_is_deterministic_bounded_and_moves(motion):
    caption = world.Caption("green", "box", motion, "snow", "night")
    video, mask = clip_of(caption)
    again, _ = clip_of(caption)
    assert video.shape == (25, world.HEIGHT, world.WIDTH, 3)
    assert mask.shape == video.shape[:3]
    assert video.dtype == mask.dtype == np.float32
    assert video.min() >= 0
    assert video.max() <= 1
    assert np.array_equal(video, again)
    assert np.abs(np.diff(video, axis=0)).max() > 0.1
    assert (mask.sum((1, 2)) > 150).all()


def test_a_longer_clip_continues_the_shorter_one():
    short, _ = clip_of(CAPTION, 9)
    long, _ = clip_of(CAPTION, 33)
    assert np.array_equal(long[:9], short)


@pytest.mark.parametrize("motion", world.MOTIONS)
def test_the_object_stays_in_the_picture_for_thousands_of_frames(motion):
    caption = world.Caption("blue", "ball", motion, "desert", "dusk")
    for seed in range(5):
        scene = world.sample_scene(np.random.default_rng(seed), caption)
        x, y, _ = world.path_of(scene, 5000)
        assert (x - scene.radius).min() > -2
        assert (x + scene.radius).max() < world.WIDTH + 2
        assert (y - scene.radius).min() > -2
        assert (y + scene.radius).max() < world.HEIGHT + 2
