"""Thousands of damaged files through every stage of screening: no crash, no hang, and each time the ledger adds up."""

from __future__ import annotations

import hashlib
import random
import signal
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

import pyarrow.parquet as pq
import pytest

from tasks.document import ShardReport
from tasks.extract_records import RecordShard, extract_shard
from tasks.manifest import code_version
from tasks.occurrences import OCCURRENCES_FILE, number_occurrences, occurrences_by_shard
from tasks.quarantine import QUARANTINE_FILE
from tasks.read.inventory import group_ranges
from tasks.read.limits import ReadLimits
from tasks.read.shard import ReadShard, inventory_shard, ranges_of, read_shard
from tasks.read.source import resolve_source
from tasks.recipes.curation import CURATION_RECIPES, CurationRecipe
from tasks.recipes.rules import rule, rule_modules
from tasks.rough_language import rough_language
from tasks.rule import Rule
from tasks.screen import DOCUMENTS_FILE, EDITS_FILE, LEDGER_FILE, language_shard, rules_shard
from tests.faults.seeded_cases import Case, Material, case_of
from tests.tasks.read.warc_bytes import DATA

CASES, CASES_OF_A_PART = 5_000, 500
CASE_LIMIT_S = 120
"""Of one small file on a busy machine; a page alone is stopped after 60 s, and that is a failure here too."""
FAILURES = Path(__file__).resolve().parents[2] / ".verify" / "fuzz"
SMALL = ReadLimits(max_record_bytes=20_000, max_page_bytes=10_000)


class HangError(BaseException):
    """A case ran past its limit; no `except Exception` on the way takes it for something of its own."""


@contextmanager
def at_most(seconds: int) -> Iterator[None]:
    def ring(number: int, frame: FrameType | None) -> None:
        raise HangError(f"not done after {seconds} s")

    before = signal.signal(signal.SIGALRM, ring)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def recipe_of(seed: int) -> CurationRecipe:
    """A recipe of ours and some of the other rules, in an order of the seed's own: each gets to see whole documents."""
    chance = random.Random(f"recipe {seed}")
    recipe = CURATION_RECIPES[chance.choice(sorted(CURATION_RECIPES))]()
    own = {getattr(each, "kind", "") for each in (*recipe.document_rules, *recipe.toxicity_rules)}
    others = [kind for kind in rule_modules() if kind not in own and kind != "datatrove"]  # which needs to know a class
    rules: list[Rule] = [*recipe.document_rules, *map(rule, chance.sample(others, chance.randint(0, len(others))))]
    chance.shuffle(rules)
    reading = SMALL if chance.random() < 0.1 else recipe.reading
    return recipe.model_copy(update={"quality_rules": tuple(rules), "reading": reading})


@dataclass
class Run:
    """What became of all records so far."""

    num_cases: int = 0
    num_records: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    slowest: tuple[float, int] = (0.0, -1)

    def summary(self) -> str:
        """One line."""
        seconds, seed = self.slowest
        outcomes = ", ".join(f"{name} {count}" for name, count in self.outcomes.most_common())
        return f"{self.num_cases} cases, {self.num_records} records; slowest {seconds:.1f} s (seed {seed}); {outcomes}"


def screened(path: Path, folder: Path, recipe: CurationRecipe) -> tuple[int, list[Path]]:
    """Every stage of screening as the plain function it is: the records counted, and the shards with their outcomes."""
    steps = iter(range(10_000))

    def new(stage: str) -> Path:
        directory = folder / f"{stage}-{next(steps)}"
        directory.mkdir()
        return directory

    limits = recipe.reading
    (file,) = resolve_source(str(path))
    counted = new("inventory")
    report = inventory_shard(file, counted, limits=limits, max_records=2, max_bytes=recipe.shard_bytes)
    shards, outputs = [], []
    for ranges in group_ranges(ranges_of(counted), 2):
        shards.append(new("read"))
        read_shard(ReadShard("fuzz", ranges), shards[-1], limits=limits, url_filter=recipe.url_filter)
    number_occurrences(tuple(shards), folder / OCCURRENCES_FILE, ())
    occurrences = occurrences_by_shard(folder / OCCURRENCES_FILE)
    for index, shard in enumerate(shards):
        extracted, language, quality, toxicity = (new(name) for name in ("extract", "language", "quality", "toxicity"))
        record_shard = RecordShard(shard, occurrences.get(index, ()))
        reports = [
            extract_shard(record_shard, extracted, extraction=recipe.extraction, rough=rough_language(recipe.language)),
            language_shard(extracted, language, language=recipe.language),
            rules_shard(language, quality, stage="quality", rules=recipe.quality_rules),
            rules_shard(quality, toxicity, stage="toxicity", rules=recipe.toxicity_rules),
        ]
        assert_chained(reports)
        outputs += [extracted, language, quality, toxicity]
    return report.records_in, outputs


