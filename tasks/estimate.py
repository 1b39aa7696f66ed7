"""What a refresh would take, found out without doing any of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tasks.inputs import Profile
from tasks.manifest import read_manifest
from tasks.recipes.curation import CurationRecipe
from tasks.refresh import Refresh
from tasks.stages import stage_directory
from tasks.store import Store

BYTES_PER_RECORD = 31_000.0
"""Of compressed WARC: 500 real web pages, 15.4 MB."""
SECONDS_PER_RECORD: Mapping[str, float] = {
    "inventory": 0.0005,
    "read": 0.0016,
    "extract": 0.036,
    "language": 0.002,
    "quality": 0.016,
    "toxicity": 0.0017,
    "decontaminate": 0.001,
    "share_scores": 0.001,
    "share": 0.0003,
    "gather_runs": 0.0005,
    "gather": 0.0005,
    "index": 0.001,
    "edges": 0.00002,
    "components": 0.00001,
    "members": 0.0005,
    "resolve": 0.0008,
    "settle": 0.0015,
    "paragraph_runs": 0.0012,
    "repeated_paragraphs": 0.00004,
    "paragraphs": 0.0008,
    "publish": 0.0005,
}
"""One worker on one shared core, `fineweb`, the same 500 pages, of which 304 were kept: .06 s each in all. From gather
on much of it is for opening files, and falls with the number of records in a bucket."""


def estimate_refresh(
    store: Store,
    name: str,
    sources: Sequence[str],
    recipe: CurationRecipe,
    *,
    profile: Profile = "full",
    replace: bool = False,
    workers: int = 1,
) -> dict[str, Any]:
    """Files, records, reused stages and seconds of a refresh; writes nothing.

    Bytes a record and seconds a record are those of the last version's own stages, where it has them, else measured
    constants divided by `workers`: "based_on" says which. Raises ValueError for all that would end the refresh before
    its first stage.
    """
    refresh = Refresh.plan(store, name, sources, recipe, profile=profile, replace=replace, write=False)
    last = _LastVersion(refresh)
    unwritten_pages = refresh.collected.unwritten_pages
    new_bytes = sum(entry.size_bytes for entry in refresh.new_inputs)
    new_records = round(new_bytes / last.bytes_per_record) + unwritten_pages
    changed = not refresh.is_published or unwritten_pages > 0
    seconds = {stage: last.seconds(stage, new_records, workers) if changed else 0.0 for stage in refresh.stages}
    return {
        "corpus": f"{name}@{refresh.version if changed else refresh.version - 1}",
        "changed": changed,
        "mode": refresh.mode_reason if changed else "no change",
        "known_files": len(refresh.inputs) - len(refresh.new_inputs),
        "new_files": len(refresh.new_inputs),
        "waiting_files": refresh.waiting_files,
        "ignored_files": sum(refresh.ignored_files.values()),
        "known_bytes": sum(entry.size_bytes for entry in refresh.inputs) - new_bytes,
        "new_bytes": new_bytes,
        "pages_to_write": unwritten_pages,
        "estimated_new_records": new_records,
        "reused_stages": [stage for stage in refresh.stages if not changed or last.is_reusable(stage)],
        "stage_seconds": {stage: round(value, 1) for stage, value in seconds.items()},
        "estimated_seconds": round(sum(seconds.values()), 1),
        "based_on": last.name,
    }


def num_records_at(stage: str, new_records: int, known_records: int, num_buckets: int) -> float:
    """How many records a stage deals with, where `new_records` come to a version of `known_records`.

    Screening and what is done for each new document see those alone; what groups all keys sees all; what writes a
    bucket's tables sees the buckets that any new record falls into, which after a few thousand records are all.
    """
    if stage in ("edges", "components", "repeated_paragraphs"):
        return new_records + known_records
    if stage in ("settle", "paragraph_runs", "paragraphs", "publish"):
        return (new_records + known_records) * (1 - (1 - 1 / num_buckets) ** new_records)
    return new_records


class _LastVersion:
    """The figures of the last version's stages, as far as its work is still there."""

    def __init__(self, refresh: Refresh) -> None:
        self._refresh, self._screening = refresh, refresh.screening
        last = refresh.last
        work = refresh.store.work
        fingerprints: Mapping[str, str] = last["fingerprints"] if last else {}
        self._manifests = {
            stage: manifest
            for stage, fingerprint in fingerprints.items()
            if (manifest := read_manifest(stage_directory(work, stage, fingerprint))) is not None
        }
        self._num_records = last["records_in"] if last else 0
        counted = self._manifests.get("inventory")
        self._num_read = counted["report"]["records_in"] if counted else 0  # in its own run
        self.name = f"{last['name']}@{last['version']}" if last else "measured constants"
        num_bytes = sum(entry["size_bytes"] for entry in last["inputs"]) if last else 0
        # a web server may state no sizes
        self.bytes_per_record = num_bytes / self._num_records if num_bytes and self._num_records else BYTES_PER_RECORD
        self._kept_through = self._first_lost()

    def _first_lost(self) -> int:
        """How many of the screening stages, from the first on, have kept all that the last version was made of."""
        last, work = self._refresh.last, self._refresh.store.work
        runs: Sequence[Mapping[str, str]] = last.get("screening_runs", ()) if last else ()
        for index, stage in enumerate(self._screening):
            own = self._refresh.stages[stage].own_fingerprint
            manifests = [read_manifest(stage_directory(work, stage, run[stage])) for run in runs if stage in run]
            made_so = [
                manifest for manifest in manifests if manifest is not None and manifest["own_fingerprint"] == own
            ]
            if not runs or len(made_so) < len(runs):
                return index
        return len(self._screening)

    def is_reusable(self, stage: str) -> bool:
        """Whether nothing of this stage is done again for the known files."""
        if stage not in self._screening:
            return False
        return self._refresh.base is not None or self._screening.index(stage) < self._kept_through

    def seconds(self, stage: str, new_records: int, workers: int) -> float:
        """Of one stage: for the new records and, where their shards are not kept, for the known ones."""
        refresh, known = self._refresh, self._num_records
        num_buckets = refresh.recipe.num_buckets
        if stage in self._screening:
            num_records: float = new_records + (0 if self.is_reusable(stage) else known)
        elif refresh.base is not None:
            num_records = num_records_at(stage, new_records, known, num_buckets)
        else:
            num_records = new_records + known
        manifest = self._manifests.get(stage)
        if manifest is not None and self._num_read:
            if stage not in self._screening:
                before = num_records_at(stage, self._num_read, known - self._num_read, num_buckets)
                return float(manifest["seconds"] / before * num_records)
            if computed := manifest["computed"]["records"]:
                reaching = manifest["report"]["records_in"] / self._num_read  # the share that comes so far
                return float(manifest["seconds"] / computed * reaching * num_records)
        return SECONDS_PER_RECORD[stage] / workers * num_records
