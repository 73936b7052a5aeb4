"""Whether a method's options fit a model's window: mistakes that name the specification's key."""

from __future__ import annotations

from glc_ray.protocols import UserError


def check_stride(key: str, stride: int, window_size: int, *, default: str) -> None:
    """Refuse a stride that leaves frames uncovered.

    Args:
        key: of the specification.
        stride: between windows, in latent frames.
        window_size: the model's window, in latent frames.
        default: what it is where the key is left out.

    Raises:
        UserError: ``stride`` is not in 1..``window_size``.
    """
    if not 1 <= stride <= window_size:
        raise UserError(
            f"{key} = {stride}: must be between 1 and {window_size}, the model's window in latent "
            f"frames, or windows would leave frames uncovered; leave it out for {default}"
        )


def check_chunk(key: str, chunk: int, window_size: int) -> None:
    """Refuse a chunk of noise that would repeat frames before they have been drawn.

    Args:
        key: of the specification.
        chunk: latent frames of noise shuffled together.
        window_size: the model's window, in latent frames.

    Raises:
        UserError: ``chunk`` is not in 1..``window_size``.
    """
    if not 1 <= chunk <= window_size:
        raise UserError(
            f"{key} = {chunk}: must be between 1 and {window_size}, the model's window in latent "
            f"frames; leave it out for {min(4, window_size)}"
        )
