"""The command line as a person meets it: help, clear errors, exit codes, quick starts."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from flows import run_commands, store_commands
from flows.arguments import parser
from flows.cli import main
from tasks.curation import make_version
from tasks.ports import InProcessMap
from tasks.refresh import Refresh
from tasks.store import Store
from tasks.wipe_out import WipeOut, recorded
from tests.data.prose import corpus_members, prose, write_jsonl
from tests.tasks.page_store import recipe as light_recipe
from tests.tasks.preview.sampled import GERMAN
from tests.tasks.version_folders import Published, Removed, document_id, moved, write_version

COMMANDS = (
    *("refresh", "pretrain", "evaluate", "pipeline", "generate", "corpora", "show", "up", "doctor", "gc", "reconcile"),
    *("diff", "takedown", "preview", "quarantine", "thresholds", "plan", "train-classifier", "serve"),
    *("export", "ablate"),
)


def tokenmill(*arguments: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own."""
    return subprocess.run(
        [sys.executable, "-P", "-m", "flows.cli", *arguments],
        cwd=cwd,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
    )


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([command, "--help"])
    assert ended.value.code == 0
    assert command in capsys.readouterr().out


def test_the_command_starts_without_heavy_imports(tmp_path: Path) -> None:
    script = (
        "import sys; from flows.cli import main\n"
        "try: main(['corpora', '--store', sys.argv[1]])\n"
        "except SystemExit as end: assert end.code == 0, end.code\n"
        "heavy = {'prefect', 'ray', 'mlflow', 'torch', 'datatrove', 'trafilatura'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "s")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "no corpus" in done.stdout


def _refused(*arguments: str, cwd: Path, **environment: str) -> str:
    done = tokenmill(*arguments, cwd=cwd, **environment)
    assert done.returncode == 2, (done.returncode, done.stderr)
    lines = [line for line in done.stderr.splitlines() if line.startswith("tokenmill: ")]
    assert len(lines) == 1 and "Traceback" not in done.stderr, done.stderr
    return lines[0]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--source", "nowhere.warc.gz", "--name", "web"], "nowhere.warc.gz"),
        (["--source", "rows.jsonl", "--source", "nowhere.jsonl", "--name", "web"], "nowhere.jsonl"),
        (["--source", "rows.jsonl", "--name", "web", "--recipe", "fineweb9"], "fineweb"),
        (["--source", "rows.jsonl", "--name", "web", "--profile", "huge"], "smoke"),
        (["--source", "rows.jsonl", "--name", "a/b"], "use up to 64 letters"),
        (["--source", "rows.jsonl", "--name", ".."], "use up to 64 letters"),
        (["--source", "rows.jsonl", "--name", "web", "--set", "gopher_quality.min_wrds=3"], "min_words"),
        (["--source", "rows.jsonl", "--name", "web", "--set", "gopher_quality.min_words=-3"], "min_words"),
        (["--source", "rows.jsonl", "--name", "web", "--set", 'language.languages=["xx"]'], "xx"),
        (["--source", "rows.jsonl", "--name", "web", "--set", "toxicity.model=none.ftz"], "none.ftz"),
        (["--source", "environment-docs:9999", "--name", "web"], "2500"),
        (["--source", "rows.jsonl", "--name", "web", "--store", "rows.jsonl"], "--store"),
    ],
)
def test_what_a_user_can_mend_is_one_clear_line(arguments: list[str], expected: str, tmp_path: Path) -> None:
    write_jsonl(tmp_path / "rows.jsonl", 3)
    assert expected in _refused("refresh", *arguments, cwd=tmp_path)
    assert not list((tmp_path / "store").glob("corpora/*/*")) if (tmp_path / "store").is_dir() else True


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--source", "nowhere.warc.gz", "--recipe", "fineweb9"], "fineweb2"),
        (["--source", "rows.jsonl", "--set", "gopher_quality.min_wrds=3"], "min_words"),
        (["--source", "rows.jsonl", "--pages", "200000"], "100000"),
    ],
)
def test_what_can_not_be_previewed_is_one_clear_line(arguments: list[str], expected: str, tmp_path: Path) -> None:
    write_jsonl(tmp_path / "rows.jsonl", 3)
    assert expected in _refused("preview", *arguments, cwd=tmp_path)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--corpus", "news"], "no corpus 'news'"),
        (["--corpus", "web", "--recipe", "huge"], "there is no 'huge'"),
        (["--corpus", "web", "--workers", "3"], "4 sequences does not divide into 3"),
    ],
)
def test_what_can_not_be_planned_is_one_clear_line(arguments: list[str], expected: str, tmp_path: Path) -> None:
    documents = {document_id(n): Published(f"text {n}", f"https://a.com/{n}") for n in range(9)}
    write_version(tmp_path / "store/corpora", "web", 1, documents)
    assert expected in _refused("plan", *arguments, "--no-probe", cwd=tmp_path)


