"""A domain is followed to the model that was trained on it, taken down, purged, and does not come back."""

from __future__ import annotations

import gzip
import json
import random
import signal
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from mlflow.tracking import MlflowClient

from infra.lineage import CONTAINS_TAG
from tasks.manifest import read_manifest
from tests.data.prose import page, prose, warc_record
from tests.integration.running import refused, started, succeeded, tokenmill
from tests.tasks.page_store import near_copy

pytestmark = [pytest.mark.verify, pytest.mark.timeout(900)]

GOOD = {f"https://site{seed % 3}.example/{seed}": prose(seed) for seed in range(40)}
BAD = {
    f"https://{host}bad.example/{seed}": prose(seed)
    for seed, host in zip(range(100, 108), ["", "www."] * 4, strict=True)
}
COPY = {"https://reader.example/100": near_copy(100)}


def write_crawl(folder: Path, name: str, pages: Iterable[tuple[str, str]], date: str) -> None:
    folder.mkdir(exist_ok=True)
    members = [gzip.compress(warc_record(url, page(text), date), mtime=0) for url, text in pages]
    (folder / f"{name}.warc.gz").write_bytes(b"".join(members))


class Place:
    """A store and the folder that is crawled into."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.store, self.crawl = folder, folder / "store", folder / "crawl"
        self.crawl.mkdir()
        write_crawl(self.crawl, "day1", [*BAD.items(), *GOOD.items()], "2026-01-01T00:00:00Z")
        write_crawl(self.crawl, "day2", COPY.items(), "2026-01-02T00:00:00Z")

    def run(self, *arguments: str) -> dict[str, Any]:
        return succeeded(tokenmill(*arguments, "--json", store=self.store, cwd=self.folder))

    def refresh(self) -> dict[str, Any]:
        return self.run("refresh", "--source", str(self.crawl), "--name", "web")

    def rows(self, version: int, kind: str) -> list[dict[str, Any]]:
        files = sorted((self.store / "corpora" / "web" / str(version) / kind).glob("*.parquet"))
        return [row for file in files for row in pq.read_table(file).to_pylist()]

    def urls(self, version: int) -> set[str]:
        return {row["url"] for row in self.rows(version, "documents")}

    def texts(self) -> set[str]:
        """Every text, piece of text and raw page in any Parquet file below the store's corpora and work."""
        found: set[str] = set()
        for file in [*(self.store / "corpora").rglob("*.parquet"), *(self.store / "work").rglob("*.parquet")]:
            for name in {"text", "content", "removed"} & set(pq.read_schema(file).names):
                values = pq.read_table(file, columns=[name])[name].to_pylist()
                found |= {value.decode() if isinstance(value, bytes) else value for value in values if value}
        return found

    def holds_any_of(self, texts: Iterable[str]) -> bool:
        lines = [text.splitlines()[0] for text in texts]
        return any(line in text for text in self.texts() for line in lines)


def test_a_domain_is_followed_to_a_model_taken_down_purged_and_stays_away(tmp_path: Path) -> None:
    place = Place(tmp_path)
    assert place.refresh()["corpus"] == "web@1"
    assert set(BAD) <= place.urls(1) and not set(COPY) & place.urls(1)
    model = place.run("pretrain", "--corpus", "web", "--set", "total_tokens=8192")

    report = place.run("takedown", "--domain", "BAD.example")
    assert {document["url"] for document in report["documents"]} == {*BAD, *COPY} and not report["applied"]
    [folder] = report["tokens"]
    assert folder["corpora"] == ["web@1"] and folder["splits"]["train"]["num_documents"] >= 1
    uses = {use["reference"]: (use["relation"], use["run_id"]) for use in report["models"]}
    assert uses == {"web-smoke@1": ("trained on", model["mlflow_run_id"])}
    assert (Path(report["models"][0]["checkpoint"]) / "model.safetensors").is_file()
    assert {run["flow"]: run["relation"] for run in report["runs"]} == {
        "refresh_corpus": "published",
        "pretrain": "trained on",
    }
    assert [use["corpus_digest"] for use in report["tokenizers"]] == [folder["corpus_digest"]]

    done = place.run("takedown", "--domain", "bad.example", "--apply", "--purge", "--reason", "its owner asks")
    assert [version["corpus"] for version in done["versions"]] == ["web@2"]
    assert place.urls(2) == set(GOOD) == place.urls(1)
    assert not place.holds_any_of([*BAD.values(), *COPY.values()]) and place.holds_any_of(GOOD.values())
    assert not list((place.store / "tokens").iterdir())
    audit = json.loads((place.store / "audit" / f"{done['audit']}.json").read_bytes())
    assert audit == done and audit["reason"] == "its owner asks" and audit["models_tagged"] == ["web-smoke@1"]
    registry = MlflowClient(tracking_uri=f"sqlite:///{place.store / 'mlflow' / 'mlflow.db'}")
    assert registry.get_model_version("web-smoke", "1").tags[CONTAINS_TAG] == done["audit"]

    # crawled again, mirrored word for word and nearly, and a page of the domain that is new
    later = "2026-06-01T00:00:00Z"
    mirrors = {url.replace("bad.example", "mirror.example"): text for url, text in BAD.items()}
    mirrors["https://mirror.example/near"] = near_copy(101)
    new = {"https://shop.bad.example/new": prose(900)}
    fresh = {f"https://site1.example/{seed}": prose(seed) for seed in range(40, 44)}
    write_crawl(place.crawl, "day3", [*BAD.items(), *mirrors.items(), *new.items(), *fresh.items()], later)
    third = place.refresh()
    assert third["corpus"] == "web@3" and place.urls(3) == {*GOOD, *fresh}
    reasons = {row["url"]: row["reason"] for row in place.rows(3, "ledger") if row["stage"] == "takedown"}
    assert {reasons[url] for url in (*BAD, *new)} == {"taken_down"}
    assert {reasons[url] for url in mirrors} == {"taken_down_copy"}
    assert not {row["url"] for row in place.rows(3, "originals")} & {*BAD, *new, *mirrors}

    again = place.run("takedown", "--domain", "bad.example")  # the model still leads back to it
    assert [use["reference"] for use in again["models"]] == ["web-smoke@1"]
    assert "no domain" in refused(tokenmill("takedown", "--domain", "a/b", store=place.store, cwd=place.folder))


def test_a_takedown_killed_at_random_moments_is_ended_by_the_next(tmp_path: Path) -> None:
    place = Place(tmp_path)
    place.refresh()
    chance = random.Random(5)
    for _ in range(3):
        words = ("takedown", "--domain", "bad.example", "--apply", "--purge")
        with started(*words, store=place.store, cwd=place.folder) as process:
            audits = place.store / "audit"
            while process.poll() is None and not (audits.is_dir() and any(audits.iterdir())):
                time.sleep(0.05)
            time.sleep(chance.uniform(0.0, 12.0))
            if process.poll() is None:
                process.send_signal(signal.SIGKILL)
        for number in (1, 2):  # whatever is there is whole
            folder = place.store / "corpora" / "web" / str(number)
            manifest = read_manifest(folder)
            for part in manifest["parts"] if manifest else ():
                assert (folder / part["path"]).stat().st_size == part["bytes"]
    place.run("takedown", "--domain", "bad.example", "--apply", "--purge")
    assert place.urls(1) == place.urls(2) == set(GOOD)
    assert not place.holds_any_of([*BAD.values(), *COPY.values()])
    assert not list((place.store / "audit").glob("*.intent.json"))
    assert place.refresh()["corpus"] == "web@2"  # nothing is new: no version more
