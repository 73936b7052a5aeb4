"""Farm metrics over the manifest and the run's status: there during every run and after it.

``python -m glc_ray.status OUTPUT --serve-metrics PORT`` serves them to Prometheus. A scrape reads
what is new in the output, so it costs the same among a million videos as among ten.
"""

from __future__ import annotations

import logging
import shutil
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import GaugeMetricFamily

from glc_ray import telemetry
from glc_ray.display import fraction
from glc_ray.overview import check_is_output
from glc_ray.plain_text import plain
from glc_ray.protocols import UserError
from glc_ray.store import lease, run_status
from glc_ray.store.output import Output
from glc_ray.store.run_status import RunStatus, VideoProgress
from glc_ray.store.score_totals import ScoreTotals
from glc_ray.store.storage import StorageError
from glc_ray.store.totals import ManifestTotals, Totals
from glc_ray.telemetry import MOST_IN_WORK, MOST_SCORES, STAGES, VIDEO_STATES, Metric

_LOG = logging.getLogger(__name__)
_DIED_S = 60.0
"""Without a sign; a run gives one every two seconds, and outlives a short outage of storage."""
_COLUMN_OF = {"refine": "update_s"}
"""The manifest's column of a stage, where it is called otherwise."""


class FarmCollector:
    """What `prometheus_client` asks at each scrape, from any number of threads."""

    def __init__(self, place: Output) -> None:
        self._place = place
        self._totals = ManifestTotals(place)
        self._scores = ScoreTotals(place)
        self._sign = _Sign(place)
        self._said = ""
        self._lock = threading.Lock()

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """All farm metrics now; of an output that cannot be read, or that there is not yet, only
        that it cannot."""
        with self._lock:
            try:
                families = list(self._read())
                is_read, said = 1.0, ""
            except (StorageError, UserError, OSError) as error:
                families, is_read, said = [], 0.0, str(error)
            if said and said != self._said:
                # Once, and not at every scrape.
                _LOG.warning("%s; until it can be read, glc_output_read is 0", said)
            self._said = said
        yield self._family(telemetry.OUTPUT_READ, [({}, is_read)])
        yield from families

    def _read(self) -> Iterator[GaugeMetricFamily]:
        run = run_status.read(self._place)
        check_is_output(self._place, run)
        is_running = run is not None and self._sign.is_alive(run)
        in_work = run.in_work if run is not None and is_running else ()
        totals = self._totals.look([video.name for video in in_work])
        counts = _counts(totals, run, in_work)
        yield self._family(telemetry.VIDEOS, [({"state": s}, counts[s]) for s in VIDEO_STATES])
        yield self._family(telemetry.RUN_RUNNING, [({}, is_running)])
        if run is not None:
            yield self._family(telemetry.RUN_SIGN, [({}, run.updated_at)])
        yield from self._of_videos(in_work[:MOST_IN_WORK])
        yield from self._of_manifest(totals)
        yield from self._of_scores()
        if self._place.is_local:
            usage = shutil.disk_usage(self._place.uri())
            yield self._family(telemetry.STORAGE_FREE, [({}, usage.free)])
            yield self._family(telemetry.STORAGE_SIZE, [({}, usage.total)])

    def _of_videos(self, in_work: Iterable[VideoProgress]) -> Iterator[GaugeMetricFamily]:
        names = {plain(video.name): video for video in in_work}
        yield self._family(
            telemetry.VIDEO_PROGRESS,
            [({"video": name}, fraction(video)) for name, video in names.items()],
        )
        yield self._family(
            telemetry.VIDEO_INFO,
            [
                ({"video": name, "slot": str(video.slot)}, 1)
                for name, video in names.items()
                if video.slot is not None
            ],
        )

    def _of_manifest(self, totals: Totals) -> Iterator[GaugeMetricFamily]:
        sums = totals.sums
        yield self._family(telemetry.RENDERED_FRAMES, [({}, sums["num_frames"])])
        yield self._family(telemetry.RENDERED_BYTES, [({}, sums["size_bytes"])])
        yield self._family(
            telemetry.RENDERED_SECONDS,
            [({"stage": one}, sums[_COLUMN_OF.get(one, f"{one}_s")]) for one in STAGES],
        )

    def _of_scores(self) -> Iterator[GaugeMetricFamily]:
        # By their shown names: two that look the same would be one series twice.
        totals = {plain(total.score): total for total in self._scores.look()[:MOST_SCORES]}
        yield self._family(
            telemetry.SCORE,
            [
                ({"score": name, "of": of}, value)
                for name, total in totals.items()
                for of, value in (("mean", total.mean), ("low", total.low), ("high", total.high))
            ],
        )
        yield self._family(
            telemetry.SCORED_VIDEOS,
            [({"score": name}, total.num_videos) for name, total in totals.items()],
        )

    def _family(
        self, metric: Metric, samples: Iterable[tuple[dict[str, str], float]]
    ) -> GaugeMetricFamily:
        family = GaugeMetricFamily(metric.exported, metric.help, labels=[*metric.labels])
        for labels, value in samples:
            labels = {"output": self._place.uri(), **labels}
            metric.check(labels)
            family.add_metric([labels[name] for name in metric.labels], float(value))
        return family


class _Sign:
    """Whether a run lives, by the signs that it gives; nobody waits for one."""

    def __init__(self, place: Output) -> None:
        self._place = place
        self._last: RunStatus | None = None
        self._changed_at = 0.0

    def is_alive(self, run: RunStatus) -> bool:
        now = time.monotonic()
        if run != self._last:
            # At first by its clock, which may be another machine's; from then on by ours.
            silent_s = max(0.0, time.time() - run.updated_at) if self._last is None else 0.0
            self._last, self._changed_at = run, now - silent_s
        if run.state != "running":
            return False
        if run.host == socket.gethostname():
            # One whose process is gone is known to be dead at once.
            return lease.holder(self._place) is not None
        return now - self._changed_at <= _DIED_S


def _counts(
    totals: Totals, run: RunStatus | None, in_work: tuple[VideoProgress, ...]
) -> Counter[str]:
    counts = Counter(totals.statuses) + Counter(video.state for video in in_work)
    if run is not None:
        counts["queued"] += max(0, run.num_videos - sum(run.ended.values()) - len(in_work))
    return counts


@contextmanager
def serving(place: Output, port: int, host: str) -> Iterator[int]:
    """Serve the metrics of ``place`` while the block lasts; gives the port.

    ``place`` need not be an output yet: who watches a farm may begin before it does.

    Raises:
        UserError: nobody can listen there.
    """
    collector = FarmCollector(place)
    # What is wrong is said now, and not at the first scrape.
    for _ in collector.collect():
        pass
    registry = CollectorRegistry(auto_describe=False)
    registry.register(collector)
    try:
        server, thread = start_http_server(port, addr=host, registry=registry)
    except OSError as error:
        raise UserError(
            f"--serve-metrics {port}: nobody can listen at {host}:{port} ({error.strerror}); give "
            "a port that is free, or 0 for any, and a --host of this machine"
        ) from None
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