def test_a_plan_is_a_table_and_one_json_object(tmp_path: Path) -> None:
    documents = {document_id(n): Published(f"text {n} " * 1_000, f"https://a.com/{n}") for n in range(9)}
    write_version(tmp_path / "store/corpora", "web", 1, documents)
    done = tokenmill("plan", "--corpus", "web", "--no-probe", "--price", "2.5", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    *lines, last = done.stdout.splitlines()
    plan = json.loads(last)
    assert plan["corpus"] == "web@1" and plan["num_steps"] == 960 and plan["workers"] == 1
    assert any(line.startswith("cost") and "at 2.5" in line for line in lines)
    assert plan["cost"] == pytest.approx(plan["seconds"] / 3600 * 2.5, abs=0.01)


def test_a_source_of_common_crawl_is_no_path(tmp_path: Path) -> None:
    crawl = parser().parse_args(["refresh", "--name", "web", "--source", "commoncrawl:CC-MAIN-2025-38:wet:2"])
    assert crawl.source == ["commoncrawl:CC-MAIN-2025-38:wet:2"]
    done = tokenmill("refresh", "--name", "web", "--source", "commoncrawl:2025", cwd=tmp_path)
    assert done.returncode == 2 and "commoncrawl:" in done.stderr and "Traceback" not in done.stderr


def test_every_command_there_is_has_been_asked() -> None:
    assert set(COMMANDS) == {*run_commands.COMMANDS, *store_commands.COMMANDS}


def test_a_line_comes_with_its_traceback_where_it_is_asked_for(tmp_path: Path) -> None:
    done = tokenmill("show", "web", "--debug", cwd=tmp_path)
    assert done.returncode == 2 and "Traceback" in done.stderr
    assert [line for line in done.stderr.splitlines() if line.startswith("tokenmill: there is no corpus 'web'")]


def test_a_dry_run_says_what_it_would_take_and_makes_nothing(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "rows.jsonl", 3)
    arguments = ["refresh", "--source", "rows.jsonl", "--name", "web", "--dry-run", "--json"]
    done = tokenmill(*arguments, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["new_files"] == 1
    made = [path for path in (tmp_path / "store").rglob("*") if path.is_file()]
    assert {path.name for path in made} <= {"ray-token"}


def test_nobody_reads_the_output_any_more(tmp_path: Path) -> None:
    """As in `tokenmill ... | head`: no complaint, and the shell's own exit code."""
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-c", "from flows.cli import main; main()", "corpora", "--store", str(tmp_path)]
    try:
        done = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, timeout=120)
    finally:
        os.close(write)
    assert (done.returncode, done.stderr) == (141, b"")


def test_a_missing_corpus_or_model_is_one_clear_line(tmp_path: Path) -> None:
    assert "tokenmill refresh" in _refused("show", "web", cwd=tmp_path)
    assert "no corpus 'web'" in _refused("pretrain", "--corpus", "web", cwd=tmp_path)
    assert "no model 'web-smoke'" in _refused("generate", "--model", "web-smoke", "--prompt", "x", cwd=tmp_path)


@pytest.fixture
def two_versions(tmp_path: Path) -> Path:
    """A store with web@1 and web@2."""
    rows = {document_id(number): Published(f"text {number}", f"https://a.com/{number}") for number in range(20)}
    more = {document_id("new"): Published("a new page", "https://b.org/\x1b[31m\u202e")}
    write_version(tmp_path / "s/corpora", "web", 1, rows)
    write_version(tmp_path / "s/corpora", "web", 2, {**moved(rows, **{"3": Removed("quality", "too_short")}), **more})
    return tmp_path


def test_an_allowed_wipe_out_is_shown_with_the_version(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "rows.jsonl", 3)
    plan = Refresh.plan(Store.open(tmp_path / "s"), "web", [str(tmp_path / "rows.jsonl")], light_recipe())
    folder, manifest = make_version(plan, InProcessMap())
    plain = tokenmill("show", "web", "--store", "s", cwd=tmp_path)
    assert plain.returncode == 0 and "\nallowed" not in plain.stdout
    lost = WipeOut("quality", "domain", "b\x1b[31m.example", 300, 299, {"short": 299}, "max_removed_fraction", 0.96)
    manifest["wipe_outs"] = recorded([lost], 1, None)
    (folder / "manifest.json").write_text(json.dumps(manifest))
    shown = tokenmill("show", "web", "--store", "s", cwd=tmp_path)
    assert shown.returncode == 0, shown.stderr
    (line,) = [line for line in shown.stdout.splitlines() if line.startswith("allowed")]
    assert "quality removed 299 of 300 documents of domain b" in line and line.endswith("(web@1)")
    assert "\x1b" not in shown.stdout


def test_a_difference_is_a_table_a_page_and_one_json_object(two_versions: Path) -> None:
    done = tokenmill("diff", "web", "--json", "--store", "s", cwd=two_versions)
    assert done.returncode == 0, done.stderr
    *lines, last = done.stdout.splitlines()
    assert next(line for line in lines if "Added" in line).split()[:2] == ["Added", "+1"]
    assert "quality: too short" in done.stdout and "a.com 1" in done.stdout
    assert "\x1b" not in done.stdout and "\u202e" not in done.stdout
    result = json.loads(last)
    counts = {"added": 1, "revived": 0, "changed": 0, "superseded": 0, "removed": 1, "taken_down": 0, "unchanged": 19}
    assert result["counts"] == counts
    assert Path(result["report"]) == two_versions / "s/reports/web@1--web@2.html"
    assert f"report  {result['report']}" in lines
    assert "too short" in Path(result["report"]).read_text(encoding="utf-8")


def test_the_page_of_a_difference_goes_where_it_is_asked_for(two_versions: Path) -> None:
    done = tokenmill("diff", "web@2", "web@1", "--html", "here/d.html", "--store", "s", cwd=two_versions)
    assert done.returncode == 0, done.stderr
    assert (two_versions / "here/d.html").is_file() and not (two_versions / "s/reports").exists()


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["web@1"], "no version before web@1"),
        (["../web"], "no valid corpus name"),
        (["web@x"], "no version 'x'"),
        (["web", "--html", "s"], "name a file"),
    ],
)
def test_what_can_not_be_compared_is_one_clear_line(arguments: list[str], expected: str, two_versions: Path) -> None:
    assert expected in _refused("diff", *arguments, "--store", "s", cwd=two_versions)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], "name a URL, a domain or a document"),
        (["--domain", "co.uk"], "co.uk"),
        (["--domain", "example.org", "--purge"], "--apply"),
    ],
)
def test_a_takedown_that_is_not_clear_is_one_clear_line(
    arguments: list[str], expected: str, two_versions: Path
) -> None:
    assert expected in _refused("takedown", *arguments, "--store", "s", cwd=two_versions)


