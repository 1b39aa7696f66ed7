"""The warm process: the same answers as without it, and it may hang, die or be left alone."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.document import Drop
from tasks.extract import Extraction, Extractor, extract_text
from tasks.extract.page import extract_page
from tasks.rough_language import RoughLanguage
from tests.tasks.extract.pages import LIMITS, PAGE, SENTENCES, nested

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def extractor() -> Iterator[Extractor]:
    with Extractor(LIMITS) as extractor:
        yield extractor


def test_bytes_are_limited_before_a_process_is_started() -> None:
    with Extractor(Extraction(max_bytes=len(PAGE.encode()) - 1)) as small:
        assert small.extract(PAGE.encode(), None) == Drop("too_many_bytes", len(PAGE.encode()), len(PAGE.encode()) - 1)
        assert small.process_id is None


def test_the_process_gives_the_same_answers(extractor: Extractor) -> None:
    pages = [(PAGE.encode("cp1252"), "cp1252"), (b"", None), (nested(300), None), (PAGE.encode(), "\udcff")]
    for html, charset in [*pages, *reversed(pages)]:
        assert extractor.extract(html, charset) == extract_page(html, charset, LIMITS)


@settings(max_examples=40)
@given(st.binary(max_size=300))
def test_the_process_survives_any_bytes(extractor: Extractor, html: bytes) -> None:
    assert extractor.extract(html, None) == extract_page(html, None, LIMITS)


def test_the_process_stays_warm_and_ignores_ctrl_c(extractor: Extractor) -> None:
    extractor.extract(PAGE.encode(), None)
    process_id = extractor.process_id
    assert process_id is not None
    os.kill(process_id, signal.SIGINT)
    assert extractor.extract(PAGE.encode(), None) == extract_text(PAGE)
    assert extractor.process_id == process_id


def test_the_process_uses_the_engine_that_is_asked_for() -> None:
    limits = Extraction(engine="resiliparse")
    with Extractor(limits) as other:
        text = other.extract(PAGE.encode(), None)
    assert text == extract_page(PAGE.encode(), None, limits)
    assert text != extract_text(PAGE)


def test_a_page_in_another_language_is_dropped_before_its_text_is_looked_for() -> None:
    rough = RoughLanguage(languages=("de",))
    english = f"<html><body>{f'<p>{SENTENCES}</p>' * 30}</body></html>"
    with Extractor(LIMITS, rough) as german:
        drop = german.extract(english.encode(), None)
        assert isinstance(drop, Drop)
        assert (drop.reason, drop.detail) == ("language_rough", "en")
        assert german.extract(PAGE.encode(), None) == extract_text(PAGE)  # too short to be sure of


def test_a_page_that_never_returns_is_dropped_and_the_next_one_is_not() -> None:
    with Extractor(Extraction(backstop_s=0.5)) as impatient:
        assert isinstance(impatient.extract(PAGE.encode(), None), str)
        stopped = impatient.process_id
        assert stopped is not None
        for html in (PAGE.encode(), b"<p>" * 1_000_000):  # the second does not even fit into the socket's buffer
            stopped = impatient.process_id
            assert stopped is not None
            os.kill(stopped, signal.SIGSTOP)
            before = time.monotonic()
            assert impatient.extract(html, None) == Drop("extraction_timeout", 0.5, 0.5)
            assert time.monotonic() - before < 5
            assert not Path(f"/proc/{stopped}").exists()
            assert impatient.extract(PAGE.encode(), None) == extract_text(PAGE)
            assert impatient.process_id != stopped


def _kill_while_it_has_the_page(extractor: Extractor) -> threading.Timer:
    process_id = extractor.process_id
    assert process_id is not None
    os.kill(process_id, signal.SIGSTOP)
    killer = threading.Timer(0.3, os.kill, (process_id, signal.SIGKILL))
    killer.start()
    return killer


def test_a_page_whose_process_was_killed_is_extracted_by_the_next_one(extractor: Extractor) -> None:
    """The system may kill a process for what others use; the result must not depend on that."""
    extractor.extract(PAGE.encode(), None)
    killer = _kill_while_it_has_the_page(extractor)
    assert extractor.extract(PAGE.encode(), None) == extract_text(PAGE)
    killer.join()


def test_a_page_that_ends_two_processes_is_a_crash(extractor: Extractor, monkeypatch: pytest.MonkeyPatch) -> None:
    extractor.extract(PAGE.encode(), None)
    killers = [_kill_while_it_has_the_page(extractor)]
    start = extractor._start

    def start_and_kill() -> None:
        start()
        killers.append(_kill_while_it_has_the_page(extractor))

    with monkeypatch.context() as patch:
        patch.setattr(extractor, "_start", start_and_kill)
        assert extractor.extract(PAGE.encode(), None) == Drop("extraction_crash", detail="killed by signal 9")
    for killer in killers:
        killer.join()
    assert len(killers) == 2
    assert extractor.extract(PAGE.encode(), None) == extract_text(PAGE)


def test_a_process_that_died_between_pages_costs_no_page(extractor: Extractor) -> None:
    extractor.extract(PAGE.encode(), None)
    process_id = extractor.process_id
    assert process_id is not None
    os.kill(process_id, signal.SIGKILL)
    time.sleep(0.3)
    assert extractor.extract(PAGE.encode(), None) == extract_text(PAGE)
    assert extractor.process_id != process_id


def test_memory_is_limited_to_the_page_that_asks_for_it() -> None:
    hungry = f"<html><body>{'<p>a<b>b</b></p>' * 300_000}</body></html>".encode()
    with Extractor(Extraction(max_memory_bytes=100_000_000, max_nodes=10_000_000)) as frugal:
        drop = frugal.extract(hungry, None)
        assert isinstance(drop, Drop)
        assert drop.reason in ("extraction_error", "extraction_crash", "no_content")
        assert frugal.extract(PAGE.encode(), None) == extract_text(PAGE)


def test_no_descriptor_and_no_process_is_left(extractor: Extractor) -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(2):
        with Extractor(LIMITS) as short_lived:
            short_lived.extract(PAGE.encode(), None)
            process_id = short_lived.process_id
        assert not Path(f"/proc/{process_id}").exists()
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_closing_twice_and_using_again_is_fine() -> None:
    extractor = Extractor(LIMITS)
    extractor.close()
    assert extractor.extract(PAGE.encode(), None) == extract_text(PAGE)
    extractor.close()
    extractor.close()
    assert extractor.process_id is None


def test_a_process_that_cannot_start_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(RuntimeError, match=r"while it started \(exit status 1\)"):
        Extractor(LIMITS).extract(PAGE.encode(), None)
    monkeypatch.setattr(sys, "executable", "/no/such/python")
    with pytest.raises(RuntimeError, match=r"cannot be started: .*No such file"):
        Extractor(LIMITS).extract(PAGE.encode(), None)


def test_the_process_ends_with_its_parent_and_neither_runs_its_main_module_nor_a_decoy(tmp_path: Path) -> None:
    script = (
        tmp_path / "driver" / "driver.py"
    )  # without `if __name__ == "__main__"`: a spawned process would run it too
    script.parent.mkdir()
    script.write_text(
        textwrap.dedent(
            """
            import os, signal
            from tasks.extract import Extraction, Extractor
            print("main module runs", flush=True)
            extractor = Extractor(Extraction())
            page = "<html><body><article><p>" + "The mill turns. " * 30 + "</p></article>"
            text = extractor.extract(page.encode(), None)
            print(len(text), extractor.process_id, flush=True)
            os.kill(os.getpid(), signal.SIGKILL)
            """
        )
    )
    decoy = tmp_path / "here" / "tasks"
    decoy.mkdir(parents=True)
    (decoy / "__init__.py").write_text("raise SystemExit('the decoy was imported')")
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, str(script)],
        cwd=decoy.parent,
        env=environment,
        stdout=subprocess.PIPE,
        timeout=120,
        check=False,
    )
    assert done.returncode == -signal.SIGKILL
    said = done.stdout.decode().splitlines()
    assert said[0] == "main module runs"
    assert len(said) == 2
    num_chars, process_id = map(int, said[1].split())
    assert num_chars > 400
    deadline = time.monotonic() + 20
    while Path(f"/proc/{process_id}").exists() and "Z" not in state(process_id):
        assert time.monotonic() < deadline, "the extraction process outlives its parent"
        time.sleep(0.05)


def state(process_id: int) -> str:
    try:
        return Path(f"/proc/{process_id}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return "Z"
