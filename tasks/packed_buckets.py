"""One bucket of token shards: linked from the folder of another version, where that has the same, or else packed."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from tasks.atomic import link_file, write_json
from tasks.document import ShardReport
from tasks.pack import (
    MANIFEST,
    SPLITS,
    BucketReport,
    check_documents,
    packing_identity,
    rows_sha256,
    tokenize_bucket,
)
from tasks.tokenizer import HeldOutSplit

_REPORT_FILE = "bucket.json"


@dataclass(frozen=True, slots=True)
class PackedBucket:
    """A bucket's files in some folder."""

    folder: Path
    report: BucketReport

    def link_into(self, directory: Path) -> None:
        for name in bucket_files(self.report.bucket):
            link_file(self.folder / name, directory / name)


@dataclass(frozen=True, slots=True)
class BucketToPack:
    """A file of documents, its SHA-256, and the split with the exceptions in it alone."""

    documents_file: Path
    documents_sha256: str
    split: HeldOutSplit
    others: tuple[PackedBucket, ...] = ()
    """Of other versions: one of them may hold just what this would be packed to."""

    @property
    def name(self) -> str:
        return self.documents_file.stem

    @property
    def identity(self) -> dict[str, Any]:
        """What beside the packing itself (`packing_identity`) determines the output."""
        return {"bucket": self.name, "documents": self.documents_sha256, "split": self.split}


def pack_shard(bucket: BucketToPack, directory: Path, *, tokenizer_file: Path) -> ShardReport:
    """Pack or link one bucket, as a stage's shard; `read_shard` has what became of it.

    Raises ValueError where the documents are not what was published.
    """
    check_documents(bucket.documents_file, bucket.documents_sha256)
    rows = rows_sha256(bucket.documents_file) if bucket.others else ""
    same = next((other for other in bucket.others if other.report.rows_sha256 == rows), None)
    if same is not None:
        same.link_into(directory)
        report = replace(same.report, documents_sha256=bucket.documents_sha256)
    else:
        report = tokenize_bucket(bucket.documents_file, tokenizer_file, directory, split=bucket.split)
        report = replace(report, documents_sha256=bucket.documents_sha256)
    write_json(directory / _REPORT_FILE, {**asdict(report), "linked": same is not None})
    num_documents = sum(part.num_documents for part in report.splits.values())
    return ShardReport(num_documents, num_documents)


def read_shard(directory: Path) -> tuple[PackedBucket, bool]:
    """What `pack_shard` has made, and whether it was linked."""
    values = json.loads((directory / _REPORT_FILE).read_bytes())
    return PackedBucket(directory, BucketReport.of(values)), values["linked"]


def packed_buckets(tokens_dir: Path, tokenizer_sha256: str, fraction: float) -> list[PackedBucket]:
    """The buckets of a published folder that the present code would pack just so, with this tokenizer and split.

    Those whose files are there, with their sizes; none where the folder is unfinished or was packed otherwise. Raises
    ValueError where its manifest is damaged.
    """
    try:
        manifest = json.loads((tokens_dir / MANIFEST).read_bytes())
    except FileNotFoundError:
        return []
    except json.JSONDecodeError as error:
        raise ValueError(f"{tokens_dir / MANIFEST} is not valid JSON ({error}): remove that folder") from error
    if manifest.get("packing") != packing_identity(tokenizer_sha256) or manifest["held_out"]["fraction"] != fraction:
        return []
    itemsize = np.dtype(manifest["dtype"]).itemsize
    reports = [BucketReport.of({"bucket": bucket["name"], "splits": bucket} | bucket) for bucket in manifest["buckets"]]
    return [PackedBucket(tokens_dir, report) for report in reports if _is_intact(tokens_dir, report, itemsize)]


def bucket_files(bucket: str) -> list[str]:
    """Names of a bucket's files in a folder of token shards."""
    return [f"{bucket}.{split}.{suffix}" for split in SPLITS for suffix in ("bin", "parquet")]


def _is_intact(tokens_dir: Path, report: BucketReport, itemsize: int) -> bool:
    if not all((tokens_dir / name).is_file() for name in bucket_files(report.bucket)):
        return False
    return all(
        (tokens_dir / f"{report.bucket}.{split}.bin").stat().st_size == part.num_tokens * itemsize
        for split, part in report.splits.items()
    )
