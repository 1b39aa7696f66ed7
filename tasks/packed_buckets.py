"""One bucket of token shards: packed as a stage's shard, or found in the folder of an earlier version."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tasks.atomic import write_json
from tasks.document import ShardReport
from tasks.pack import MANIFEST, SPLITS, BucketReport, packing_identity, tokenize_bucket
from tasks.tokenizer import HeldOutSplit

BUCKET_FILE = "bucket.json"


@dataclass(frozen=True, slots=True)
class BucketToPack:
    """A file of documents, its SHA-256, and the split with the exceptions in it alone."""

    documents_file: Path
    documents_sha256: str
    split: HeldOutSplit

    @property
    def name(self) -> str:
        return self.documents_file.stem

    @property
    def identity(self) -> dict[str, Any]:
        """What beside the packing itself (`packing_identity`) determines the output."""
        return {"bucket": self.name, "documents": self.documents_sha256, "split": self.split}


def pack_shard(bucket: BucketToPack, directory: Path, *, tokenizer_file: Path) -> ShardReport:
    """`tokenize_bucket` as a stage's shard; its report lies in BUCKET_FILE."""
    report = tokenize_bucket(
        bucket.documents_file,
        tokenizer_file,
        directory,
        split=bucket.split,
        documents_sha256=bucket.documents_sha256,
    )
    write_json(directory / BUCKET_FILE, asdict(report))
    num_documents = sum(part.num_documents for part in report.splits.values())
    return ShardReport(num_documents, num_documents)


def packed_buckets(tokens_dir: Path, tokenizer_sha256: str, fraction: float) -> list[BucketReport]:
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
    return [report for report in reports if report.documents_sha256 and _is_intact(tokens_dir, report, itemsize)]


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
