"""The board: what every video is doing now, for whoever displays it, which of its latents are
there, and who is to stop."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from itertools import count
from typing import Any

from glc_ray.runtime.arrivals import Arrival, Arrivals, Division
from glc_ray.runtime.messages import Timings
from glc_ray.runtime.notices import Notices
from glc_ray.store.run_status import FINAL_STATES, VideoProgress

_MAX_SICK = 3
"""Devices that fail while they decode a video, before the video does."""
_REMEMBERED = 4096
"""Videos that have ended: more than decoders can still tell of."""


class Board:
    """An actor that remembers the last report of each video in work.

    One that is started anew, after its process died, knows nothing: coordinators and decoders tell
    it again with what they do next, and the run who is to stop.

    Args:
        was_lost: it takes the place of one that died.
    """

    def __init__(self, *, was_lost: bool = False) -> None:
        self._videos: dict[str, VideoProgress] = {}
        self._ended: dict[str, None] = {}
        """The last ones, oldest first."""
        self._previews: dict[str, str] = {}
        self._decoded: dict[str, VideoProgress] = {}
        self._arrivals = Arrivals()
        self._num_decoders = 0
        self._sick: Counter[str] = Counter()
        """How often devices failed while they decoded a video."""
        self._coordinators: dict[str, Any] = {}
        self._cancelled: frozenset[str] = frozenset()
        self._is_ending = False
        self._notices = Notices()
        if was_lost:
            self._notices.add("the board died and is started anew; no video is concerned")

    def report(self, video: str, progress: VideoProgress) -> None:
        """Replace what is known of ``video`` (its specification hash)."""
        self._ended.pop(video, None)
        if progress.state not in FINAL_STATES:
            self._videos[video] = progress
            return
        self._videos.pop(video, None)
        self._previews.pop(video, None)
        self._decoded.pop(video, None)
        self._arrivals.forget(video)
        del self._sick[video]
        self._ended[video] = None
        if len(self._ended) > _REMEMBERED:
            del self._ended[next(iter(self._ended))]

    def begin(self, video: str, name: str) -> int:
        """A video is loading; its slot, the smallest number that no other in denoising has."""
        self._ended.pop(video, None)
        known = self._videos.get(video)
        if known is None or known.slot is None:
            taken = {other.slot for other in self._videos.values()}
            slot = next(slot for slot in count() if slot not in taken)
        else:
            # Its coordinator died, and another goes on.
            slot = known.slot
        self._videos[video] = VideoProgress(name, "loading", slot=slot)
        return slot

    def decoded(self, video: str, name: str, num_frames: int, total: int) -> None:
        """Count ``num_frames`` more of a video's ``total``, whichever decoder they are from.

        A decoder's last words may come when the video has ended.
        """
        if video in self._ended:
            return
        known = self._decoded.get(video)
        done = num_frames + (0 if known is None else known.frames_done)
        self._decoded[video] = VideoProgress(
            name, "decoding", frames_done=min(done, total), num_frames=total
        )
        # One whose last latents are missing is still denoised.
        if not self._arrivals.is_arriving(video):
            self._videos[video] = self._decoded[video]

    def in_work(self) -> tuple[VideoProgress, ...]:
        """Where the videos in work stand."""
        return tuple(
            replace(progress, preview=self._previews.get(video, ""))
            for video, progress in self._videos.items()
        )

    def previewed(self, video: str, path: str) -> None:
        """Remember where the preview sheet of a video is; one that has ended needs none."""
        if video in self._videos:
            self._previews[video] = path

    def begin_latents(self, video: str, attempt: str, num_decoders: int) -> None:
        """A video is denoised, perhaps anew; there are so many decoders in all."""
        self._num_decoders = num_decoders
        self._arrivals.begin(video, attempt)

    def spare_decoders(self, video: str) -> int:
        """How many decoders may begin with a video while it is denoised: one that waits must not
        be missing to another video."""
        return max(0, self._num_decoders - len(self._videos.keys() - {video}))

    def add_band(self, video: str, attempt: str, start: int, stop: int) -> None:
        """See ``Arrivals``."""
        self._arrivals.add_band(video, attempt, start, stop)

    def complete(self, video: str, timings: Timings) -> None:
        """All latents of a video are stored."""
        self._arrivals.complete(video, timings)
        if video in self._decoded:
            self._videos[video] = self._decoded[video]

    def fail(self, video: str, status: str, error: str, log: str = "") -> None:
        """The denoising of a video has ended without its latents."""
        self._arrivals.fail(video, status, error, log)

    def arrival(self, video: str) -> Arrival:
        """How far the latents of a video have come."""
        return self._arrivals.of(video)

    def division(self, video: str, proposed: Division | None = None) -> Division:
        """See ``Arrivals``."""
        return self._arrivals.division(video, proposed)

    def device_failed(self, video: str, name: str) -> bool:
        """The device of a decoder failed; whether the video is to go on in another process."""
        self._sick[video] += 1
        if self._sick[video] == _MAX_SICK:
            return False
        self.note(
            f"{name}: the device of a decoder failed; the decoder is started anew, and goes on "
            "behind what is stored"
        )
        return True

    def attend(self, name: str, coordinator: Any) -> bool:
        """Whether a video is to stop, for the coordinator that drives it: it asks before each step,
        and so is known to a board that was started anew."""
        self._coordinators[name] = coordinator
        return self.is_cancelled(name)

    def leave(self, name: str) -> None:
        """Nobody drives a video any more."""
        self._coordinators.pop(name, None)

    def coordinators(self) -> list[Any]:
        """Handles of those that drive videos now."""
        return list(self._coordinators.values())

    def cancel(self, names: Iterable[str], everything: bool) -> None:
        """Videos of these names are to stop; with ``everything`` all are, and no other begins."""
        self._cancelled, self._is_ending = frozenset(names), everything

    def is_cancelled(self, name: str) -> bool:
        """Whether a video is to stop."""
        return self._is_ending or name in self._cancelled

    def is_ending(self) -> bool:
        """Whether no other video is to begin."""
        return self._is_ending

    def note(self, line: str) -> None:
        """Tell the person who watches the run."""
        self._notices.add(line)

    def notices(self) -> list[str]:
        """What was noted since the last call."""
        return self._notices.take()
