"""Text features of clips: the same whether they were kept or mixed anew, and few are kept."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from glc_ray.backbones import prompt_features
from glc_ray.backbones.prompt_features import PromptFeatures, mixture
from glc_ray.protocols import Conditioning, Forward

VIDEOS = {
    video: torch.randn((3, 2, 4, 5), generator=torch.Generator().manual_seed(seed))
    for seed, video in enumerate("ab")
}
WEIGHTS = [
    (part / 8, 1 - part / 8, 0.0)[shift:] + (part / 8, 1 - part / 8, 0.0)[:shift]
    for part in range(9)
    for shift in range(3)
]
BATCHES = st.tuples(st.sampled_from("ab"), st.lists(st.sampled_from(WEIGHTS), min_size=1))


def forward_of(video: str, weights: list[tuple[float, ...]]) -> Forward:
    return Forward(
        video=video,
        step_index=0,
        timestep=999,
        path="local",
        windows=(),
        prompt_weights=tuple(weights),
        guidance_scale=6.0,
    )


@given(st.lists(BATCHES, max_size=12), st.sampled_from([torch.float32, torch.bfloat16]))
def test_what_is_kept_is_what_would_be_mixed(
    batches: list[tuple[str, list[tuple[float, ...]]]], dtype: torch.dtype
) -> None:
    features = PromptFeatures(torch.device("cpu"), dtype)
    for video, weights in batches:
        expected = torch.stack([mixture(VIDEOS[video], clip) for clip in weights]).to(dtype)
        prompts = VIDEOS[video].clone()
        given = Conditioning({"prompt_embeds": prompts})
        ours = features.of(forward_of(video, weights), given)["prompt_embeds"]
        assert torch.equal(ours, expected)
        # What is kept hangs on neither what was given nor what the transformer does with its own.
        prompts.fill_(torch.nan)
        ours.fill_(torch.nan)
        assert len(features._kept) <= prompt_features._KEPT
