"""The report of a takedown: complete as values, short and safe for people."""

from __future__ import annotations

from typing import Any

from markdown_it import MarkdownIt

from tasks.takedown import FoundRecord, RecordState, TakedownQuery, TakedownSearch
from tasks.takedown_report import found_report, takedown_lines, takedown_markdown

HOSTILE = "https://bad.example/<script>alert(1)</script>|`x`\u202e"
ASKED, COPY = "a" * 32 + "-0", "b" * 32 + "-0"
LINEAGE: dict[str, Any] = {
    "held_by": ["web@1"],
    "tokens": [
        {
            "name": "0123-4567",
            "corpora": ["web@1"],
            "splits": {"train": {"num_documents": 2, "num_tokens": 1234, "buckets": ["bucket-000"]}},
        }
    ],
    "tokenizers": [],
    "runs": [{"name": "refresh web", "relation": "published", "corpus": "web@1"}],
    "models": [
        {"reference": "web-smoke@1", "relation": "trained on", "corpus": "web@1"},
        {"reference": "web-smoke@2", "relation": "evaluated on", "corpus": "web@2"},
    ],
}
NOTHING_DONE = {"applied": False, "audit": "", "versions": [], "models_tagged": [], "purged": None, "reason": ""}


def report(num_asked: int = 1, scope: str = "cluster", **changes: Any) -> dict[str, Any]:
    kept, near = (
        RecordState("kept", "publish", "", "", ""),
        RecordState("removed", "near_dedup", "near_duplicate", "", ASKED),
    )
    records = {
        f"{number:032x}-0": FoundRecord(f"{number:032x}-0", HOSTILE, HOSTILE, True, {"web@1": kept, "web@2": kept})
        for number in range(num_asked)
    }
    records[COPY] = FoundRecord(COPY, "https://m.example/", "m.jsonl", False, {"web@2": near})
    search = TakedownSearch(TakedownQuery(urls=(HOSTILE,)), records, ())
    return {**found_report(search, LINEAGE, scope), **NOTHING_DONE, **changes}  # type: ignore[arg-type]


def test_the_values_say_what_goes_and_where_it_still_is() -> None:
    wide, narrow = report(), report(scope="document")
    assert [document["goes"] for document in wide["documents"]] == [True, True] and wide["num_targets"] == 2
    assert [document["goes"] for document in narrow["documents"]] == [True, False] and narrow["num_targets"] == 1
    assert wide["documents"][1]["versions"] == {"web@2": f"near_duplicate of {ASKED}"}
    assert wide["sources"] == {HOSTILE: 1, "m.jsonl": 1} and narrow["sources"] == {HOSTILE: 1}


def test_people_are_told_what_was_done_and_what_is_left_to_them() -> None:
    purged = {"versions": {"web@1": {}}, "tokens": ["0123-4567"], "stage_outputs": [], "reports": []}
    done = {"applied": True, "audit": "20260101T000000Z-a", "versions": [{"corpus": "web@3"}], "purged": purged}
    markdown = takedown_markdown(report(**done, models_tagged=["web-smoke@1"]))
    assert "- published web@3" in markdown and "- purged from web@1" in markdown
    assert "- removed 1 token shards" in markdown and "stage outputs" not in markdown
    assert "model web-smoke@1 was trained on them: a person decides" in markdown
    assert "model web-smoke@2 was" not in markdown  # it was measured on them, no more
    assert "still holds 1: no version takes them in again" in markdown and "may quote them" in markdown
    lines = takedown_lines(report(**done))
    assert "published web@3" in lines and lines[-1] == "record: 20260101T000000Z-a"
    assert takedown_lines(report())[-1].startswith("nothing was changed: --apply takes them down")
    unknown = report(num_asked=0, num_copies=0, num_targets=0, documents=[])
    assert takedown_lines(unknown)[-1] == "no corpus of this store knows any of it: nothing was changed"
    assert any("copy, stays (--only)" in line for line in takedown_lines(report(scope="document")))


def test_what_came_from_pages_is_escaped_and_lists_are_capped() -> None:
    long = report(num_asked=50, reason="**bold** <b>")
    markdown, lines = takedown_markdown(long), takedown_lines(long)
    rendered = MarkdownIt("commonmark").enable("table").render(markdown)
    assert "<script" not in rendered and "<strong>bold" not in rendered and "\u202e" not in markdown
    assert "and 31 more" in markdown and any("and 31 more" in line for line in lines)
    assert not any("\u202e" in line or "\n" in line for line in lines)
    assert len(long["documents"]) == 51
