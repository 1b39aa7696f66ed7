"""The stage in a refresh: what it makes anew, what ledger, edits, card, preview and doctor say of it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import pytest

from tasks.base_version import why_again
from tasks.corpus_card import corpus_card, removed_samples
from tasks.decontamination.sought import sought_in_texts
from tasks.decontamination.step import Decontamination
from tasks.inputs import last_inputs
from tasks.needed_files import needed_files
from tasks.recipes.curation import check_rules, resolve_curation_recipe, smoke
from tasks.refresh_stages import DECONTAMINATE, SCREENING, deciding_fingerprints, refresh_stages
from tasks.stages import Stage
from tasks.store import Store
from tasks.takedown import TakedownQuery
from tasks.wipe_out import WipeOutError, WipeOutGuard
from tests.data.prose import prose
from tests.tasks.page_store import add, id_of, recipe, refresh, row, table, take_down, urls
from tests.tasks.preview.sampled import previewed

EXAMPLE = "Nobody had told the carpenter which of the seven lanterns belonged to the island school."
PAGES = [
    *(row(number, f"https://a.example/{number}") for number in range(8)),
    row(f"{prose(20)}\n{EXAMPLE.replace(' ', '  ').upper()}\n{prose(21)}", "https://a.example/part"),
    row(f"{prose(22)}\n{prose('planted')}", "https://a.example/most"),
]


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    file = tmp_path / "mine.jsonl"
    file.write_text("".join(json.dumps({"text": text}) + "\n" for text in (EXAMPLE, prose("planted"))))
    return file


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.open(tmp_path / "store")


def against(texts: Path, **settings: object) -> Decontamination:
    return Decontamination.model_validate({"texts": (str(texts),), **settings})


def stages(rule: Decontamination) -> dict[str, Stage]:
    return refresh_stages(recipe(decontamination=rule), start={"start": ""}, deciding={})


def test_what_it_does_is_in_ledger_edits_manifest_and_card(store: Store, texts: Path) -> None:
    with texts.open("a") as file:
        file.write('{"text": "too short to look for"}\n')
    add(store, "plain", PAGES)
    chosen = recipe(decontamination=against(texts))
    manifest = add(store, "web", PAGES, recipe=chosen)
    ids = [each.example_id for each in sought_in_texts([texts])]
    gone = id_of(store, "web", "https://a.example/most")
    (removed,) = [one for one in table(store, "web", "ledger") if one["stage"] == DECONTAMINATE]
    assert (removed["record_id"], removed["outcome"], removed["reason"]) == (gone, "removed", "contaminated_share")
    assert (removed["detail"], removed["threshold"]) == (f"mine.jsonl {ids[1]}", 0.3) and removed["value"] > 0.3
    (edit,) = [one for one in table(store, "web", "edits") if one["stage"] == DECONTAMINATE]
    assert (edit["document_id"], edit["rule"], edit["kind"], edit["reason"]) == (
        id_of(store, "web", "https://a.example/part"),
        "decontaminate",
        "span_removed",
        f"mine.jsonl {ids[0]}",
    )
    before = {one["url"]: one["text"] for one in table(store, "plain", "documents")}
    after = {one["url"]: one["text"] for one in table(store, "web", "documents")}
    assert before.keys() - after.keys() == {"https://a.example/most"}
    changed = before["https://a.example/part"]
    start = edit["start"]
    assert changed[start : start + len(edit["removed"])] == edit["removed"] and "LANTERNS" in edit["removed"]
    assert after.pop("https://a.example/part") == changed[:start] + changed[start + len(edit["removed"]) :]
    assert all(before[url] == text for url, text in after.items())
    assert manifest["removed"][DECONTAMINATE] == {"contaminated_share": 1}
    assert manifest["decontaminated"] == chosen.decontamination.coverage()
    card = corpus_card(store.version_folder("web"), manifest)
    sha256 = manifest["decontaminated"]["mine.jsonl"]["sha256"]
    assert f"mine.jsonl (SHA-256 {sha256[:12]}, 2 of 3 examples could be looked for): 1 documents" in card
    samples = removed_samples(store.version_folder("web"), manifest, store.work, str)
    (sample,) = [one for one in samples if one.stage == DECONTAMINATE]
    assert sample.text is not None and prose("planted").splitlines()[0] in sample.text


def test_it_is_off_unless_there_is_something_to_look_for(texts: Path) -> None:
    off = stages(Decontamination())
    assert DECONTAMINATE not in off and DECONTAMINATE not in deciding_fingerprints(recipe())
    on = stages(against(texts))
    assert list(on)[len(SCREENING)] == DECONTAMINATE
    assert all(on[name].fingerprint == off[name].fingerprint for name in SCREENING)
    assert all(on[name].fingerprint != off[name].fingerprint for name in off if name not in SCREENING)
    off_in_words = stages(Decontamination(action="drop"))
    assert {name: stage.fingerprint for name, stage in off_in_words.items()} == {
        name: stage.fingerprint for name, stage in off.items()
    }


def test_content_counts_and_not_the_place(texts: Path, tmp_path: Path) -> None:
    before = stages(against(texts))[DECONTAMINATE].own_fingerprint
    moved = tmp_path / "elsewhere" / texts.name
    moved.parent.mkdir()
    moved.write_bytes(texts.read_bytes())
    assert stages(against(moved))[DECONTAMINATE].own_fingerprint == before
    assert stages(against(texts, action="drop"))[DECONTAMINATE].own_fingerprint != before
    texts.write_text('{"text": "another one"}\n')
    assert stages(against(texts))[DECONTAMINATE].own_fingerprint != before


def test_turned_on_or_off_or_with_other_examples_a_version_is_made_again(store: Store, texts: Path) -> None:
    def again(rule: Decontamination, *fields_not_known: str) -> str:
        chosen = recipe(decontamination=rule)
        last = store.corpus_manifest("web")
        last["recipe"] = {name: each for name, each in last["recipe"].items() if name not in fields_not_known}
        return why_again(last, last_inputs(last), chosen, deciding_fingerprints(chosen), replace=False)

    add(store, "web", PAGES)
    assert again(Decontamination()) == "" and again(against(texts)) == "the decontamination changed"
    assert again(Decontamination(), "decontamination") == "", "a version of an earlier program can be built onto"
    manifest = refresh(store, "web", recipe=recipe(decontamination=against(texts)))
    assert manifest["mode"] == "everything again: the decontamination changed"
    assert again(against(texts)) == "" and again(Decontamination()) == "the decontamination changed"
    texts.write_text('{"text": "another one"}\n')
    assert again(against(texts)) == "the code, a file or a library of decontaminate changed"


def test_pages_that_come_later_are_freed_too_and_a_takedown_says_so_still(store: Store, texts: Path) -> None:
    chosen = recipe(decontamination=against(texts))
    add(store, "web", PAGES[:8], recipe=chosen)
    manifest = add(store, "web", PAGES[8:], recipe=chosen)
    assert manifest["mode"] == "onto web@1" and manifest["removed"][DECONTAMINATE] == {"contaminated_share": 1}
    together = add(store, "all", PAGES, recipe=chosen)
    assert together["digest"] == manifest["digest"]
    after = take_down(store, "web", TakedownQuery(urls=("https://a.example/3",)))
    assert after["decontaminated"] == manifest["decontaminated"] and "https://a.example/3" not in urls(store, "web")


def test_its_removals_are_guarded_as_those_of_the_stages_before(store: Store, texts: Path) -> None:
    texts.write_text("".join(json.dumps({"text": page["text"]}) + "\n" for page in PAGES[:8]))  # the corpus itself
    guarded = recipe(decontamination=against(texts), guard=WipeOutGuard(min_documents=5, max_removed_fraction=0.5))
    with pytest.raises(WipeOutError, match="decontaminate removed 8 of 10 documents"):
        add(store, "web", PAGES, recipe=guarded)


def test_the_preview_shows_it(store: Store, texts: Path, tmp_path: Path) -> None:
    add(store, "web", PAGES)
    made = previewed(store, tmp_path / "web-pages", recipe(), changed=recipe(decontamination=against(texts)))
    assert made.chain.labels[-1] == "decontaminate"
    assert made.chain.removed[DECONTAMINATE] == {"contaminated_share": 1}
    assert made.comparison is not None and made.comparison.scored_again == ("decontaminate",)
    (lost,) = made.comparison.lost
    assert (lost.record_id, lost.stage) == (id_of(store, "web", "https://a.example/most"), DECONTAMINATE)


def test_doctor_lists_packs_and_files(store: Store, texts: Path, tmp_path: Path) -> None:
    rule = Decontamination(packs=("basics", "/nowhere/pack"), texts=(str(texts), str(tmp_path / "absent.jsonl")))
    files = needed_files([smoke().model_copy(update={"decontamination": rule})], store)
    listed = {file.name: file for file in files if file.used_by == ("smoke: decontaminate",)}
    assert listed.keys() == {"task pack basics@1", "task pack /nowhere/pack", "mine.jsonl", "absent.jsonl"}
    basics = listed["task pack basics@1"]
    assert (basics.licence, basics.problem, basics.kind) == ("Apache-2.0", "", "list") and basics.size_bytes
    assert listed["mine.jsonl"].sha256 and not listed["mine.jsonl"].problem
    assert "there is no task pack '/nowhere/pack'" in listed["task pack /nowhere/pack"].problem
    assert "there is no file of texts" in listed["absent.jsonl"].problem


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"decontamination.packs": '["/nowhere/pack"]'}, "there is no task pack '/nowhere/pack'"),
        ({"decontamination.packs": '["academic"]'}, "the pack academic needs"),
        ({"decontamination.texts": '["/nowhere/mine.jsonl"]'}, "there is no file of texts"),
    ],
)
def test_what_is_missing_is_said_before_any_work(overrides: Mapping[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_rules(resolve_curation_recipe("smoke", overrides))


def test_a_recipe_turns_it_on_by_its_fields(texts: Path) -> None:
    overrides = {"decontamination.packs": '["basics"]', "decontamination.texts": json.dumps([str(texts)])}
    chosen = resolve_curation_recipe("fineweb", {**overrides, "decontamination.action": "drop"})
    assert chosen.decontamination == Decontamination(packs=("basics",), texts=(str(texts),), action="drop")
    assert type(chosen).model_validate_json(chosen.model_dump_json()) == chosen
    check_rules(chosen)
