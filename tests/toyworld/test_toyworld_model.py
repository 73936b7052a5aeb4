"""The model's parts: text encoding, latent scaling, and the exported folder."""

import itertools
from pathlib import Path

import models
import pytest
import torch
import world
from diffusers import CogVideoXPipeline

FOLDER = Path(__file__).parents[2] / "glc_ray" / "backbones" / "toyworld"


@pytest.fixture(scope="module")
def pipeline():
    return CogVideoXPipeline.from_pretrained(FOLDER, dtype=torch.float32, local_files_only=True)


@pytest.fixture(scope="module")
def embeddings():
    prompts = [str(caption) for caption in world.CAPTIONS]
    return models.encode_text(models.build_tokenizer(), models.build_text_encoder(), prompts)


def test_the_tokenizer_ignores_case_and_punctuation():
    tokenizer = models.build_tokenizer()
    plain = tokenizer("a red ball bounces over the meadow at day").input_ids
    assert tokenizer("A RED ball, bounces over the meadow at day!").input_ids == plain
    assert tokenizer.decode(plain, skip_special_tokens=True) == (
        "a red ball bounces over the meadow at day"
    )


def test_an_unknown_word_and_the_empty_prompt():
    tokenizer = models.build_tokenizer()
    assert tokenizer.convert_ids_to_tokens(tokenizer("a plaid ball").input_ids) == [
        "a",
        "<unk>",
        "ball",
        "</s>",
    ]
    assert tokenizer("").input_ids == [tokenizer.eos_token_id]


def test_every_word_can_be_read_off_the_text_embedding(embeddings):
    """Least squares from the embedding to each word's indicator, tested on held-out sentences."""
    held_out = torch.tensor([caption in set(world.HELD_OUT) for caption in world.CAPTIONS])
    features = embeddings.flatten(1)
    words = (world.COLOURS, world.SHAPES, world.MOTIONS, world.GROUNDS, world.SKIES)
    kinds = ("colour", "shape", "motion", "ground", "sky")
    for kind, choices in zip(kinds, words, strict=True):
        labels = torch.tensor([list(choices).index(getattr(c, kind)) for c in world.CAPTIONS])
        targets = torch.nn.functional.one_hot(labels).float()
        probe = torch.linalg.lstsq(features[~held_out], targets[~held_out], driver="gelsd").solution
        assert torch.equal((features[held_out] @ probe).argmax(1), labels[held_out]), kind


def test_sentences_that_differ_in_one_word_are_far_apart(embeddings):
    near = min(
        float((embeddings[i] - embeddings[j]).norm() / embeddings[i].norm())
        for i, j in itertools.islice(itertools.combinations(range(len(embeddings)), 2), 3000)
    )
    assert near > 0.1


def test_rescaled_latents_reconstruct_the_same():
    vae = models.build_vae().eval()
    video = torch.rand(1, 3, 9, 32, 48) * 2 - 1
    std = torch.linspace(0.5, 2, models.LATENT_CHANNELS)
    with torch.no_grad():
        before = vae.encode(video).latent_dist
        expected = vae.decode(before.mean).sample
        models.rescale_latents(vae, std)
        after = vae.encode(video).latent_dist
        got = vae.decode(after.mean).sample
    scale = std[:, None, None, None]
    torch.testing.assert_close(after.mean * scale, before.mean)
    torch.testing.assert_close(after.std * scale, before.std)
    torch.testing.assert_close(got, expected)


def test_the_exported_folder_is_whole_and_small(pipeline):
    assert pipeline.transformer.config.sample_frames == 25
    assert pipeline.transformer.config.max_text_seq_length == models.TEXT_LENGTH
    assert pipeline.transformer.config.in_channels == pipeline.vae.config.latent_channels == 16
    assert not pipeline.transformer.config.use_rotary_positional_embeddings
    assert pipeline.vae_scale_factor_spatial == 8
    assert pipeline.vae_scale_factor_temporal == 4
    assert pipeline.scheduler.config.prediction_type == "v_prediction"
    assert pipeline.scheduler.config.rescale_betas_zero_snr
    size_bytes = sum(file.stat().st_size for file in FOLDER.rglob("*") if file.is_file())
    assert size_bytes <= 25e6


def test_the_exported_text_parts_are_those_the_model_was_trained_with(pipeline):
    prompts = ["a red ball bounces over the meadow at day", ""]
    trained = models.encode_text(models.build_tokenizer(), models.build_text_encoder(), prompts)
    exported = models.encode_text(pipeline.tokenizer, pipeline.text_encoder, prompts)
    torch.testing.assert_close(exported, trained, atol=0.02, rtol=0.02)


def test_the_exported_model_renders_a_clip(pipeline):
    pipeline.set_progress_bar_config(disable=True)
    frames = pipeline(
        "a red ball bounces over the meadow at day",
        num_frames=9,
        num_inference_steps=1,
        max_sequence_length=models.TEXT_LENGTH,
        output_type="pt",
    ).frames
    assert frames.shape == (1, 9, 3, world.HEIGHT, world.WIDTH)
    assert torch.isfinite(frames).all()
