"""Where each file lies below the output.

OUTPUT/videos/NAME.mp4              nothing but finished videos in this folder
OUTPUT/videos/NAME/frame_000000.png those that are folders of frames
OUTPUT/contact_sheets/NAME.png
OUTPUT/previews/NAME.jpg            six pictures without text
OUTPUT/previews/NAME.png            pictures of what it was while it was denoised, if asked for
OUTPUT/scores/NAME.json             change and drift of every frame
OUTPUT/evaluation/NAME.json         what `glc-ray evaluate` found, with curves
OUTPUT/scores.parquet               and of all videos, one row a video and score
OUTPUT/comparison/                  what `glc-ray compare` found: README.md, tables, pictures
OUTPUT/report/                      the report page
OUTPUT/latents/NAME.safetensors     what --keep-latents keeps
OUTPUT/manifest.parquet
OUTPUT/.work/ID/                    of a video that is not done: latents, segments and their ledger
OUTPUT/.work/ID/timings.json        and what the latents took
OUTPUT/.work/ID/checkpoints/        and its state between two steps
OUTPUT/.work/ID/bands/ATTEMPT/      final latents as they come in its last step
OUTPUT/.work/manifest/              rows of the manifest, as they were written
OUTPUT/.work/queue/RUN/GROUP/PRIORITY/  rows of a catalog that are to be rendered
OUTPUT/.work/lease/                 which run has the output
OUTPUT/.work/control/               what people ask of the run
OUTPUT/.work/run.json               what the run says of itself
"""

from __future__ import annotations

import re

MANIFEST = "manifest.parquet"
WORK = ".work"
EVALUATION = "scores.parquet"
EVALUATIONS = "evaluation"
MANIFEST_PARTS = ".work/manifest"
QUEUE = ".work/queue"
LEASE = ".work/lease"
CONTROL = ".work/control"
RUN_STATUS = ".work/run.json"
REPORT = "report"
REPORT_PAGE = "report/index.html"
_IN_WORK = re.compile(rf"{re.escape(WORK)}/([0-9a-f]{{16}})/")


def video_path(name: str, suffix: str = ".mp4") -> str:
    """Path of a video below the output; without a suffix that of a folder of frames."""
    return f"videos/{name}{suffix}"


def contact_sheet_path(name: str) -> str:
    """Path of a contact sheet below the output."""
    return f"contact_sheets/{name}.png"


def preview_path(name: str) -> str:
    """Path of some pictures of a video, below the output."""
    return f"previews/{name}.jpg"


def preview_sheet_path(name: str) -> str:
    """Path of a sheet of pictures of a video while it was denoised, below the output."""
    return f"previews/{name}.png"


def scores_path(name: str) -> str:
    """Path of the scores of a video's frames, below the output."""
    return f"scores/{name}.json"


def evaluation_path(name: str) -> str:
    """Path of what an evaluation found of a video, below the output."""
    return f"{EVALUATIONS}/{name}.json"


def latents_path(name: str) -> str:
    """Path of latents that are kept, below the output."""
    return f"latents/{name}.safetensors"


def work_path(video_id: str, path: str = "") -> str:
    """Path of what is needed until a video is done, below the output."""
    return f"{WORK}/{video_id}/{path}".rstrip("/")


def video_of(path: str) -> str:
    """Id of the video in whose work folder a path is; empty: in none's."""
    match = _IN_WORK.match(path)
    return match[1] if match else ""


def work_latents_path(video_id: str) -> str:
    """Path of the final latents of a video that is not done, below the output."""
    return work_path(video_id, "latents.safetensors")


def timings_path(video_id: str) -> str:
    """Path of what the denoising of a video that is not done took, below the output."""
    return work_path(video_id, "timings.json")


def bands_path(video_id: str) -> str:
    """Folder of what is stored of a video's final latents before all of them are there."""
    return work_path(video_id, "bands")


def band_path(video_id: str, attempt: str, first_frame: int) -> str:
    """Path of the final latents from a latent frame on, as one attempt at the video stored them."""
    return f"{bands_path(video_id)}/{attempt}/{first_frame:05d}.safetensors"


def checkpoints_path(video_id: str) -> str:
    """Folder of a video's states between two steps, below the output."""
    return work_path(video_id, "checkpoints")