def test_a_ray_cluster_that_is_not_there_is_one_clear_line(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "rows.jsonl", 3)
    line = _refused(
        "refresh",
        "--source",
        "rows.jsonl",
        "--name",
        "web",
        cwd=tmp_path,
        RAY_ADDRESS="127.0.0.1:1",
        RAY_AUTH_MODE="disabled",
    )
    assert "RAY_ADDRESS" in line


def test_doctor_finds_this_installation_healthy(tmp_path: Path) -> None:
    done = tokenmill("doctor", "--json", "--store", "s", cwd=tmp_path)
    found = json.loads(done.stdout.splitlines()[-1])
    assert done.returncode == 0 and found["ok"], done.stdout
    assert {"python", "torch", "ray", "store", "mlflow server"} <= {check["what"] for check in found["checks"]}
    assert {"block_model.json", "words of en"} <= {file["name"] for file in found["files"]}
    assert "runs a task" in done.stdout


def test_limits_of_a_language_are_measured_and_written(tmp_path: Path) -> None:
    pages = [{"text": text * 3, "url": ""} for number in range(24) for text in (prose(number) + "\n", GERMAN)]
    (tmp_path / "pages.jsonl").write_text("".join(json.dumps(page) + "\n" for page in pages))
    arguments = ["thresholds", "--source", "pages.jsonl", "--languages", "de", "--output", "out/limits.json"]
    done = tokenmill(*arguments, "--store", "s", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    measured = {each["language"]: each for each in json.loads((tmp_path / "out/limits.json").read_bytes())["languages"]}
    assert measured["de"]["num_documents"] == 24 and measured["de"]["reference"] == "pages"
    assert "und" in measured["de"]["stop_words"]
    few = tokenmill(*arguments[:4], "fr", "--output", "fr.json", "--store", "s", cwd=tmp_path)
    assert few.returncode == 2 and not (tmp_path / "fr.json").exists()
    assert len([line for line in few.stderr.splitlines() if line.startswith("tokenmill: ")]) == 1, few.stderr


def test_bytes_that_could_not_be_read_are_listed_and_given_back(tmp_path: Path) -> None:
    pages = tmp_path / "pages"
    pages.mkdir()
    members = corpus_members(4)
    damaged = b"\x1f\x8b\x08\x00 no gzip member at all " * 20
    (pages / "crawl.warc.gz").write_bytes(members[0] + damaged + b"".join(members[1:]))
    store = Store.open(tmp_path / "s")
    plan = Refresh.plan(store, "web", [str(pages)], light_recipe())
    folder, manifest = make_version(plan, InProcessMap())
    assert manifest["removed"]["read"]["damaged"] >= 1
    listed = tokenmill("quarantine", "web", "--json", "--store", "s", cwd=tmp_path)
    assert listed.returncode == 0, listed.stderr
    (row, *_) = json.loads(listed.stdout.splitlines()[-1])
    assert row["reason"] == "damaged" and row["sha256"][:16] in listed.stdout
    got = tokenmill("quarantine", "web", row["sha256"][:12], "--output", "bytes", "--store", "s", cwd=tmp_path)
    assert got.returncode == 0, got.stderr
    held = (tmp_path / "bytes").read_bytes()
    assert len(held) == row["num_bytes"] and held in (pages / "crawl.warc.gz").read_bytes()
    assert "0000" in _refused("quarantine", "web", "0000", "--store", "s", cwd=tmp_path)
    assert folder.is_dir()
