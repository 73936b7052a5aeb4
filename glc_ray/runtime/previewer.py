"""The previewer actor: a row of pictures for a video's preview sheet, while it is denoised.

A process of its own, one a run: what it does, and how it fails or dies, reaches no video.
"""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING, Any

import ray

from glc_ray.config import PipelineSpec
from glc_ray.runtime.messages import Preview
from glc_ray.runtime.metrics import Telemetry
from glc_ray.store.output import Output
from glc_ray.store.paths import preview_sheet_path

if TYPE_CHECKING:
    from glc_ray.protocols import FrameDecoder

_LOG = logging.getLogger(__name__)
_LEAST_PRIORITY = 19


class Previewer:
    """Decodes what it is given and appends it to the sheet of its video.

    Args:
        output: where videos go.
        pipeline: one of the run's: its model and decode settings are everybody's.
        telemetry: for its log.
    """

    def __init__(self, output: str, pipeline: PipelineSpec, telemetry: Telemetry) -> None:
        # On a machine without a CPU to spare a preview waits, not a denoiser.
        os.nice(_LEAST_PRIORITY)
        telemetry.log()
        self._output = Output(output)
        self._pipeline = pipeline
        self._decoder: FrameDecoder | None = None

    def prepare(self) -> None:
        """Load the VAE, which a short video would not wait for; ``add`` does it where this failed.

        Raises:
            UserError: it cannot be loaded.
        """
        if self._decoder is None:
            import torch

            torch.set_num_threads(1)
            self._decoder = self._load()

    def add(self, preview: Preview, board: Any) -> None:
        """Append a row to the sheet of a video, and tell the board where it is.

        Raises:
            UserError: the VAE cannot be loaded.
            NonFiniteError: it makes no pictures of these latents.
            StorageError: the sheet cannot be read or stored.
        """
        # Late: most of what is to be imported and loaded, and so at that priority.
        from glc_ray.media.preview_sheet import with_row

        pictures = self._pictures(preview)
        path = preview_sheet_path(preview.name)
        sheet = with_row(self._output.read_bytes(path), preview.head, preview.label, pictures)
        self._output.put_bytes(sheet, path)
        board.previewed.remote(preview.video, path)
        _LOG.info("%s: preview of %s", preview.name, preview.label)

    def _pictures(self, preview: Preview) -> list[Any]:
        import torch
        from PIL import Image

        from glc_ray.media.decode import decode_alone

        self.prepare()
        assert self._decoder is not None
        frames = torch.tensor(preview.latents_BFCHW).split(1, dim=1)
        return [Image.fromarray(decode_alone(self._decoder, frame)) for frame in frames]

    def _load(self) -> FrameDecoder:
        from glc_ray.backbones.registry import load_frame_decoder
        from glc_ray.runtime.denoiser import assigned_device

        device, decode = assigned_device(), self._pipeline.decode
        if device.type == "cpu":
            # Half precision is no faster there.
            decode = decode.model_copy(update={"dtype": "float32"})
        return load_frame_decoder(self._pipeline.model, decode, device)


def start_previewer(output: str, pipeline: PipelineSpec, telemetry: Telemetry) -> Any:
    """Start the previewer of a run; it is restarted where it dies, and tries once more."""
    resources = pipeline.resources.previewer
    actor = ray.remote(Previewer).options(
        num_cpus=resources.num_cpus,
        num_gpus=resources.num_gpus,
        resources=resources.custom,
        max_restarts=-1,
        # What is asked while it is started anew waits for it; what killed it twice has failed.
        max_task_retries=1,
    )
    previewer = actor.remote(output, pipeline, telemetry)
    previewer.prepare.remote()
    return previewer
