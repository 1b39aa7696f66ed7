"""What a model's name means, and that only the very file of its hash is taken for it."""

from __future__ import annotations

import hashlib
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from tasks.model_files import (
    CLASSIFIER_FILE,
    KNOWN_MODELS,
    SINGLE_FILE,
    ModelName,
    ModelReference,
    fetch_command,
    model_files,
    model_path,
    models_in,
    parse_model,
)
from tasks.rule import Configuration

HASH = "0123456789abcdef" * 4
MARK = "#sha256="


class Named(Configuration):
    model: ModelName = ""


@pytest.mark.parametrize(
    ("reference", "meaning"),
    [
        ("", ModelReference("embedded")),
        ("toxicity@champion", ModelReference("registry", "toxicity", "champion")),
        ("toxicity@3", ModelReference("registry", "toxicity", "3")),
        (f"toxicity@3{MARK}{HASH}", ModelReference("registry", "toxicity", "3", sha256=HASH)),
        (f"/data/my model.ftz{MARK}{HASH}", ModelReference("file", source="/data/my model.ftz", sha256=HASH)),
        (f"/data/odd#name@2{MARK}{HASH}", ModelReference("file", source="/data/odd#name@2", sha256=HASH)),
        (f"https://h/lid.bin{MARK}{HASH}", ModelReference("file", source="https://h/lid.bin", sha256=HASH)),
        (f"s3://b/taste/{MARK}{HASH}", ModelReference("file", source="s3://b/taste/", sha256=HASH)),
    ],
)
def test_a_name_means_one_thing(reference: str, meaning: ModelReference) -> None:
    assert parse_model(reference) == meaning
    assert Named(model=reference).model == reference


@pytest.mark.parametrize(
    ("reference", "said"),
    [
        ("toxicity", "there is no model 'toxicity'"),
        ("models/a.ftz", "a whole path"),
        (f"./a.ftz{MARK}{HASH}", "a whole path"),
        ("/data/a.ftz", f"add {MARK}…, as printed by `sha256sum /data/a.ftz`"),
        ("/data/it's.ftz", """`sha256sum '/data/it'"'"'s.ftz'`"""),
        ("https://h/a.ftz", "`curl -L https://h/a.ftz | sha256sum`"),
        ("https://h/taste/", f"`curl -L https://h/taste/{CLASSIFIER_FILE} | sha256sum`"),
        (f"/data/a.ftz{MARK}{HASH[:-1]}", "64 hexadecimal digits"),
        (f"/data/a.ftz{MARK}{HASH}0", "64 hexadecimal digits"),
        (f"/data/a.ftz{MARK}{HASH.upper()}", "in lower case"),
        (f"/data/a.ftz{MARK}", f"'/data/a.ftz{MARK}…': a SHA-256 is 64"),
        (f"toxicity@champion{MARK}{HASH}", "an alias moves on"),
        (f"https://me:secret@h/a.ftz{MARK}{HASH}", "without user, password and query"),
        (f"https://h/a.ftz?key=secret{MARK}{HASH}", "without user, password and query"),
        (f"https://me:secret@h/a.ftz{MARK}abc", "without user, password and query"),
        (f"https://h/a.ftz?key=secret{MARK}abc", "without user, password and query"),
        (f"https://h/a.ftz{MARK}{HASH}?key=secret", "64 hexadecimal digits"),
        (f"/data/two\nlines{MARK}", "64 hexadecimal digits"),
        (f"me:secret@h/a.ftz{MARK}{HASH}", "there is no model 'h/a.ftz'"),
        ("h/a.ftz?key=secret", "there is no model 'h/a.ftz?…'"),
    ],
)
def test_what_cannot_be_a_name_is_refused_in_one_line(reference: str, said: str) -> None:
    with pytest.raises(ValueError) as refused:
        parse_model(reference)
    assert said in str(refused.value) and "\n" not in str(refused.value) and "secret" not in str(refused.value)
    with pytest.raises(ValidationError):
        Named(model=reference)


def test_a_classifiers_folder_without_hash_is_told_of_its_description(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"sha256sum {tmp_path}/{CLASSIFIER_FILE}"):
        parse_model(str(tmp_path))


