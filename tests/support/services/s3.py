"""An S3 server of the tests' own: moto behind HTTP, in a process that can be killed.

Run as a program (`python -m tests.support.services.s3 PORT`) this module *is* that process.
"""

from __future__ import annotations

import http.client
import io
import os
import secrets
import sys
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from tests.support.services.process import HOST, Served

REGION = "eu-central-1"
_ROOT = Path(__file__).parents[3]


class S3Server(Served):
    """An S3 server on a free loopback port. Its objects live in memory: a kill loses them."""

    def __init__(self, folder: Path) -> None:
        self.log = folder / "s3.log"
        self.port = 0
        self.access_key = "AKIA" + secrets.token_hex(8).upper()
        self.secret_key = secrets.token_urlsafe(30)

    @property
    def endpoint(self) -> str:
        """`http://127.0.0.1:port`."""
        return f"http://{HOST}:{self.port}"

    @property
    def environment(self) -> dict[str, str]:
        """Credentials and region as environment variables; no file or role of this machine's."""
        return {
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_REGION": REGION,
            "AWS_DEFAULT_REGION": REGION,
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def start(self) -> None:
        """Start, on the same port if it ran before."""
        self._launch(_ROOT)

    def close(self) -> None:
        """End of the session."""
        if "client" in self.__dict__:
            self.client.close()
        self.kill()

    def bucket(self, name: str | None = None) -> str:
        """The name of a new empty bucket."""
        if not self.running:
            self.start()
        name = name or f"shop-{secrets.token_hex(6)}"
        self.client.create_bucket(
            Bucket=name, CreateBucketConfiguration={"LocationConstraint": REGION}
        )
        return name

    def look(self, bucket: str) -> S3Bucket:
        """A bucket as seen from outside the product."""
        return S3Bucket(self, bucket)

    @cached_property
    def client(self) -> Any:
        """A botocore client; AWS's own code rather than the library the product uses."""
        return self.client_at(self.endpoint)

    def client_at(self, endpoint: str, retries: int = 5) -> Any:
        """A client that goes another way, such as through a proxy; the caller closes it."""
        import botocore.config
        import botocore.session

        return botocore.session.Session().create_client(
            "s3",
            region_name=REGION,
            endpoint_url=endpoint,
            aws_access_key_id=self.access_key,
            aws_secret_access_key=self.secret_key,
            config=botocore.config.Config(
                retries={"total_max_attempts": retries, "mode": "standard"},
                s3={"addressing_style": "path"},
                max_pool_connections=20,
                proxies={},
            ),
        )

    def _command(self) -> list[str]:
        return [sys.executable, "-m", __name__, str(self.port)]

    def _answers(self) -> bool:
        connection = http.client.HTTPConnection(HOST, self.port, timeout=30)
        try:
            connection.request("GET", "/")
            return connection.getresponse().status == 200
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()


@dataclass(frozen=True)
class S3Bucket:
    """What is in a bucket, read and written without the product."""

    server: S3Server = field(repr=False)
    name: str

    @property
    def url(self) -> str:
        """`s3://name`."""
        return f"s3://{self.name}"

    def put(self, key: str, content: bytes | str) -> str:
        """Write an object; its etag."""
        body = content.encode() if isinstance(content, str) else content
        answer = self.server.client.put_object(Bucket=self.name, Key=key, Body=body)
        return str(answer["ETag"])

    def get(self, key: str) -> bytes:
        """The content of an object; KeyError if there is none."""
        client = self.server.client
        try:
            body: bytes = client.get_object(Bucket=self.name, Key=key)["Body"].read()
        except client.exceptions.NoSuchKey:
            raise KeyError(key) from None
        return body

    def keys(self, prefix: str = "") -> list[str]:
        """All keys below a prefix, sorted, however many."""
        pages = self.server.client.get_paginator("list_objects_v2")
        return sorted(
            found["Key"]
            for page in pages.paginate(Bucket=self.name, Prefix=prefix)
            for found in page.get("Contents", ())
        )

    def remove(self, *keys: str) -> None:
        """Delete objects, whether they are there or not."""
        for key in keys:
            self.server.client.delete_object(Bucket=self.name, Key=key)

    def uploads(self) -> list[str]:
        """Keys of multipart uploads that were begun and neither completed nor aborted."""
        answer = self.server.client.list_multipart_uploads(Bucket=self.name)
        return [upload["Key"] for upload in answer.get("Uploads", ())]

    def drop(self) -> None:
        """Remove the bucket and all in it, so that a long session does not fill the memory."""
        if not self.server.running:  # its memory is gone with it
            return
        keys = self.keys()
        for start in range(0, len(keys), 1_000):
            self.server.client.delete_objects(
                Bucket=self.name,
                Delete={"Objects": [{"Key": key} for key in keys[start : start + 1_000]]},
            )
        self.server.client.delete_bucket(Bucket=self.name)


class OneAtATime:
    """A WSGI application that serves one request at a time.

    moto looks and writes in two steps, so of two conditional puts at once both could win.
    """

    def __init__(self, app: Callable[..., Iterable[bytes]]) -> None:
        self._app = app
        self._turn = threading.Lock()

    def __call__(self, environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        # Read before taking the turn: a client stopped halfway must not stop all others. A body
        # cut short the application sees by itself, and refuses.
        whole = bool(environ.get("wsgi.input_terminated"))  # chunked: it knows its own end
        size = int(environ.get("CONTENT_LENGTH") or 0)
        body = environ["wsgi.input"].read(*(() if whole else (size,)))
        environ["wsgi.input"] = io.BytesIO(body)
        with self._turn:
            answer = self._app(environ, start)
            try:
                return list(answer)
            finally:
                close = getattr(answer, "close", None)
                if close:
                    close()


def _serve(port: int) -> None:
    from moto.moto_server.werkzeug_app import (
        DomainDispatcherApplication,
        MotoRequestHandler,
        create_backend_app,
    )
    from werkzeug.serving import make_server

    class Quiet(MotoRequestHandler):
        """A line a request would fill the disk in a campaign."""

        def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
            pass

    app = OneAtATime(DomainDispatcherApplication(create_backend_app))
    server = make_server(HOST, port, app, threaded=True, request_handler=Quiet)
    server.serve_forever()


if __name__ == "__main__":
    _serve(int(sys.argv[1]))
