"""The script for one GPU, on the CPU: what it checks and times at a tiny shape, and that it says what it did not do."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from tests.benchmarks import gpu_checks, gpu_training, report
from tests.benchmarks.gpu_checks import Check
from tests.benchmarks.gpu_training import COLUMNS, cases_for, judged
from tests.benchmarks.plain_llama import LlamaModel

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU: run the script itself")


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def test_the_whole_script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(report, "RESULTS", tmp_path)
    assert gpu_training.main(["--rounds", "2"]) == 0
    out, err = capsys.readouterr()
    assert "BAD" not in err
    assert "device: CPU: NOT RUN ON A GPU" in out
    printed = json.loads(out.splitlines()[-1])
    assert printed == json.loads((tmp_path / "gpu_training.json").read_text())
    assert printed["columns"] == list(COLUMNS)
    rows = [dict(zip(COLUMNS, row, strict=True)) for row in printed["rows"]]
    assert [row["network"] for row in rows] == ["ours", "ours with documents", "plain", "transformers"]
    for row in rows:
        assert row["tokens/s"] == pytest.approx(2 * 64 * 1_000 / row["ms a step"])
        assert (row["MFU"], row["peak, GiB"], row["wanted"]) == (None, None, None)
    assert [row["planned, GiB"] is None for row in rows] == [False, False, True, True]
    assert rows[0]["planned, GiB"] == pytest.approx(2 / 1_024, rel=0.9)  # of a tiny network
    # in bf16, and the documents' network sees less
    assert all(row["difference of the first loss"] < 0.01 for row in rows)
    assert printed["facts"]["wrong"] == "nothing"
    assert printed["facts"]["missed"] == "not measured"
    assert printed["facts"]["left out, no time"] == "nothing"


def test_without_time_ours_alone_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(report, "RESULTS", tmp_path)
    monkeypatch.setattr(gpu_training, "run_checks", lambda device, full_size: iter(()))
    assert gpu_training.main(["--limit-s", "0"]) == 0
    printed = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert [row[1] for row in printed["rows"]] == ["ours"]
    assert printed["facts"]["left out, no time"] == "tiny, ours with documents; tiny, plain; tiny, transformers"


def test_the_shapes_on_a_gpu() -> None:
    cases = {case.name: case for case in cases_for(torch.device("cuda"), ["124m", "1b"])}
    assert [(case.seq_len, case.config.max_seq_len, case.wanted) for case in cases.values()] == [
        (2_048, 2_048, 0.45),
        (2_048, 2_048, 0.50),
    ]


def measured_row(**changes: object) -> list[object]:
    values: dict[str, object] = dict.fromkeys(COLUMNS)
    values |= {"preset": "124m", "network": "ours", "MFU": 0.45, "wanted": 0.45, "peak, GiB": 10.0}
    values |= {"planned, GiB": 11.0, "difference of the first loss": 0.01}
    return list((values | changes).values())


def test_what_is_wrong_and_what_is_missed() -> None:
    good = Check(name="x", difference=0.5, tolerated=0.5)
    assert judged([good], [measured_row()]) == ([], [])
    for difference in (0.51, float("nan")):
        wrong, _ = judged([Check(name="x", difference=difference, tolerated=0.5)], [])
        assert wrong == [f"x: off by {difference:.2g}, tolerated 0.5"]
    for difference in (0.0101, float("nan")):
        assert len(judged([], [measured_row(**{"difference of the first loss": difference})])[0]) == 1
    other = measured_row(network="ours with documents", **{"difference of the first loss": 0.5})
    assert judged([], [other]) == ([], [])
    assert judged([], [measured_row(MFU=0.449)])[1] == ["124m, ours: MFU 0.449, wanted 0.45"]
    for planned in (8.99, 11.01):
        missed = judged([], [measured_row(**{"planned, GiB": planned})])[1]
        assert missed == [f"124m, ours: peak 10.00 GiB, planned {planned:.2f}"]
    assert judged([], [measured_row(**{"planned, GiB": 9.01})]) == ([], [])


def test_a_network_that_is_off_does_not_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cosine for sine: what the first check is there to find."""
    right = LlamaModel.cos_sin
    monkeypatch.setattr(LlamaModel, "cos_sin", lambda *arguments: right(*arguments)[::-1])
    assert not gpu_checks.plain_logits(torch.device("cpu")).passed
