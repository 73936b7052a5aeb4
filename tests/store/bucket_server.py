"""An S3 server on loopback, for tests: localbucket with a door in front of it.

The server itself lets everybody in; the door refuses unknown access keys and changes of the bucket
``locked`` as S3 does, and can be told to refuse, hold or cut off requests.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http import HTTPStatus
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any

from localbucket import S3Error, S3Handler

ACCESS_KEY = "tester"
SECRET_KEY = "not-a-secret"  # noqa: S105
READ_ONLY_BUCKET = "locked"

Guard = Callable[[str, str], None]


class BucketServer:
    """Buckets that are folders of ``root``."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.guard: Guard = _let_pass
        self.types: dict[str, str] = {}
        """Content type that an upload began with, by path of the request."""
        server = self

        class Door(S3Handler):
            data_root = root

            def _dispatch(self, action: Any) -> None:
                def guarded(bucket: str, key: str) -> None:
                    server.admit(self.command, self.headers.get("Authorization", ""), bucket)
                    server.guard(self.command, self.path)
                    if kind := self.headers.get("Content-Type"):
                        server.types.setdefault(self.path.partition("?")[0], kind)
                    action(bucket, key)

                super()._dispatch(guarded)

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Door)
        self._http.daemon_threads = True
        self.address = f"127.0.0.1:{self._http.server_port}"
        threading.Thread(target=self._http.serve_forever, daemon=True).start()

    def uri(self, bucket: str, prefix: str = "", keys: str = "") -> str:
        """A URI that pyarrow opens."""
        return f"s3://{keys}{bucket}/{prefix}?scheme=http&endpoint_override={self.address}"

    @contextmanager
    def guarded(self, guard: Guard) -> Iterator[None]:
        """Call ``guard(method, path)`` before each request."""
        self.guard = guard
        try:
            yield
        finally:
            self.guard = _let_pass

    def admit(self, method: str, authorization: str, bucket: str) -> None:
        """Refuse who S3 would refuse."""
        key = re.search(r"Credential=([^/]+)/", authorization)
        if key is None or key[1] != ACCESS_KEY:
            raise S3Error(
                HTTPStatus.FORBIDDEN,
                "InvalidAccessKeyId",
                "The AWS Access Key Id you provided does not exist in our records.",
            )
        if bucket == READ_ONLY_BUCKET and method in ("PUT", "POST", "DELETE"):
            raise denied()

    def close(self) -> None:
        self._http.shutdown()
        self._http.server_close()


def denied() -> S3Error:
    """What S3 answers to whom a policy refuses."""
    return S3Error(HTTPStatus.FORBIDDEN, "AccessDenied", "Access Denied")


def _let_pass(method: str, path: str) -> None:
    pass
