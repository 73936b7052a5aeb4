"""The ledger of one video's segments: which are there, and whose they are.

OUTPUT/.work/ID/segments/SETTINGS/
    00003.0002.1f0c7a52.claim  attempt 2 at segment 3 has begun
    00003.0002.mp4             what it encoded
    00003.0002.1f0c7a52.json   its entry: the segment is done

No file is ever changed, and nobody holds a lock that a dead process could leave behind. The highest
attempt that claimed a segment owns it, and only the owner's entry counts: an attempt that was given
up for dead and comes back late finds another owner. The random part ties an entry to its claim, for
numbers begin anew after ``clear``. Another decode or encode setting is another folder.
"""

from __future__ import annotations

import hashlib
import json
import re
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from glc_ray.foreign import read_facts
from glc_ray.store.output import Output
from glc_ray.store.paths import work_path

_NAME = re.compile(r"(\d{5,})\.(\d{4,})(?:\.([0-9a-f]{8}))?\.(\w+)")
_HASH_BYTES = 1 << 20


@dataclass(frozen=True)
class SegmentEntry:
    """A finished segment."""

    path: str
    """Of its file, below the output."""
    sha256: str
    """Of the file, in hex."""
    size: int
    """Of the file, in bytes."""
    first_frame: int
    """Pixel frame of the video that it begins with."""
    num_frames: int
    """Pixel frames."""
    settings_hash: str
    """Of all that the file's bytes depend on beside the latents: decode and encode settings."""

    @classmethod
    def of_file(
        cls, local: Path, path: str, *, first_frame: int, num_frames: int, settings_hash: str
    ) -> SegmentEntry:
        """The entry of a local file that is stored as ``path``."""
        return cls(
            path=path,
            sha256=_sha256(local),
            size=local.stat().st_size,
            first_frame=first_frame,
            num_frames=num_frames,
            settings_hash=settings_hash,
        )

    def is_of(self, local: Path) -> bool:
        """Whether a local file has the bytes that were stored."""
        return local.stat().st_size == self.size and _sha256(local) == self.sha256


@dataclass(frozen=True)
class _File:
    path: str
    segment: int
    attempt: int
    token: str
    kind: str

    @property
    def claim(self) -> tuple[int, str]:
        return self.attempt, self.token


