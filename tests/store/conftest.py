"""Output on local storage and on an S3 server."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from glc_ray.store.output import Output
from tests.store.bucket_server import ACCESS_KEY, READ_ONLY_BUCKET, SECRET_KEY, BucketServer


@pytest.fixture(scope="session")
def bucket_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BucketServer]:
    root = tmp_path_factory.mktemp("buckets")
    (root / READ_ONLY_BUCKET).mkdir()
    server = BucketServer(root)
    yield server
    server.close()


@pytest.fixture
def s3(bucket_server: BucketServer, monkeypatch: pytest.MonkeyPatch) -> BucketServer:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", ACCESS_KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET_KEY)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    return bucket_server


@pytest.fixture
def s3_output(s3: BucketServer, tmp_path: Path) -> Output:
    # A bucket a test: its name is that of the test's folder.
    bucket = tmp_path.name.replace("_", "-").lower().strip("-")
    (s3.root / bucket).mkdir()
    output = Output(s3.uri(bucket, "renders"))
    output.prepare()
    return output


@pytest.fixture(params=["local", "s3"])
def output(request: pytest.FixtureRequest, tmp_path: Path) -> Output:
    if request.param == "s3":
        return request.getfixturevalue("s3_output")
    output = Output(str(tmp_path / "out"))
    output.prepare()
    return output
