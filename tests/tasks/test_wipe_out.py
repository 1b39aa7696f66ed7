"""What the guard takes for a wipe-out: on the limit and one document over, for each kind of group and each stage."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from tasks.document import QUARANTINE_REASONS
from tasks.funnel import STAGES
from tasks.rule import Configuration
from tasks.wipe_out import (
    JUDGED_BY,
    KEPT,
    Exits,
    Groups,
    Kind,
    Tally,
    WipeOut,
    WipeOutError,
    WipeOutGuard,
    entered,
    find_wipe_outs,
    recorded,
    unjudged,
    unjudged_before,
)

GUARD = WipeOutGuard(max_removed_fraction=0.9, min_documents=10, min_domain_fraction=0.2)
A_REASON = {"read": "damaged"}
STAGE_ORDER = ("url_filter", "read", "extract", "language", "quality", "toxicity", "decontaminate", KEPT)
exit_reasons = st.sampled_from(
    [
        ("read", "not_html"),
        ("read", "unreadable"),
        ("url_filter", "url_domain"),
        ("extract", "no_content"),
        ("language", "language_rough"),
        ("language", "language_other"),
        ("language", "language_score"),
        ("quality", "short"),
        ("quality", "bullets"),
        ("toxicity", "rude"),
        ("decontaminate", "contaminated"),
        (KEPT, ""),
    ]
)


def found(groups: Groups, guard: WipeOutGuard = GUARD, languages: tuple[str, ...] = ("en",)) -> list[tuple[str, str]]:
    return [(each.stage, f"{each.kind} {each.group}") for each in find_wipe_outs(groups, guard, languages)]


def source(exits: Exits, name: str = "web") -> Groups:
    return {("source", name): exits}


def test_the_stages_are_those_of_the_ledger_and_no_duplicate_is_a_loss() -> None:
    assert set(JUDGED_BY) < set(STAGES)
    assert not any(stage.endswith("_dedup") or stage == "takedown" for stage in JUDGED_BY)


def test_a_record_has_entered_every_stage_up_to_the_one_that_it_left_at() -> None:
    exits = {("read", "not_html"): 1, ("extract", "no_content"): 2, ("quality", "short"): 4, (KEPT, ""): 8}
    assert [entered(exits, stage) for stage in STAGE_ORDER] == [15, 14, 14, 12, 12, 8, 8, 8]


def test_pages_in_other_languages_are_no_part_of_what_a_stage_could_have_kept() -> None:
    exits = {("language", "language_rough"): 1, ("language", "language_other"): 2, ("language", "language_score"): 4}
    assert [entered(exits, stage) for stage in ("url_filter", "extract", "language", "quality")] == [7, 6, 4, 0]


@pytest.mark.parametrize("stage", list(JUDGED_BY))
def test_on_the_limit_passes_and_one_more_does_not(stage: str) -> None:
    reason = A_REASON.get(stage, "reason")
    assert found(source({(stage, reason): 90, (KEPT, ""): 10})) == []
    assert found(source({(stage, reason): 91, (KEPT, ""): 9})) == [(stage, "source web")]


def test_the_limit_holds_for_all_reasons_of_a_stage_together_and_for_each_stage_alone() -> None:
    assert found(source({("quality", "short"): 46, ("quality", "bullets"): 45, (KEPT, ""): 9})) == [
        ("quality", "source web")
    ]
    assert found(source({("extract", "no_content"): 850, ("quality", "short"): 135, (KEPT, ""): 15})) == []


def test_a_group_is_judged_from_so_many_documents_that_enter_the_stage() -> None:
    assert found(source({("quality", "short"): 9})) == []
    assert found(source({("quality", "short"): 10})) == [("quality", "source web")]
    assert found(source({("read", "not_html"): 500, ("extract", "no_content"): 500, ("quality", "short"): 9})) == [
        ("extract", "source web")
    ]


def test_of_what_leaves_at_reading_only_what_could_not_be_read_is_judged() -> None:
    assert found(source({("read", "not_html"): 1000, ("read", "http_status"): 1000})) == []
    for reason in QUARANTINE_REASONS:
        assert found(source({("read", "not_html"): 1000, ("read", reason): 91, (KEPT, ""): 9})) == [
            ("read", "source web")
        ]
        assert found(source({("read", "not_html"): 1000, ("read", reason): 90, (KEPT, ""): 10})) == []
    (only,) = find_wipe_outs(source({("read", "unreadable"): 400, ("read", "not_html"): 9}), GUARD, ("en",))
    assert (only.documents_in, only.removed, only.reasons) == (400, 400, {"unreadable": 400})
    assert "mend the files, or change the limit" in str(WipeOutError([only]))


@pytest.mark.parametrize(
    ("kind", "stages"),
    [
        ("source", ["url_filter", "read", "extract", "language", "quality", "toxicity", "decontaminate"]),
        ("domain", ["read", "extract", "language", "quality", "toxicity", "decontaminate"]),
        ("language", ["language", "quality", "toxicity", "decontaminate"]),
    ],
)
def test_each_kind_is_judged_where_it_is_known_and_meant(kind: Kind, stages: list[str]) -> None:
    for stage in JUDGED_BY:
        gone = {(stage, A_REASON.get(stage, "reason")): 50}
        groups: Groups = {
            ("source", "web"): {**gone, (KEPT, ""): 50},
            (kind, "web" if kind == "source" else "en"): gone,
        }
        named = "source web" if kind == "source" else f"{kind} en"
        assert found(groups) == ([(stage, named)] if stage in stages else [])


def test_a_domain_is_judged_where_it_is_a_notable_part_of_what_enters_the_stage() -> None:
    domain: Groups = {("domain", "a.example"): {("quality", "short"): 20}}
    on_it = {**source({("quality", "short"): 20, (KEPT, ""): 80}), **domain}
    below = {**source({("quality", "short"): 20, (KEPT, ""): 81}), **domain}
    assert found(on_it) == [("quality", "domain a.example")] and found(below) == []
    left_before = {**source({("extract", "no_content"): 500, ("quality", "short"): 20, (KEPT, ""): 80}), **domain}
    assert found(left_before) == [("quality", "domain a.example")]


def test_a_german_domain_leaves_an_english_corpus_unnoticed_and_a_german_source_does_not() -> None:
    german = {("language", "language_other"): 300, ("language", "language_rough"): 100}
    groups: Groups = {("domain", "a.example"): german, **source({**german, (KEPT, ""): 200})}
    assert found(groups) == []
    assert found(source(german)) == [("language", "source web")]


def test_other_languages_have_a_limit_of_their_own() -> None:
    guard = GUARD.model_copy(update={"max_other_language_fraction": 0.99})
    assert found(source({("language", "language_other"): 99, (KEPT, ""): 1}), guard) == []
    assert found(
        source({("language", "language_rough"): 100, ("language", "language_other"): 99, (KEPT, ""): 1}), guard
    )
    (only,) = find_wipe_outs(source({("language", "language_rough"): 1000, (KEPT, ""): 1}), guard, ("en",))
    assert (only.documents_in, only.removed, only.limit) == (1001, 1000, "max_other_language_fraction")
    all_of_it = GUARD.model_copy(update={"max_other_language_fraction": 1.0})
    assert found(source({("language", "language_other"): 100}), all_of_it) == []


def test_an_unsure_identifier_wipes_out_a_language_that_is_kept_and_no_other() -> None:
    unsure: Exits = {("language", "language_score"): 91, (KEPT, ""): 9}
    groups: Groups = {("language", "sw"): unsure, **source({("language", "language_score"): 91, (KEPT, ""): 500})}
    assert found(groups, languages=("en", "sw")) == [("language", "language sw")]
    assert found(groups, languages=("en",)) == []


def test_the_largest_loss_comes_first_and_a_source_before_its_only_domain() -> None:
    groups: Groups = {
        ("language", "en"): {("quality", "short"): 400},
        ("domain", "a.example"): {("quality", "short"): 400},
        ("source", "web"): {("quality", "short"): 400},
        ("source", "books"): {("toxicity", "rude"): 500},
    }
    assert [name for _, name in found(groups)] == ["source books", "source web", "domain a.example", "language en"]


def test_limits_of_one_let_everything_pass() -> None:
    guard = WipeOutGuard(max_removed_fraction=1, max_other_language_fraction=1)
    assert found(source({("quality", "short"): 1000}), guard) == []
    assert found(source({("language", "language_other"): 1000}), guard) == []


@pytest.mark.parametrize(
    ("name", "value"),
    [("max_removed_fraction", 1.01), ("max_removed_fraction", -0.1), ("min_documents", 0), ("min_domain_fraction", 0)],
)
def test_limits_out_of_their_bounds_are_refused(name: str, value: float) -> None:
    with pytest.raises(ValidationError, match=name):
        WipeOutGuard.model_validate({name: value})


def test_the_defaults_lie_between_what_was_right_and_what_was_a_fault() -> None:
    assert isinstance(WipeOutGuard(), Configuration)
    assert found(source({("quality", "short"): 940, (KEPT, ""): 60}), WipeOutGuard()) == []
    assert found(source({("quality", "short"): 970, (KEPT, ""): 30}), WipeOutGuard()) == [("quality", "source web")]
    assert found(source({("quality", "short"): 199}), WipeOutGuard()) == []


def test_the_error_says_what_where_by_what_and_what_to_do_in_one_line() -> None:
    exits: Exits = {
        ("quality", "short"): 2000,
        ("quality", "bullets"): 3,
        ("quality", "dots"): 2,
        ("quality", "lines"): 2,
        (KEPT, ""): 1,
    }
    wipe_outs = find_wipe_outs({("source", "web"): exits, ("language", "en"): exits}, GUARD, ("en",))
    assert str(WipeOutError(wipe_outs)) == (
        "quality removed 2,007 of 2,008 documents (100.0%, at most 0.9 is allowed) of source web: 2,000 short,"
        " 3 bullets, 2 dots and 1 more reason (and 1 such group more); nothing was published: change the rule, or"
        " change the limit (--set guard.max_removed_fraction=...), or publish all the same with --allow-wipe-out"
    )
    assert WipeOutError(wipe_outs).wipe_outs == wipe_outs


def test_a_version_records_its_own_and_those_of_what_it_was_built_onto() -> None:
    wipe_out = WipeOut("quality", "source", "web", 10, 10, {"short": 10}, "max_removed_fraction", 0.9)
    first = recorded([wipe_out], 1, None)
    assert first == [
        {
            "version": 1,
            "stage": "quality",
            "kind": "source",
            "group": "web",
            "documents_in": 10,
            "removed": 10,
            "reasons": {"short": 10},
            "limit": "max_removed_fraction",
            "max_fraction": 0.9,
            "documents_before": 0,
        }
    ]
    assert [each["version"] for each in recorded([wipe_out], 3, {"wipe_outs": first})] == [1, 3]
    assert recorded([], 2, {"wipe_outs": first}) == first
    assert recorded([], 2, {}) == []  # the base is an earlier program's


@given(st.dictionaries(exit_reasons, st.integers(1, 500), min_size=1), st.floats(0, 1), st.integers(1, 300))
def test_a_source_is_found_exactly_where_counting_by_hand_finds_it(
    exits: Exits, max_fraction: float, min_documents: int
) -> None:
    guard = WipeOutGuard(
        max_removed_fraction=max_fraction, max_other_language_fraction=max_fraction, min_documents=min_documents
    )
    records = [exit for exit, count in exits.items() for _ in range(count)]
    expected = set()
    for stage in JUDGED_BY:
        came = [each for each in records if STAGE_ORDER.index(each[0]) >= STAGE_ORDER.index(stage)]
        others = [each for each in came if each[1] in ("language_rough", "language_other")]
        if stage == "read":
            came = [each for each in came if each != ("read", "not_html")]
        if stage == "extract":
            came = [each for each in came if each[1] != "language_rough"]
        if stage == "language":
            if len(came) >= min_documents and len(others) / len(came) > max_fraction:
                expected.add((stage, "max_other_language_fraction"))
            came = [each for each in came if each not in others]
        gone = [each for each in came if each[0] == stage]
        if len(came) >= min_documents and len(gone) / len(came) > max_fraction:
            expected.add((stage, "max_removed_fraction"))
    assert {(each.stage, each.limit) for each in find_wipe_outs(source(exits), guard, ("en",))} == expected


# ---- runs that are too small -----------------------------------------------------------------------------------------


def runs(*groups: Groups, guard: WipeOutGuard = GUARD) -> list[list[tuple[str, str]]]:
    """What is found in each of some runs, one after the other; after each its manifest is that of the next one's."""
    base: dict[str, Any] | None = None
    wiped_out = []
    for of_run in groups:
        before = unjudged_before(base)
        found_now = find_wipe_outs(of_run, guard, ("en",), before)
        wiped_out.append([(each.stage, f"{each.kind} {each.group}") for each in found_now])
        carried = unjudged(of_run, guard, ("en",), before)
        base = json.loads(json.dumps({"unjudged": [asdict(each) for each in carried]}))
    return wiped_out