@pytest.mark.parametrize("name", KNOWN_MODELS)
def test_a_short_name_is_written_out(name: str) -> None:
    written_out = Named(model=name).model
    assert written_out == KNOWN_MODELS[name] and written_out.partition(MARK)[0].endswith(f"/{name}")
    assert parse_model(written_out) == parse_model(name) and parse_model(name).kind == "file"


@given(st.text(max_size=60))
def test_any_text_is_understood_or_refused(text: str) -> None:
    try:
        parsed = parse_model(text)
    except ValueError:
        return
    assert (parsed.kind == "embedded") == (text == "")
    assert parsed.kind == "embedded" or parsed.sha256 or parsed.kind == "registry"


def put(models: Path, content: bytes, name: str = SINGLE_FILE) -> str:
    """A model in the store; its hash."""
    sha256 = hashlib.sha256(content).hexdigest()
    (models / sha256).mkdir(parents=True)
    (models / sha256 / name).write_bytes(content)
    return sha256


def test_a_file_and_a_classifiers_folder_are_found_by_their_hash(tmp_path: Path) -> None:
    models = tmp_path / "models"
    file, folder = put(models, b"model"), put(models, b"{}", CLASSIFIER_FILE)
    with models_in(models):
        assert model_path(f"/a.ftz{MARK}{file}", None) == models / file / SINGLE_FILE
        assert model_files(f"/a.ftz{MARK}{file}", None) == (models / file / SINGLE_FILE,)
        assert model_path(f"taste@3{MARK}{folder}", None) == models / folder
        assert model_files(f"taste@3{MARK}{folder}", None) == (models / folder / CLASSIFIER_FILE,)


def test_the_embedded_model_is_where_the_rule_says(tmp_path: Path) -> None:
    embedded = tmp_path / "taste"
    embedded.mkdir()
    assert model_path("", embedded) == embedded
    assert model_files("", embedded) == (embedded / CLASSIFIER_FILE,)
    assert model_files("", tmp_path / "model.ftz") == (tmp_path / "model.ftz",)
    with pytest.raises(ValueError, match="there is no embedded model"):
        model_path("", None)


def test_a_model_that_is_not_there_is_told_with_the_command_that_brings_it(tmp_path: Path) -> None:
    models = tmp_path / "my store" / "models"
    reference = f"https://h/lid.bin{MARK}{HASH}"
    with models_in(models), pytest.raises(ValueError) as missing:
        model_path(reference, None)
    command = fetch_command(models, reference)
    assert command == f"tokenmill doctor --store '{tmp_path / 'my store'}' --model '{reference}' --fetch"
    assert str(missing.value).endswith(f"is not in the store; bring it with `{command}`")


@pytest.mark.parametrize("name", [SINGLE_FILE, CLASSIFIER_FILE])
def test_another_file_is_refused_with_both_hashes(tmp_path: Path, name: str) -> None:
    sha256 = put(tmp_path, b"model", name)
    (tmp_path / sha256 / name).write_bytes(b"Model")
    with models_in(tmp_path), pytest.raises(ValueError) as refused:
        model_path(f"/a.ftz{MARK}{sha256}", None)
    assert sha256 in str(refused.value) and hashlib.sha256(b"Model").hexdigest() in str(refused.value)
    (tmp_path / sha256 / name).write_bytes(b"model")  # mended: what was refused once is looked at again
    with models_in(tmp_path):
        assert model_files(f"/a.ftz{MARK}{sha256}", None) == (tmp_path / sha256 / name,)


def test_an_alias_has_to_be_resolved_first(tmp_path: Path) -> None:
    with models_in(tmp_path), pytest.raises(ValueError, match="of no fixed version"):
        model_path("toxicity@champion", None)


def test_models_are_where_the_innermost_block_says_in_this_context_alone(tmp_path: Path) -> None:
    sha256 = put(tmp_path / "a", b"model")
    reference = f"/a.ftz{MARK}{sha256}"
    elsewhere: list[str] = []

    def look() -> None:
        try:
            model_path(reference, None)
        except ValueError as error:
            elsewhere.append(str(error))

    with models_in(tmp_path / "a"):
        with models_in(tmp_path / "b"), pytest.raises(ValueError, match="not in the store"):
            model_path(reference, None)
        with models_in(None):
            assert model_path(reference, None).is_file()
        thread = threading.Thread(target=look)
        thread.start()
        thread.join()
    look()
    assert len(elsewhere) == 2 and all("models_in" in said for said in elsewhere)
