"""The outputs of the store's tests: local and S3."""

from tests.store.conftest import bucket_server, output, s3, s3_output

__all__ = ["bucket_server", "output", "s3", "s3_output"]
