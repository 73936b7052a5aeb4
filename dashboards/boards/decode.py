"""From latents to files."""

from __future__ import annotations

from grafana_foundation_sdk.builders import dashboard

from dashboards.panels import (
    added,
    bars,
    board,
    graph,
    number,
    rate,
    ratio,
)
from glc_ray import telemetry as t


def decode() -> dashboard.Dashboard:
    """From latents to files."""
    frames, decoding = rate(t.FRAMES), rate(t.DECODE_SECONDS)
    encoding = rate(t.ENCODE_SECONDS)
    return board(
        "glc-decode",
        "glc-ray: decode and encode",
        "Counted as each segment is stored: between two segments nothing moves.",
        number("Frames a second", "Over all decoders.", "short", (frames, "frames"), width=8),
        number(
            "Decoding",
            "Videos whose frames are being decoded.",
            "short",
            (added(t.VIDEOS, state="decoding"), "videos"),
            width=8,
        ),
        number(
            "Decoders at work",
            "Seconds of decoding and encoding a second.",
            "short",
            (f"{decoding} + {encoding}", "decoders"),
            width=8,
        ),
        graph(
            "Frames a second of each part",
            "While it is at it: a decoder does one after the other.",
            "short",
            (ratio(frames, decoding), "decode"),
            (ratio(frames, encoding), "encode"),
        ),
        graph(
            "Seconds a second",
            "What decoders spend their time on, summed over them.",
            "s",
            (decoding, "decode"),
            (encoding, "encode"),
            stacked=True,
        ),
        graph(
            "Bytes stored a second",
            "Latents before the decode, segments after it.",
            "Bps",
            (rate(t.MOVED_BYTES, "kind", kind="latents|segments"), "{{kind}}"),
        ),
        bars(
            "Seconds of all videos",
            "From the manifest.",
            "s",
            (added(t.RENDERED_SECONDS, "stage", stage="decode|encode"), "{{stage}}"),
        ),
    )
