"""From final latents to files: tiles, streamed decode, encode, contact sheets."""
