"""What actors count and log: counts go to Ray, whose agent on each node exports them to Prometheus,
lines into Ray's log files."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from ray.util import metrics

from glc_ray.config import ResourcesSpec
from glc_ray.logs import log_to_stderr
from glc_ray.telemetry import Metric

_ALMOST_NOTHING = 1e-300
"""Ray's counters take no 0, and 1 + 1e-300 is 1."""


class Recorder(Protocol):
    """Takes what actors count; every label but ``output`` is given by name."""

    def add(self, metric: Metric, amount: float = 1.0, **labels: str) -> None:
        """Count."""
        ...

    def set(self, metric: Metric, value: float, **labels: str) -> None:
        """What a gauge shows from now on."""
        ...

    def observe(self, metric: Metric, value: float, **labels: str) -> None:
        """One value of a histogram."""
        ...

    def begin(self, metric: Metric, **labels: str) -> None:
        """Show a counter before it counts: one that is not there has no rate."""
        ...


class Silent:
    """Takes nothing: telemetry that is off."""

    def add(self, metric: Metric, amount: float = 1.0, **labels: str) -> None:
        pass

    def set(self, metric: Metric, value: float, **labels: str) -> None:
        pass

    def observe(self, metric: Metric, value: float, **labels: str) -> None:
        pass

    def begin(self, metric: Metric, **labels: str) -> None:
        pass


@dataclass(frozen=True)
class Telemetry:
    """Whether the actors of a run count, for whom, and how they log; goes to all of them."""

    output: str = ""
    """Where videos go, for people: its ``uri()``."""
    is_on: bool = False
    log_format: str = "text"

    @classmethod
    def of(cls, output: str, resources: ResourcesSpec) -> Telemetry:
        """As a pipeline asks for it."""
        return cls(output, resources.telemetry, resources.log_format)

    def recorder(self) -> Recorder:
        """Takes what this process counts."""
        return RayRecorder(self.output) if self.is_on else Silent()

    def log(self) -> None:
        """This process is an actor, and logs as one."""
        log_to_stderr(self.log_format, is_actor=True)


class RayRecorder:
    """A `Recorder` of some microseconds a call.

    Args:
        output: its label.

    Raises:
        ValueError: a label that is not declared (each is looked at once).
    """

    def __init__(self, output: str) -> None:
        self._output = output
        self._instruments: dict[Metric, Any] = {}
        self._tags: dict[tuple[Any, ...], dict[str, str]] = {}

    def add(self, metric: Metric, amount: float = 1.0, **labels: str) -> None:
        if amount > 0:
            self._instrument(metric).inc(amount, self._tagged(metric, labels))

    def set(self, metric: Metric, value: float, **labels: str) -> None:
        self._instrument(metric).set(value, self._tagged(metric, labels))

    def observe(self, metric: Metric, value: float, **labels: str) -> None:
        self._instrument(metric).observe(value, self._tagged(metric, labels))

    def begin(self, metric: Metric, **labels: str) -> None:
        self.add(metric, _ALMOST_NOTHING, **labels)

    def _instrument(self, metric: Metric) -> Any:
        found = self._instruments.get(metric)
        if found is None:
            found = self._instruments[metric] = _instrument(metric)
        return found

    def _tagged(self, metric: Metric, labels: dict[str, str]) -> dict[str, str]:
        key = (metric, *labels.items())
        tags = self._tags.get(key)
        if tags is None:
            tags = {"output": self._output, **labels}
            metric.check(tags)
            self._tags[key] = tags
        return tags


def _instrument(metric: Metric) -> Any:
    tag_keys = tuple(metric.labels)
    match metric.kind:
        case "counter":
            return metrics.Counter(metric.name, metric.help, tag_keys)
        case "gauge":
            return metrics.Gauge(metric.name, metric.help, tag_keys)
        case _:
            return metrics.Histogram(metric.name, metric.help, list(metric.buckets), tag_keys)
