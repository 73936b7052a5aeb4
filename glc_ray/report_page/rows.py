"""What the page knows of a video: its row in the list, and what is read when it is opened."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, TypeAlias

from glc_ray.evaluation.evaluation_file import EvaluationFile
from glc_ray.evaluation.video_scores import ScoresFile
from glc_ray.foreign import from_json
from glc_ray.store.record import VideoRecord

Json: TypeAlias = dict[str, Any]

_LONGEST_TEXT = 1000
"""Characters of a prompt or an error in the list; the rest is read with the video."""
_CURVE_POINTS = 32
_ID = re.compile(r"[0-9a-f]{16}")
_COLUMNS = (
    *("name", "status", "fps", "width", "height", "path", "contact_sheet", "preview", "priority"),
    *("num_frames", "size_bytes", "num_windows", "anchor_forwards", "catalog_line", "versions"),
    *("prompt_s", "denoise_s", "fuse_s", "update_s", "forward_s", "decode_s", "encode_s"),
    *("total_s", "queued_at", "started_at", "denoised_at", "decoding_at", "decoded_at"),
    *("finished_at", "resumed_at_step", "halved_batches"),
)


@dataclass(frozen=True)
class PageRow:
    """A video as the page has it."""

    row: Json
    """For the list. What is empty or 0 is left out; keys are the manifest's."""
    video: Json | None
    """What is read when the video is opened, beyond its row; None where that is nothing."""
    pipeline: Json | None
    """The part of its specification that it shares with others; ``row["pipeline"]`` names it."""


def page_row(
    record: VideoRecord,
    scores: ScoresFile | None,
    preview_sheet: str = "",
    evaluation: EvaluationFile | None = None,
) -> PageRow:
    """A manifest row as the page shows it, with its scores, its preview sheet's path and its
    evaluation, if any."""
    row: Json = {"id": page_id(record.id)}
    for column in _COLUMNS:
        if value := getattr(record, column):
            row[column] = round(value, 3) if isinstance(value, float) else value
    if preview_sheet:
        row["preview_sheet"] = preview_sheet
    # JavaScript's numbers end at 2^53.
    row["seed"] = str(record.seed)
    row["finished_at"] = record.finished_at
    video: Json = {}
    for name in ("prompt", "error"):
        text = getattr(record, name)
        if text:
            row[name] = text[:_LONGEST_TEXT]
        if len(text) > _LONGEST_TEXT:
            video[name] = text
    pipeline = _specify(row, record.specification)
    if scores is not None:
        row["scores"] = {
            "change": round(scores.summary.mean_change, 3),
            "drift": round(scores.summary.drift, 4),
            **({} if scores.summary.seam is None else {"seam": round(scores.summary.seam, 3)}),
            "curve": curve(scores.change),
        }
        video["scores"] = json.loads(scores.to_json())
    if evaluation is not None:
        row["evaluation"] = evaluation.digest
        video["evaluation"] = {
            "num_frames": evaluation.num_frames,
            "values": dict(evaluation.values),
            "curves": {name: asdict(curve) for name, curve in evaluation.curves.items()},
        }
    if video:
        row["has_video_file"] = True
        video["id"] = row["id"]
    return PageRow(row, video or None, pipeline)


def page_id(video_id: str) -> str:
    """What the page's files call a video: its id, or of an id that is no such one a hash."""
    if _ID.fullmatch(video_id):
        return video_id
    return hashlib.sha256(video_id.encode(errors="surrogatepass")).hexdigest()[:16]


def curve(values: Sequence[float]) -> list[int]:
    """Some values as at most 32 whole numbers from 0 to 99, of the largest in each part."""
    if not values:
        return []
    count = min(_CURVE_POINTS, len(values))
    borders = [at * len(values) // count for at in range(count + 1)]
    parts = [max(values[borders[at] : borders[at + 1]]) for at in range(count)]
    top = max(parts)
    return [round(99 * value / top) if top > 0 else 0 for value in parts]


def _specify(row: Json, specification: str) -> Json | None:
    """Put what is a video's own of its specification into its row; returns the rest."""
    try:
        values = from_json(specification)
        pipeline = values.pop("pipeline")
        row["method"], row["model"] = str(pipeline["method"]), str(pipeline["name"])
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
    digest = hashlib.sha256(json.dumps(pipeline, sort_keys=True).encode()).hexdigest()[:16]
    row["pipeline"] = digest
    # The prompt and the seed are there already.
    own = {key: value for key, value in values.items() if key not in ("prompt", "seed") and value}
    if own:
        row["own"] = own
    return {"hash": digest, "pipeline": pipeline}
