"""Real Ray, started once for all cluster tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import ray

from tests.store.conftest import bucket_server, s3  # noqa: F401


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[None]:
    """A local cluster of four logical CPUs, whatever the machine has."""
    ray.init(address="local", num_cpus=4, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()
