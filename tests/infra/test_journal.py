import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from infra.journal import Journal, has_journal
from tasks.store import InUseError


def entries(journal: Journal) -> list[Mapping[str, Any]]:
    return [line.entry for line in journal.pending(1000)]


def test_what_was_not_confirmed_is_pending_for_the_next_one_to_open_it(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "run")
    for number in range(3):
        journal.append({"n": number, "text": "ü\n"})
    journal.confirm(journal.pending(1)[0])
    journal.close()
    again = Journal(tmp_path / "run")
    assert [entry["n"] for entry in entries(again)] == [1, 2] and not again.is_empty
    again.append({"n": 3})
    assert [entry["n"] for entry in entries(again)] == [1, 2, 3]
    again.close()


def test_nothing_is_left_of_one_that_was_delivered(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "run")
    path, staged = journal.stage("note.txt")
    path.write_text("hello")
    journal.append({"staged": staged})
    journal.confirm(journal.pending(1)[0])
    assert not path.exists()
    journal.close()
    assert not (tmp_path / "run").exists()
    with pytest.raises(OSError, match="Bad file descriptor"):
        journal.append({"n": 1})


def test_what_was_refused_stays_with_the_reason(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "run")
    journal.append({"n": 1})
    (line,) = journal.pending(5)
    journal.reject(line, "no such run")
    journal.confirm(line)
    journal.close()
    assert json.loads(journal.rejected_file.read_text()) == {"reason": "no such run", "entry": {"n": 1}}
    assert not has_journal(tmp_path / "run")


def test_one_holder_at_a_time(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "run")
    with pytest.raises(InUseError, match="another process"):
        Journal(tmp_path / "run")
    journal.append({"n": 1})
    journal.close()
    Journal(tmp_path / "run").close()


class JournalMachine(RuleBasedStateMachine):
    """A writer that is killed at any byte, and a receiver that is told everything, some of it twice."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="tokenmill-journal-"))
        self.journal = Journal(self.folder / "run")
        self.written: list[int] = []
        self.received: list[int] = []

    def teardown(self) -> None:
        self.journal.close()
        shutil.rmtree(self.folder)

    @rule(times=st.integers(1, 5), text=st.text(max_size=30))
    def append(self, times: int, text: str) -> None:
        for _ in range(times):
            self.journal.append({"n": len(self.written), "text": text})
            self.written.append(len(self.written))

    @rule(max_lines=st.integers(1, 4), is_confirmed=st.booleans())
    @precondition(lambda self: not self.journal.is_empty)
    def deliver(self, max_lines: int, is_confirmed: bool) -> None:
        """Where it is not confirmed, the answer got lost."""
        lines = self.journal.pending(max_lines)
        numbers = [line.entry["n"] for line in lines]
        assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))
        assert numbers[0] <= len(self.received), "something was skipped"
        self.received += [number for number in numbers if number >= len(self.received)]  # the receiver holds each once
        if is_confirmed:
            self.journal.confirm(lines[-1])

    @rule(cut=st.floats(0, 1), text=st.text(max_size=30))
    def killed_while_it_appends(self, cut: float, text: str) -> None:
        whole = json.dumps({"n": len(self.written), "text": text}).encode() + b"\n"
        part = whole[: int(cut * (len(whole) - 1))]
        self.reopen(part)

    @rule()
    def killed(self) -> None:
        self.reopen(b"")

    def reopen(self, torn: bytes) -> None:
        descriptor = self.journal._descriptor
        with (self.folder / "run" / "journal.jsonl").open("ab") as file:
            file.write(torn)
        os.close(descriptor)  # as the system does with a killed process's; nothing else is tidied up
        self.journal = Journal(self.folder / "run")

    @invariant()
    def nothing_is_lost(self) -> None:
        pending = [line.entry["n"] for line in self.journal.pending(10_000)]
        assert pending == self.written[len(self.written) - len(pending) :]
        assert len(self.received) >= len(self.written) - len(pending)


JournalMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=25)
TestJournal = JournalMachine.TestCase