@pytest.mark.parametrize("kind", ["source", "language"])
def test_small_runs_are_judged_together_from_so_many_documents(kind: Kind) -> None:
    short = source({("quality", "short"): 4})
    groups = short if kind == "source" else {("language", "en"): {("quality", "short"): 4}}
    lost = [("quality", f"{kind} {'web' if kind == 'source' else 'en'}")]
    assert runs(groups, groups, groups, groups) == [[], [], lost, []]  # 4, 8, 12; then it begins anew
    five: Groups = {group: {("quality", "short"): 5} for group in groups}
    assert runs(five, five) == [[], lost]


def test_a_large_run_is_judged_alone_and_ends_what_was_carried() -> None:
    lost, good = source({("quality", "short"): 9}), source({(KEPT, ""): 10})
    assert runs(lost, good, lost) == [[], [], []]
    assert runs(lost, source({("quality", "short"): 19, (KEPT, ""): 1})) == [[], [("quality", "source web")]]


def test_good_runs_between_bad_ones_count_as_well() -> None:
    lost, good = source({("quality", "short"): 5}), source({(KEPT, ""): 5})
    assert runs(lost, good) == [[], []] and runs(lost, lost)[1] == [("quality", "source web")]


def test_each_source_and_each_stage_waits_for_documents_of_its_own() -> None:
    thin = source({("extract", "no_content"): 6, ("quality", "short"): 4})
    other = source({(KEPT, ""): 500}, "books")
    assert runs(thin, {**thin, **other}, thin) == [[], [], [("quality", "source web")]]
    assert runs(thin, other, other, thin, thin)[-1] == [("quality", "source web")]
    for fraction in (0.9, 0.5):
        few = GUARD.model_copy(update={"max_other_language_fraction": fraction})
        foreign = source({("language", "language_other"): 3, (KEPT, ""): 2})
        expected = [("language", "source web")] if fraction == 0.5 else []
        assert runs(foreign, foreign, guard=few) == [[], expected]


