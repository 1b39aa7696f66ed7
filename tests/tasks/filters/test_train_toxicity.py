"""Training: labels of pieces, the held-out half, and the same file twice."""

from __future__ import annotations

import gzip
import hashlib
import json
from pathlib import Path

import pytest

from tasks.filters.toxicity import load_classifier, score_piece
from tasks.filters.train_toxicity import Example, comment_pieces, is_held_out, main, pages, training_examples


def test_a_piece_is_toxic_where_it_holds_a_toxic_offset() -> None:
    text = "Calm line.\nYou idiot.\nYou idiot."
    offsets = frozenset(range(text.rindex("idiot"), text.rindex("idiot") + 5))
    assert list(comment_pieces(text, offsets)) == [
        Example("Calm line.", toxic=False),
        Example("You idiot.", toxic=False),
        Example("You idiot.", toxic=True),
    ]
    assert list(comment_pieces(text, frozenset())) == []


def test_a_page_is_held_out_by_its_url() -> None:
    url = "https://boats.example/"
    assert is_held_out(url) == (int(hashlib.sha256(url.encode()).hexdigest(), 16) % 2 == 1)
    held_out = sum(is_held_out(f"https://boats.example/{number}") for number in range(1000))
    assert 400 < held_out < 600


def write(path: Path, text: str) -> None:
    path.parent.mkdir(exist_ok=True)
    with gzip.open(path, "wt", encoding="utf-8") as file:
        file.write(text)


@pytest.fixture
def small_data(tmp_path: Path) -> Path:
    """The layout of the real data, with a few hundred lines."""
    rude = [f"you stupid idiot number {number}" for number in range(150)]
    calm = [f"the boat is on the river, day {number} of the journey" for number in range(150)]
    rows = [f'{index},1,"{text}"' for index, text in enumerate(rude)] + [f'0,2,"{text}"' for text in calm]
    write(tmp_path / "toxicity" / "davidson.csv.gz", "\n".join(["id,class,tweet", *rows]))
    write(tmp_path / "toxicity" / "toxic_spans_train.csv.gz", 'spans,text\n"[4, 5]","You idiot."\n[],"You idiot!"\n')
    content = [{"url": f"https://boats.example/{number}", "main_content": f"Page {number}."} for number in range(9)]
    write(tmp_path / "web" / "pages.gold.jsonl.gz", "\n".join(map(json.dumps, content)))
    write(tmp_path / "text" / "wikitext2_valid.txt.gz", "\n = A river = \n\n The river flows . \n")
    return tmp_path


def test_the_examples_leave_out_the_held_out_pages(small_data: Path) -> None:
    texts = {example.text for example in training_examples(small_data)}
    page_file = small_data / "web" / "pages.gold.jsonl.gz"
    trained, held_out = set(pages(page_file, held_out=False)), set(pages(page_file, held_out=True))
    assert trained
    assert held_out
    assert trained <= texts
    assert not held_out & texts
    assert "The river flows ." in texts
    assert "You idiot!" not in texts


def test_training_twice_gives_the_same_file(small_data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, second = small_data / "first.ftz", small_data / "second.ftz"
    main(["--data", str(small_data), "--out", str(first)])
    assert "first.ftz: " in capsys.readouterr().out
    main(["--data", str(small_data), "--out", str(second)])
    assert first.read_bytes() == second.read_bytes()
    model = load_classifier(first)
    assert score_piece(model, "you stupid idiot") > score_piece(model, "the boat is on the river")


def test_a_missing_folder_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--data", str(tmp_path / "nowhere"), "--out", str(tmp_path / "x.ftz")])
    assert "nowhere: no such folder" in capsys.readouterr().err