def assert_chained(reports: list[ShardReport]) -> None:
    for report in reports:
        assert report.records_in == report.kept + sum(report.removed.values())
    assert [report.kept for report in reports[:-1]] == [report.records_in for report in reports[1:]]


def assert_adds_up(num_records: int, outputs: list[Path]) -> Counter[str]:
    """Each record has one ledger row or is a document in the end, all of it UTF-8; how many have which outcome."""
    ids: list[str] = []
    outcomes: Counter[str] = Counter()
    for position, output in enumerate(outputs):
        ledger = pq.read_table(output / LEDGER_FILE).to_pylist()
        for row in ledger:
            ids.append(row["record_id"])
            outcomes[f"{row['stage']}/{row['reason']}"] += 1
            assert row["reason"] and row["outcome"] in ("removed", "quarantined")
        if (output / QUARANTINE_FILE).exists():
            details = {row["record_id"]: row["detail"] for row in ledger if row["outcome"] == "quarantined"}
            for row in pq.read_table(output / QUARANTINE_FILE).to_pylist():
                assert hashlib.sha256(row["content"]).hexdigest() == row["sha256"] in details[row["document_id"]]
        documents = pq.read_table(output / DOCUMENTS_FILE).to_pylist()
        pq.read_table(output / EDITS_FILE).to_pylist()  # decodes every text of it
        if position % 4 == 3:
            ids += [row["document_id"] for row in documents]
            outcomes["kept"] += len(documents)
        assert all(row["text"].strip() and row["text"].encode() for row in documents)
    assert len(ids) == len(set(ids)) == num_records
    return outcomes


def run_case(case: Case, folder: Path, run: Run) -> None:
    """The case through screening; where anything is wrong its bytes are kept, and its seed is named."""
    started = time.monotonic()
    path = folder / case.name
    path.write_bytes(case.content)
    try:
        with at_most(CASE_LIMIT_S):
            num_records, outputs = screened(path, folder, recipe_of(case.seed))
            outcomes = assert_adds_up(num_records, outputs)
        assert not [name for name in outcomes if name.endswith(("_timeout", "_crash"))], outcomes
    except BaseException as error:
        FAILURES.mkdir(parents=True, exist_ok=True)
        kept = FAILURES / f"{case.seed}-{case.name}"
        kept.write_bytes(case.content)
        raise AssertionError(f"seed {case.seed} ({kept}): {type(error).__name__}: {error}") from error
    run.num_cases += 1
    run.num_records += num_records
    run.outcomes += outcomes
    run.slowest = max(run.slowest, (time.monotonic() - started, case.seed))


def run_cases(seeds: range, material: Material, tmp_path: Path) -> Run:
    run = Run()
    for seed in seeds:
        folder = tmp_path / str(seed)
        folder.mkdir()
        run_case(case_of(seed, material), folder, run)
        for path in sorted(folder.rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() else path.unlink()
    assert run.num_cases == len(seeds) and run.num_records > len(seeds) // 2
    return run


def test_a_hundred_made_files(tmp_path: Path) -> None:
    """Needs no shared data."""
    run = run_cases(range(10_000, 10_100), Material(), tmp_path)
    print(run.summary())
    assert run.outcomes["kept"] > 5 and len(run.outcomes) > 8, "the damage leaves something, and of everything"


@pytest.fixture(scope="module")
def material() -> Material:
    if not DATA.is_dir():
        pytest.skip("the shared test data is absent")
    return Material.shared(DATA)


@pytest.mark.verify
@pytest.mark.parametrize("part", range(CASES // CASES_OF_A_PART))
def test_thousands_of_files(
    part: int, material: Material, tmp_path: Path, request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]
) -> None:
    """A part that passed on this very code is not run again, so that the whole may be stopped and taken up."""
    cache = request.config.cache
    assert cache is not None
    key = f"fuzzed_screening/{part}"
    passed = f"{code_version('tasks')} {CASES_OF_A_PART}"
    known = cache.get(key, None)
    if known is None or known[0] != passed:
        first = part * CASES_OF_A_PART
        known = [passed, run_cases(range(first, first + CASES_OF_A_PART), material, tmp_path).summary()]
        cache.set(key, known)
    with capsys.disabled():
        print(f"\npart {part}: {known[1]}")
