"""Several videos are joined at once, so that a slow one holds back no other's record."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor

from glc_ray.runtime.assembly import Assembly
from glc_ray.runtime.rows import Row
from glc_ray.store.record import VideoRecord

_AT_ONCE = 4
"""A join copies: it waits for ffmpeg, disk and network."""


def joined(
    rows: Iterable[Row], assembly: Assembly, *, at_once: int = _AT_ONCE
) -> Iterator[VideoRecord]:
    """A record of each video that is complete, in the order in which they are joined.

    Args:
        rows: of stretches. None is taken while ``at_once`` videos are being joined and one waits.
        assembly: joins.
        at_once: joins at a time.

    Raises:
        BaseException: what ``rows`` raises, when the joins that have begun are done.
    """
    found: queue.SimpleQueue[VideoRecord | BaseException | None] = queue.SimpleQueue()
    room = threading.Semaphore(at_once)

    def join(complete: list[Row]) -> None:
        try:
            found.put(assembly.record(complete))
        except BaseException as error:
            found.put(error)
        finally:
            room.release()

    def feed() -> None:
        end: BaseException | None = None
        try:
            with ThreadPoolExecutor(at_once, thread_name_prefix="join") as threads:
                for row in rows:
                    complete = assembly.add(row)
                    if complete is not None:
                        room.acquire()
                        threads.submit(join, complete)
        except BaseException as error:
            end = error
        found.put(end)

    threading.Thread(target=feed, name="rows", daemon=True).start()
    while (one := found.get()) is not None:
        if isinstance(one, BaseException):
            raise one
        yield one
