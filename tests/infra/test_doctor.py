"""What `tokenmill doctor` says of the remote store, against a real S3 endpoint."""

from __future__ import annotations

from pathlib import Path

from infra.doctor import Finding, examine
from tasks.store import Store
from tests.tasks.s3_server import objects, s3_server


def remote_finding(store: Store) -> Finding:
    (finding,) = (finding for finding in examine(store) if finding.what == "remote store")
    return finding


def test_the_remote_store_is_looked_at_and_nothing_is_written(tmp_path: Path) -> None:
    with s3_server() as bucket:
        reached = remote_finding(Store.open(tmp_path, f"{bucket}/prefix"))
        assert reached.ok and reached.detail == f"{bucket}/prefix can be listed"
        assert objects(bucket) == {}
        absent = remote_finding(Store.open(tmp_path, "s3://no-such-bucket/prefix"))
    assert not absent.ok and "s3://no-such-bucket/prefix cannot be reached (NoSuchBucket" in absent.detail


def test_a_store_without_a_remote_is_in_order(tmp_path: Path) -> None:
    finding = remote_finding(Store.open(tmp_path))
    assert finding.ok and "TOKENMILL_REMOTE" in finding.detail
