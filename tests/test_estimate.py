"""An estimate against closed forms, real forwards, real messages and real files."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from weakref import finalize

import pytest
import torch
from diffusers import AutoencoderKLCogVideoX, CogVideoXTransformer3DModel
from safetensors.torch import load_file
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from glc_ray.backbones import registry
from glc_ray.backbones.cost import ModelCost
from glc_ray.config import VideoJob
from glc_ray.estimate.build import estimate
from glc_ray.estimate.figures import Estimate, PerStep
from glc_ray.estimate.measure import measure
from glc_ray.estimate.work import Step, steps_of
from glc_ray.job import build_job
from glc_ray.pipeline_file import load_pipeline
from glc_ray.protocols import AnchorAttention, Forward, UserError
from glc_ray.sampler import LocalDenoiser, gather_clips
from tests.tiny_wan import CLIP, TinyWan, tiny_wan  # noqa: F401

Tiny = Callable[[str], Path]


def job_of(*overrides: tuple[str, Any]) -> VideoJob:
    return build_job(load_pipeline("toyworld", overrides), "a red ball", 0)


def steps(job: VideoJob) -> tuple[Step, ...]:
    return steps_of(job, registry.facts(job.pipeline.model))


def first_forwards(job: VideoJob) -> tuple[Forward, ...]:
    return steps(job)[0].forwards


@pytest.fixture
def tiny_job(tiny_model: Tiny) -> Callable[..., VideoJob]:
    """33 frames: 9 latent frames in windows of 3."""

    def make(*overrides: tuple[str, Any], positions: str = "sincos") -> VideoJob:
        fixed = [("model.path", str(tiny_model(positions))), ("video.num_frames", 33)]
        return job_of(*fixed, ("sampling.num_steps", 4), *overrides)

    return make


@pytest.fixture
def wan_job(tiny_wan: TinyWan) -> Callable[..., VideoJob]:  # noqa: F811
    def make(kind: str, *overrides: tuple[str, Any]) -> VideoJob:
        fixed = [("model.backbone", "wan"), ("model.path", str(tiny_wan(kind))), *CLIP.items()]
        return job_of(*fixed, ("video.num_frames", 33), ("sampling.num_steps", 4), *overrides)

    return make


@pytest.fixture(scope="session")
def cogvideox_2b(tmp_path_factory: pytest.TempPathFactory, tiny_model: Tiny) -> str:
    """The configuration files of CogVideoX-2b, whose weights are empty files: nobody reads them."""
    folder = tmp_path_factory.mktemp("cogvideox-2b")
    with torch.device("meta"):
        transformer = CogVideoXTransformer3DModel(
            num_attention_heads=30,
            attention_head_dim=64,
            in_channels=16,
            out_channels=16,
            num_layers=30,
            text_embed_dim=4096,
            max_text_seq_length=226,
            sample_width=90,
            sample_height=60,
            sample_frames=49,
        )
        vae = AutoencoderKLCogVideoX(
            block_out_channels=(128, 256, 256, 512),
            latent_channels=16,
            temporal_compression_ratio=4,
            sample_height=480,
            sample_width=720,
            down_block_types=("CogVideoXDownBlock3D",) * 4,
            up_block_types=("CogVideoXUpBlock3D",) * 4,
        )
    transformer.save_config(folder / "transformer")
    vae.save_config(folder / "vae")
    for part in ("transformer", "vae"):
        (folder / part / "empty.safetensors").touch()
    for part in ("tokenizer", "text_encoder", "scheduler", "model_index.json"):
        (folder / part).symlink_to(tiny_model("sincos") / part)
    return str(folder)


LAYERS, INNER, TEXT, VIDEO = 30, 1920, 226, 13 * 30 * 45
"""CogVideoX-2b: layers, width, tokens of the prompt, and of 13 latent frames of 60x90."""


def test_operations_of_cogvideox_2b(cogvideox_2b: str) -> None:
    """Projections 4 x 2sd², feed-forward 2 x 2s(4d)d, attention 2 x 2s²d; each of two branches."""
    job = job_of(("model.path", cogvideox_2b), ("model.dtype", "float16"))
    s, d = TEXT + VIDEO, INNER
    branch = LAYERS * (4 * 2 * s * d * d + 2 * 2 * s * 4 * d * d + 2 * 2 * s * s * d)
    assert branch == pytest.approx(120e12, rel=0.01)
    counted = ModelCost(job.pipeline).flops(first_forwards(job)[0])
    assert counted == pytest.approx(2 * branch, rel=0.01)


def test_memory_of_cogvideox_2b(cogvideox_2b: str) -> None:
    """1.69 billion parameters, as its paper says; keys and values of 30 layers."""
    memory = estimate(
        job_of(("model.path", cogvideox_2b), ("model.dtype", "float16"), ("glc.abam.cache", "cpu"))
    ).memory
    assert memory.weights_bytes == pytest.approx(2 * 1.69e9, rel=0.005)
    anchor_bytes = LAYERS * 2 * 2 * VIDEO * INNER * 2
    assert [
        (cache.placement, cache.is_chosen, cache.device_bytes, cache.cpu_bytes)
        for cache in memory.anchor_caches
    ] == [
        ("device", False, anchor_bytes, 0),
        ("cpu", True, 0, anchor_bytes),
        ("recompute", False, 0, 0),
    ]
    assert memory.latents_bytes == 37 * 16 * 60 * 90 * 4


@pytest.mark.parametrize("guidance_scale", [1.0, 6.0])
@pytest.mark.parametrize("method", ["glc", "direct", "freelong"])
def test_operations_are_those_of_a_real_forward(
    tiny_job: Callable[..., VideoJob], method: str, guidance_scale: float
) -> None:
    job = tiny_job(("method", method), ("sampling.guidance_scale", guidance_scale))
    forward = max(first_forwards(job), key=lambda forward: len(forward.windows))
    assert ModelCost(job.pipeline).flops(forward) == counted_on_a_cpu(job, forward)


@pytest.mark.parametrize("kind", ["one", "two"])
def test_operations_of_wan_are_those_of_a_real_forward(
    wan_job: Callable[..., VideoJob], kind: str
) -> None:
    job = wan_job(kind)
    forward = max(first_forwards(job), key=lambda forward: len(forward.windows))
    assert ModelCost(job.pipeline).flops(forward) == counted_on_a_cpu(job, forward)


def counted_on_a_cpu(job: VideoJob, forward: Forward) -> int:
    """Of a forward without its anchor, with weights and values."""
    denoiser = LocalDenoiser.of(job, torch.device("cpu"))
    if isinstance(forward.attention, AnchorAttention):
        forward = replace(forward, attention=None, anchor=None)
    # Torch counts no operations of its fused attention on CPUs.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        denoiser.backbone.predict(clips_of(job, forward), forward, denoiser.conditioning)
    return counter.get_total_flops()


def clips_of(job: VideoJob, forward: Forward) -> torch.Tensor:
    facts = registry.facts(job.pipeline.model)
    return gather_clips(
        torch.randn(facts.latents_shape(job.pipeline.video.num_frames)), forward.windows
    )


def test_weights_are_those_of_the_files(
    tiny_job: Callable[..., VideoJob], wan_job: Callable[..., VideoJob]
) -> None:
    for job, parts in (
        (tiny_job(), ["transformer"]),
        (wan_job("one"), ["transformer"]),
        (wan_job("two"), ["transformer", "transformer_2"]),
    ):
        cost, folder = ModelCost(job.pipeline), Path(job.pipeline.model.path)
        assert cost.weights_bytes == 4 * sum(file_values(folder / part) for part in parts)
        assert cost.text_encoder_bytes == 4 * file_values(folder / "text_encoder")


def file_values(folder: Path) -> int:
    (file,) = folder.glob("*.safetensors")
    return sum(tensor.numel() for tensor in load_file(file).values())


@pytest.mark.parametrize("backbone", ["cogvideox", "wan"])
def test_anchor_cache_is_what_a_real_forward_leaves(
    tiny_job: Callable[..., VideoJob], wan_job: Callable[..., VideoJob], backbone: str
) -> None:
    job = tiny_job() if backbone == "cogvideox" else wan_job("one")
    anchor = first_forwards(job)[0]
    denoiser = LocalDenoiser.of(job, torch.device("cpu"))
    denoiser.backbone.predict(clips_of(job, anchor), anchor, denoiser.conditioning)
    states = denoiser.backbone._anchors.get(anchor.anchor_key)  # type: ignore[attr-defined]
    real = sum(tensor.nbytes for pair in states.values() for tensor in pair)
    assert estimate(job).memory.anchor_caches[0].device_bytes == real > 0


def test_activations_are_near_what_is_alive_in_a_real_forward() -> None:
    job = job_of()
    denoiser = LocalDenoiser.of(job, torch.device("cpu"))
    plain = replace(first_forwards(job)[0], attention=None, anchor=None)
    with live_bytes() as live:
        denoiser.backbone.predict(clips_of(job, plain), plain, denoiser.conditioning)
    assert ModelCost(job.pipeline).activation_bytes(plain) == pytest.approx(live.peak, rel=0.1)


class _Live(TorchDispatchMode):
    """Follows the bytes of all tensors that exist at once."""

    def __init__(self) -> None:
        super().__init__()
        self.peak = 0
        self._now = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor):
                self._meet(tensor.untyped_storage())
        return result

    def _meet(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self._known:
            return
        self._known.add(key)
        self._now += size
        self.peak = max(self.peak, self._now)
        finalize(storage, self._part, key, size)

    def _part(self, key: int, size: int) -> None:
        self._known.discard(key)
        self._now -= size


@contextmanager
def live_bytes() -> Iterator[_Live]:
    with _Live() as live:
        yield live


@pytest.mark.parametrize("num_frames", [25, 145, 289])
@pytest.mark.parametrize("batch_size", [1, 3])
def test_forwards_and_bytes_are_those_of_the_steps(num_frames: int, batch_size: int) -> None:
    """A walk over the clips that workers would be sent, as ``PoolDenoiser`` sends them."""
    job = job_of(("video.num_frames", num_frames), ("denoise.batch_size", batch_size))
    facts = registry.facts(job.pipeline.model)
    latents = torch.zeros(facts.latents_shape(num_frames))
    windows, clips, anchors = [], [], []
    for step in steps(job):
        windows.append(sum(len(path.windows) for path in step.plan.paths))
        sent = [gather_clips(latents, f.windows).numpy().nbytes for f in step.forwards]
        shared = {
            f.path: gather_clips(latents, [f.anchor]).numpy().nbytes
            for f in step.forwards
            if f.anchor is not None and not f.is_anchor
        }
        clips.append(sum(sent))
        anchors.append(sum(shared.values()))
    result = estimate(job)
    assert result.forwards.windows == PerStep(min(windows), max(windows), sum(windows))
    assert result.traffic.clips_bytes == PerStep(min(clips), max(clips), sum(clips))
    assert result.traffic.predictions_bytes == result.traffic.clips_bytes
    assert result.traffic.anchors_bytes == PerStep(min(anchors), max(anchors), sum(anchors))
    assert result.forwards.flops == result.forwards.paths[0].flops_per_window * sum(windows)


def test_windows_of_glc_in_numbers() -> None:
    """K = 37 latent frames, L = 7: ⌈K/L⌉ = 6 global windows, local ones every 3 frames."""
    forwards = estimate(job_of()).forwards
    assert [path.path for path in forwards.paths] == ["global", "local"]
    assert forwards.paths[0].windows == PerStep(6, 6, 6 * 25)
    # Starts J, J + 3, ... below K - L = 30, with 0 and 30: 11 for J = 0, else 12.
    assert (forwards.paths[1].windows.least, forwards.paths[1].windows.most) == (11, 12)
    assert math.ceil(37 / 7) == 6


def test_stated_seconds() -> None:
    """One worker takes a second a window; the others no less than their share."""
    result = estimate(job_of(("resources.denoisers.count", 3)), seconds_per_window=1.0)
    alone = result.workers[0]
    assert [row.workers for row in result.workers] == [1, 2, 3, 4, 8]
    assert [row.workers for row in result.workers if row.is_chosen] == [3]
    assert alone.denoise_s == pytest.approx(result.forwards.windows.total)
    assert (alone.anchor_forwards.total, alone.busy_share) == (0, pytest.approx(1))
    for row in result.workers:
        work = result.forwards.windows.total + row.anchor_forwards.total
        assert row.denoise_s is not None
        assert row.denoise_s * row.workers * row.busy_share == pytest.approx(work)


def test_stated_seconds_of_a_long_clip_grow_with_its_operations(
    tiny_job: Callable[..., VideoJob],
) -> None:
    direct = estimate(tiny_job(("method", "direct")), seconds_per_window=1.0)
    (path,) = direct.forwards.paths
    assert path.clip_frames == 9
    native = estimate(tiny_job()).forwards.paths[0].flops_per_window
    assert direct.workers[0].denoise_s == pytest.approx(4 * path.flops_per_window / native)


def test_anchors_that_ride_along_are_in_every_batch_but_their_own() -> None:
    result = estimate(job_of(("glc.abam.cache", "recompute")), seconds_per_window=1.0)
    extra = result.forwards.batches.total - 2 * result.video.num_steps
    assert {row.anchor_forwards.total for row in result.workers} == {extra}
    assert result.workers[0].denoise_s == pytest.approx(result.forwards.windows.total + extra)
    assert [cache.device_bytes for cache in result.memory.anchor_caches if cache.is_chosen] == [0]


@pytest.mark.parametrize(
    "overrides",
    [[("glc.abam", False)], [("glc.abam.weight", 0.0)], [("method", "gen_l_video")]],
)
def test_without_anchors_there_is_nothing_to_keep(overrides: list[tuple[str, Any]]) -> None:
    result = estimate(job_of(*overrides))
    assert result.memory.anchor_caches == ()
    assert {row.anchor_forwards.total for row in result.workers} == {0}


@pytest.mark.parametrize(
    ("scheduler", "tensors"),
    [("CogVideoXDDIMScheduler", 1), ("CogVideoXDPMScheduler", 2), ("UniPCMultistepScheduler", 4)],
)
def test_checkpoint_has_the_latents_and_the_schedulers_history(
    scheduler: str, tensors: int
) -> None:
    memory = estimate(job_of(("sampling.scheduler", scheduler))).memory
    assert memory.checkpoint_bytes == tensors * memory.latents_bytes


@pytest.mark.parametrize("cache", ["device", "recompute"])
def test_measuring_times_every_kind_of_batch(tiny_job: Callable[..., VideoJob], cache: str) -> None:
    job = tiny_job(("denoise.batch_size", 2), ("glc.abam.cache", cache))
    planned = steps(job)
    told: list[tuple[int, int]] = []
    measurement = measure(job, planned, on_batch=lambda done, total: told.append((done, total)))
    forwards = [forward for step in planned for forward in step.forwards]
    kinds = {(f.path, len(f.windows), f.is_anchor) for f in forwards}
    timed = {(b.path, b.num_clips, b.is_anchor): b for b in measurement.batches}
    assert timed.keys() == kinds
    assert told == [(done + 1, len(kinds)) for done in range(len(kinds))]
    assert all(0 < b.fastest_s <= b.median_s <= b.slowest_s for b in timed.values())
    result = estimate(job, measurement=measurement)
    spent = sum(timed[f.path, len(f.windows), f.is_anchor].median_s for f in forwards)
    assert result.workers[0].denoise_s == pytest.approx(spent)
    assert result.workers[0].coordinator_s == pytest.approx(4 * measurement.coordinator_step_s)
    assert result.timing is not None
    assert result.timing.source == "measured"


@pytest.mark.skipif(torch.cuda.is_available(), reason="says what a machine without a GPU answers")
def test_a_gpu_job_cannot_be_measured_without_one() -> None:
    job = job_of(("resources.denoisers.num_gpus", 0.5))
    with pytest.raises(UserError) as error:
        measure(job, steps(job))
    assert str(error.value) == (
        "--measure: toyworld denoises on GPUs (resources.denoisers.num_gpus = 0.5), and torch "
        f"{torch.__version__} finds none here; run it on a node that has one, or state the "
        "seconds of a window with --seconds-per-forward"
    )


@pytest.mark.parametrize(
    ("overrides", "notes"),
    [
        ([], []),
        (
            [("method", "freenoise")],
            [
                "freenoise.level = auto: windows are averaged in the prediction, since the model "
                "cannot place windows within attention over a video this long"
            ],
        ),
        (
            [("method", "direct")],
            [
                "one forward spans 37 latent frames, 5.3 times the native window: it runs on one "
                "worker, and others do not shorten a step"
            ],
        ),
        (
            [("glc.abam.cache", "recompute")],
            ["glc.abam.cache = recompute: the anchor is one more clip in every batch but its own"],
        ),
        (
            [("glc.abam.weight", 0.0)],
            ["glc.abam: the anchor has no share, so no keys and values are kept"],
        ),
    ],
)
def test_notes(overrides: list[tuple[str, Any]], notes: list[str]) -> None:
    result: Estimate = estimate(job_of(*overrides))
    assert list(result.notes) == notes


def test_freenoise_within_attention(tiny_job: Callable[..., VideoJob]) -> None:
    result = estimate(tiny_job(("method", "freenoise"), positions="rotary"))
    assert result.notes[0] == "freenoise.level = auto: windows are averaged within attention"
