"""The parts of toyworld, each built from its configuration with random weights of a fixed seed."""

import re

import torch
import world
from diffusers import (
    AutoencoderKLCogVideoX,
    CogVideoXDDIMScheduler,
    CogVideoXTransformer3DModel,
)
from diffusers.models.autoencoders.autoencoder_kl_cogvideox import (
    CogVideoXResnetBlock3D,
    CogVideoXSpatialNorm3D,
)
from tokenizers import Regex, Tokenizer, normalizers, pre_tokenizers, processors
from tokenizers.models import WordLevel
from torch import nn
from transformers import PreTrainedTokenizerFast, T5Config, T5EncoderModel

PAD, END, UNKNOWN = "<pad>", "</s>", "<unk>"
TEXT_LENGTH = 16
TEXT_WIDTH = 64
LATENT_CHANNELS = 16
LATENT_HEIGHT, LATENT_WIDTH = world.HEIGHT // 8, world.WIDTH // 8
WINDOW = 7
"""Latent frames of a native window: 25 frames."""


def build_vae(seed: int = 0) -> AutoencoderKLCogVideoX:
    """8 times smaller in space, 4 times in time, 16 channels."""
    torch.manual_seed(seed)
    widths = (16, 32, 64, 64)
    vae = AutoencoderKLCogVideoX(
        down_block_types=("CogVideoXDownBlock3D",) * len(widths),
        up_block_types=("CogVideoXUpBlock3D",) * len(widths),
        block_out_channels=widths,
        latent_channels=LATENT_CHANNELS,
        layers_per_block=1,
        norm_num_groups=8,
        temporal_compression_ratio=4,
        sample_height=world.HEIGHT,
        sample_width=world.WIDTH,
        scaling_factor=1.0,
    )
    # Start with residual blocks that do nothing and with a scale of one, not around zero, where
    # the decoder's norms multiply by a linear map of the latents: learning starts at once.
    for module in vae.modules():
        if isinstance(module, CogVideoXSpatialNorm3D):
            nn.init.ones_(module.conv_y.conv.bias)
        elif isinstance(module, CogVideoXResnetBlock3D):
            nn.init.zeros_(module.conv2.conv.weight)
            nn.init.zeros_(module.conv2.conv.bias)
    return vae


@torch.no_grad()
def rescale_latents(vae: AutoencoderKLCogVideoX, std: torch.Tensor) -> None:
    """Divide each latent channel by `std` (16,) within the weights: same reconstructions."""
    encoder_out = vae.encoder.conv_out.conv
    encoder_out.weight[:LATENT_CHANNELS] /= std[:, None, None, None, None]
    encoder_out.bias[:LATENT_CHANNELS] /= std
    encoder_out.bias[LATENT_CHANNELS:] -= 2 * std.log()
    readers = [vae.decoder.conv_in.conv]
    for module in vae.decoder.modules():
        if isinstance(module, CogVideoXSpatialNorm3D):
            readers += [module.conv_y.conv, module.conv_b.conv]
    for convolution in readers:
        convolution.weight *= std[:, None, None, None]


def build_transformer(seed: int = 0) -> CogVideoXTransformer3DModel:
    """24 tokens a latent frame, 6 layers of width 256."""
    torch.manual_seed(seed)
    transformer = CogVideoXTransformer3DModel(
        num_attention_heads=4,
        attention_head_dim=64,
        num_layers=6,
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        patch_size=2,
        time_embed_dim=64,
        text_embed_dim=TEXT_WIDTH,
        max_text_seq_length=TEXT_LENGTH,
        sample_height=LATENT_HEIGHT,
        sample_width=LATENT_WIDTH,
        sample_frames=4 * (WINDOW - 1) + 1,
        temporal_compression_ratio=4,
        spatial_interpolation_scale=1.0,
        temporal_interpolation_scale=1.0,
        use_rotary_positional_embeddings=False,
    )
    # Start with blocks that do nothing and a velocity of zero, as DiT does (adaLN-Zero).
    modulations = [
        norm.linear for b in transformer.transformer_blocks for norm in (b.norm1, b.norm2)
    ]
    for linear in (*modulations, transformer.proj_out):
        nn.init.zeros_(linear.weight)
        nn.init.zeros_(linear.bias)
    return transformer


def build_scheduler() -> CogVideoXDDIMScheduler:
    """CogVideoX's own noise schedule: v-prediction, zero terminal SNR, trailing steps."""
    return CogVideoXDDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
        timestep_spacing="trailing",
        snr_shift_scale=1.0,
        clip_sample=False,
        set_alpha_to_one=True,
    )


def vocabulary() -> list[str]:
    """Every token, the special ones first; the order is the token id."""
    words = {word for caption in world.CAPTIONS for word in re.findall(r"\w+", str(caption))}
    return [PAD, END, UNKNOWN, *sorted(words)]


def build_tokenizer() -> PreTrainedTokenizerFast:
    """One token a word; case and punctuation do not matter."""
    token_ids = {token: index for index, token in enumerate(vocabulary())}
    tokenizer = Tokenizer(WordLevel(token_ids, unk_token=UNKNOWN))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Lowercase(), normalizers.Replace(Regex(r"[^\w\s]"), " ")]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"$A {END}", special_tokens=[(END, token_ids[END])]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        eos_token=END,
        unk_token=UNKNOWN,
        model_max_length=TEXT_LENGTH,
    )


def build_text_encoder(seed: int = 0) -> T5EncoderModel:
    """A T5 encoder that keeps its random weights: it only has to tell words and places apart."""
    torch.manual_seed(seed)
    config = T5Config(
        vocab_size=len(vocabulary()),
        d_model=TEXT_WIDTH,
        d_kv=16,
        d_ff=128,
        num_layers=1,
        num_heads=4,
        dropout_rate=0.0,
    )
    return T5EncoderModel(config).eval()


@torch.no_grad()
def encode_text(
    tokenizer: PreTrainedTokenizerFast, text_encoder: T5EncoderModel, prompts: list[str]
) -> torch.Tensor:
    """Prompt embeddings (B, 16, 64), made as `CogVideoXPipeline` makes them: no attention mask."""
    tokens = tokenizer(
        prompts, padding="max_length", max_length=TEXT_LENGTH, truncation=True, return_tensors="pt"
    )
    return text_encoder(tokens.input_ids)[0]