def test_domains_are_judged_by_one_run_alone() -> None:
    groups: Groups = {("domain", "a.example"): {("quality", "short"): 5}, **source({("quality", "short"): 5})}
    assert runs(groups, groups) == [[], [("quality", "source web")]]
    assert {tally.kind for tally in unjudged(groups, GUARD, ("en",))} == {"source"}


def test_a_wipe_out_of_several_runs_says_so() -> None:
    before = unjudged(source({("quality", "short"): 7}), GUARD, ("en",))
    (only,) = find_wipe_outs(source({("quality", "short"): 2, ("quality", "bullets"): 3}), GUARD, ("en",), before)
    assert (only.documents_in, only.removed, only.documents_before) == (12, 12, 7)
    assert only.reasons == {"short": 9, "bullets": 3} and list(only.reasons) == ["short", "bullets"]
    assert "of source web (7 of them in refreshes before): 9 short, 3 bullets" in str(only)


def test_earlier_programs_carry_nothing() -> None:
    assert unjudged_before(None) == () == unjudged_before({"wipe_outs": []})


@given(st.lists(st.dictionaries(exit_reasons, st.integers(1, 60), min_size=1), min_size=1, max_size=6))
def test_what_is_carried_is_the_sum_since_there_was_last_enough(of_runs: list[Exits]) -> None:
    carried: tuple[Tally, ...] = ()
    sums = dict.fromkeys(JUDGED_BY, 0)
    for exits in of_runs:
        carried = unjudged(source(exits), GUARD, ("en",), carried)
        for stage in JUDGED_BY:
            now = entered(exits, stage)
            sums[stage] = now if now >= GUARD.min_documents else sums[stage] + now
            sums[stage] = 0 if sums[stage] >= GUARD.min_documents else sums[stage]
        held = {tally.stage: tally.documents_in for tally in carried if tally.limit == "max_removed_fraction"}
        assert held == {stage: number for stage, number in sums.items() if number}
