"""An S3 endpoint on this machine (moto), for this process and those it starts."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Iterator
from contextlib import contextmanager

import fsspec
import pytest
from moto.server import ThreadedMotoServer


@contextmanager
def s3_server() -> Iterator[str]:
    """The address s3://... of an empty bucket of its own. The environment names the endpoint while the block runs."""
    bucket = f"bucket-{uuid.uuid4().hex}"  # what moto holds outlives its server in this process
    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # one line a request
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    s3 = fsspec.get_filesystem_class("s3")
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        environment.setenv("AWS_ACCESS_KEY_ID", "testing")
        environment.setenv("AWS_SECRET_ACCESS_KEY", "testing")
        environment.setenv("AWS_DEFAULT_REGION", "us-east-1")
        environment.delenv("FSSPEC_S3_ENDPOINT_URL", raising=False)
        s3.clear_instance_cache()  # instances remember the endpoint they were made for
        try:
            fsspec.filesystem("s3").mkdir(bucket)
            yield f"s3://{bucket}"
        finally:
            s3.clear_instance_cache()
            server.stop()


def objects(address: str) -> dict[str, bytes]:
    """Everything below an address, by name relative to it."""
    filesystem, root = fsspec.core.url_to_fs(address, use_listings_cache=False, skip_instance_cache=True)
    return {name.removeprefix(f"{root}/"): filesystem.cat_file(name) for name in filesystem.find(root)}
