"""What the words of the command line mean before a flow is asked."""

from __future__ import annotations

from pathlib import Path

import pytest

from flows.arguments import parser


def pretrain(*words: str) -> list[str]:
    return ["pretrain", "--corpus", "docs", *words]


def test_a_corpus_of_a_mixture_is_a_name_and_what_is_set_of_it() -> None:
    options = parser().parse_args(pretrain("--mix", "news@2,weight=0.5,max_tokens=9", "--mix", "books"))
    assert options.mix == [{"corpus": "news@2", "weight": "0.5", "max_tokens": "9"}, {"corpus": "books"}]


@pytest.mark.parametrize("wrong", ["news,0.5", "news,weight=", "news,wieght=1", "news,weight=1,weight=2", "a,corpus=b"])
def test_what_is_no_corpus_of_a_mixture_is_refused(wrong: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parser().parse_args(pretrain("--mix", wrong))
    assert f"{wrong!r} is not of the form N[@V][,weight=W]" in capsys.readouterr().err


def test_local_places_become_absolute_and_addresses_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    options = parser().parse_args(pretrain("--checkpoints", "here", "--set", "decay_from=runs/a", "--set", "seed=1"))
    assert options.checkpoints == f"{tmp_path}/here"
    assert options.settings == [f"decay_from={tmp_path}/runs/a", "seed=1"]
    for address in ("s3://bucket/prefix", ""):
        options = parser().parse_args(pretrain("--checkpoints", address, "--set", f"decay_from={address}"))
        assert (options.checkpoints, options.settings) == (address, [f"decay_from={address}"])