class Ledger:
    """The segments of one video under one decode and encode setting.

    Any number of processes may commit. One at a time claims: whoever hands out the segments, with
    attempt numbers that rise (``next_attempt``), also after it was killed and started again.

    Args:
        output: where the video goes.
        video_id: first 16 hex digits of its specification hash.
        settings_hash: of decode and encode settings; segments of others are not seen.
    """

    def __init__(self, output: Output, video_id: str, settings_hash: str) -> None:
        self._output = output
        self.settings_hash = settings_hash
        self._all_settings = work_path(video_id, "segments")
        self._folder = f"{self._all_settings}/{settings_hash[:16]}"

    def segment_path(self, segment: int, attempt: int, suffix: str = ".mp4") -> str:
        """Where an attempt stores its segment, below the output."""
        return f"{self._folder}/{segment:05d}.{attempt:04d}{suffix}"

    def next_attempt(self, segment: int) -> int:
        """An attempt number that was never used for this segment; the first is 1."""
        return max((file.attempt for file in self._files(segment)), default=0) + 1

    def claim(self, segment: int, attempt: int) -> bool:
        """Make ``attempt`` the owner of a segment, in place of any lower one.

        Returns:
            False, and changes nothing, where this or a higher attempt was there before.
        """
        if attempt < self.next_attempt(segment):
            return False
        self._put_claim(segment, attempt)
        return True

    def claim_next(self, segments: Sequence[int]) -> list[int]:
        """Claim segments, each for an attempt that was never used for it; returns the attempts.

        The folder of a long video has thousands of files: it is listed once for all of them.
        """
        used: dict[int, int] = {}
        for file in self._files():
            used[file.segment] = max(used.get(file.segment, 0), file.attempt)
        attempts = [used.get(segment, 0) + 1 for segment in segments]
        for segment, attempt in zip(segments, attempts, strict=True):
            self._put_claim(segment, attempt)
        return attempts

    def commit(self, segment: int, attempt: int, entry: SegmentEntry) -> bool:
        """Enter a segment whose file is stored, if ``attempt`` still owns it.

        Returns:
            False where it does not: the attempt's files are removed.
        """
        if entry.settings_hash != self.settings_hash:
            raise ValueError("the entry is of another decode or encode setting than the ledger")
        files = self._files(segment)
        owner = _owners(files).get(segment)
        if owner is None or owner[0] != attempt:
            self._remove(file for file in files if file.attempt == attempt)
            return False
        entry_path = self.segment_path(segment, attempt, f".{owner[1]}.json")
        self._output.put_bytes(json.dumps(asdict(entry), indent=1).encode(), entry_path)
        # Another may have claimed it since; then the entry does not count already.
        files = self._files(segment)
        current = _owners(files).get(segment)
        if current != owner:
            reused = current is not None and current[0] == attempt
            self._remove(
                file
                for file in files
                if file.attempt == attempt and (file.path == entry_path or not reused)
            )
            return False
        self._remove(file for file in files if file.attempt < attempt)
        return True

    def withdraw(self, segment: int, attempt: int) -> None:
        """Remove what an attempt stored but did not enter: on a full disk it is in the way."""
        files = [file for file in self._files(segment) if file.attempt == attempt]
        if not any(file.kind == "json" for file in files):
            self._remove(file for file in files if file.kind != "claim")

    def done(self) -> dict[int, SegmentEntry]:
        """The entries of all segments that are done, by segment, each by the segment's owner."""
        files = self._files()
        owners = _owners(files)
        entries: dict[int, SegmentEntry] = {}
        for file in files:
            if file.kind != "json" or owners.get(file.segment) != file.claim:
                continue
            entry = self._read(file.path)
            if entry is not None:
                entries[file.segment] = entry
        return dict(sorted(entries.items()))

    def valid(self, entry: SegmentEntry) -> bool:
        """Whether an entry's file is there, of its size; its bytes are compared by ``is_of``."""
        return self._output.size(entry.path) == entry.size

    def forget_other_settings(self) -> None:
        """Remove segments of this video that were decoded or encoded with other settings."""
        for stored in self._output.list(self._all_settings):
            if not stored.path.startswith(f"{self._folder}/"):
                self._output.delete(stored.path)

    def clear(self) -> None:
        """Remove all segments of this video, whatever their settings."""
        self._output.delete(self._all_settings)

    def _put_claim(self, segment: int, attempt: int) -> None:
        token = uuid.uuid4().hex[:8]
        self._output.put_bytes(b"{}", self.segment_path(segment, attempt, f".{token}.claim"))

    def _files(self, segment: int | None = None) -> list[_File]:
        found = []
        for stored in self._output.list(self._folder):
            match = _NAME.fullmatch(stored.path.removeprefix(f"{self._folder}/"))
            if match and segment in (None, int(match[1])):
                file = _File(
                    stored.path, int(match[1]), int(match[2]), match[3] or "", match[4].lower()
                )
                found.append(file)
        return found

    def _remove(self, files: Iterable[_File]) -> None:
        for file in files:
            self._output.delete(file.path)

    def _read(self, path: str) -> SegmentEntry | None:
        entry = read_facts(SegmentEntry, self._output.read_bytes(path))
        if entry is None or entry.settings_hash != self.settings_hash:
            return None
        # It names the file that is read, and removed where it is damaged: no other than its own.
        own, found = (_NAME.fullmatch(one.rpartition("/")[2]) for one in (path, entry.path))
        is_own = own and found and not found[3] and found.group(1, 2) == own.group(1, 2)
        return entry if is_own and entry.path.startswith(f"{self._folder}/") else None


def _sha256(local: Path) -> str:
    digest = hashlib.sha256()
    with local.open("rb") as file:
        while chunk := file.read(_HASH_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def _owners(files: Iterable[_File]) -> dict[int, tuple[int, str]]:
    owners: dict[int, tuple[int, str]] = {}
    for file in files:
        if file.kind == "claim":
            owners[file.segment] = max(owners.get(file.segment, (0, "")), file.claim)
    return owners
