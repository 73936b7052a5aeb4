"""What a model costs, against closed forms, real forwards and real files."""

from __future__ import annotations

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
from glc_ray.estimate.work import steps_of
from glc_ray.job import build_job
from glc_ray.pipeline_file import load_pipeline
from glc_ray.protocols import AnchorAttention, Forward
from glc_ray.sampler import LocalDenoiser, gather_clips
from tests.tiny_wan import CLIP, TinyWan, tiny_wan  # noqa: F401

Tiny = Callable[[str], Path]


def job_of(*overrides: tuple[str, Any]) -> VideoJob:
    return build_job(load_pipeline("toyworld", overrides), "a red ball", 0)


def first_forwards(job: VideoJob) -> tuple[Forward, ...]:
    return steps_of(job, registry.facts(job.pipeline.model))[0].forwards


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
    job = job_of(("model.path", cogvideox_2b), ("model.dtype", "float16"))
    cost = ModelCost(job.pipeline)
    assert cost.weights_bytes == pytest.approx(2 * 1.69e9, rel=0.005)
    anchor_bytes = cost.anchor_cache_bytes(first_forwards(job)[0])
    assert anchor_bytes == LAYERS * 2 * 2 * VIDEO * INNER * 2


@pytest.mark.parametrize("guidance_scale", [1.0, 6.0])
@pytest.mark.parametrize("method", ["glc", "direct", "freelong"])
def test_operations_are_those_of_a_real_forward(
    tiny_job: Callable[..., VideoJob], method: str, guidance_scale: float
) -> None:
    job = tiny_job(("method", method), ("sampling.guidance_scale", guidance_scale))
    forward = max(first_forwards(job), key=lambda forward: len(forward.windows))
    assert ModelCost(job.pipeline).flops(forward) == counted_on_a_cpu(job, forward)


@pytest.mark.parametrize(
    ("options", "positions"),
    [
        ([("method", "freelong"), ("freelong.radius", 1)], "sincos"),
        ([("method", "freelong"), ("freelong.radius", 1)], "1.5"),
        ([("method", "freenoise"), ("freenoise.stride", 2)], "rotary"),
        ([("method", "freenoise"), ("freenoise.stride", 3)], "1.5"),
    ],
)
def test_operations_of_a_long_clip_are_those_of_a_real_forward(
    tiny_job: Callable[..., VideoJob], options: list[tuple[str, Any]], positions: str
) -> None:
    """Found from shorter clips: 25 latent frames or more in one forward."""
    job = tiny_job(("video.num_frames", 97), *options, positions=positions)
    (forward,) = first_forwards(job)
    assert len(forward.windows[0].frames) >= 25
    assert ModelCost(job.pipeline).flops(forward) == counted_on_a_cpu(job, forward)


def test_operations_of_the_embedded_model_are_those_of_a_real_forward() -> None:
    """8 blocks, of which two are counted."""
    job = job_of(("denoise.batch_size", 1))
    forward = first_forwards(job)[0]
    assert ModelCost(job.pipeline).flops(forward) == counted_on_a_cpu(job, forward)


@pytest.mark.parametrize("casting", ["float8_e4m3fn", "float8_e5m2"])
def test_weights_in_8_bits_are_those_that_diffusers_casts(
    tiny_job: Callable[..., VideoJob], casting: str
) -> None:
    job = tiny_job(("optimize.layerwise_casting", casting))
    denoiser = LocalDenoiser.of(job, torch.device("cpu"))
    transformer = denoiser.backbone.transformer  # type: ignore[attr-defined]
    real = sum(parameter.nbytes for parameter in transformer.parameters())
    cost = ModelCost(job.pipeline)
    assert cost.weights_bytes == real < ModelCost(tiny_job().pipeline).weights_bytes
    forward = first_forwards(job)[0]
    assert cost.flops(forward) == ModelCost(tiny_job().pipeline).flops(forward)


def test_groups_of_weights_on_the_device(tiny_job: Callable[..., VideoJob]) -> None:
    """By block: both of the tiny model's two blocks, and so all of it; by leaf: two matrices."""
    gpu = ("resources.denoisers.num_gpus", 1)
    whole = ModelCost(tiny_job().pipeline)
    blocks = ModelCost(tiny_job(gpu, ("optimize.group_offload", "block_level")).pipeline)
    leaves = ModelCost(tiny_job(gpu, ("optimize.group_offload", "leaf_level")).pipeline)
    assert whole.weights_at_once_bytes == whole.weights_bytes == blocks.weights_bytes
    assert blocks.weights_at_once_bytes == whole.weights_bytes
    assert 0 < leaves.weights_at_once_bytes < whole.weights_bytes / 2


def test_decoder_weights_are_those_of_the_file(tiny_job: Callable[..., VideoJob]) -> None:
    job = tiny_job(("decode.dtype", "bfloat16"))
    values = file_values(Path(job.pipeline.model.path) / "vae")
    assert ModelCost(job.pipeline).vae_bytes == 2 * values


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
    assert ModelCost(job.pipeline).anchor_cache_bytes(anchor) == real > 0


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
