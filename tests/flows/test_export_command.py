"""`tokenmill export`: a model by any of its names to a folder, or one line that says why not."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from flows.arguments import parser
from flows.export_command import export
from flows.user_error import user_line
from infra.mlflow_tracker import tracked_run
from infra.registry import register_model
from tasks.export.passages import PASSAGES
from tasks.pack import TokenShards
from tasks.store import Store
from tasks.tokenizer import TOKENIZER_FILE, tokenizer_hash
from tests.infra.small_model import CORPUS_DIGEST, small_model
from tests.infra.small_training import write_tokens
from tests.model.reference_networks import random_decoder
from tests.tasks.export.exportable import SHAPE, checkpoint


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """With a champion, `known@1`, and its checkpoint."""
    with pytest.MonkeyPatch.context() as patched:
        patched.delenv("MLFLOW_TRACKING_URI", raising=False)
        store = Store.open(tmp_path_factory.mktemp("store"))
        (store.root / "mlflow" / "artifacts").mkdir(parents=True)
        checkpoint, tokenizer = small_model(store.tokens / "trained")
        with tracked_run(store, "pretrain known", tags={}) as tracker:
            tracker.dataset("web@3", CORPUS_DIGEST, store.root, context="training")
            register_model(
                store,
                tracker,
                name="known",
                checkpoint=checkpoint,
                tokenizer_file=tokenizer,
                tags={"corpus": "web@3", "corpus_digest": CORPUS_DIGEST},
                description="A model *called* known.",
                step=2,
            )
        return store


def run(*arguments: str, store: Store) -> int:
    return export(parser().parse_args(["export", *arguments]), store)


def checkpoint_of(store: Store) -> Path:
    (found,) = store.tokens.glob("trained/checkpoints/step-*")
    return found


@pytest.mark.parametrize("name", ["known@1", "models:/known@champion", "folder", "url"])
def test_each_name_of_a_model_is_exported(
    store: Store, tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = checkpoint_of(store)
    model = {"folder": str(checkpoint), "url": f"file://{checkpoint}"}.get(name, name)
    out = tmp_path / "models" / "out"
    assert run("--model", model, "--output", str(out), "--json", store=store) == 0
    printed = capsys.readouterr()
    result = json.loads(printed.out.splitlines()[-1])
    assert result["path"] == str(out) and result["proof"]["texts"] == len(PASSAGES)
    assert "no held-out text to compare on" in printed.err  # of a corpus that this store never had
    assert {"config.json", "model.safetensors", "tokenizer.json", "README.md"} <= {file.name for file in out.iterdir()}
    card = (out / "README.md").read_text()
    if model == name:
        assert "# known@1\n" in card and "A model *called* known." in card
    else:
        assert "# step-00000002\n" in card.replace("\\", "") and "The model" not in card
    assert str(store.root) not in card


def test_held_out_text_of_its_own_corpus_is_what_it_is_proven_on(tmp_path: Path) -> None:
    store = Store.open(tmp_path / "store")
    write_tokens(tmp_path / "made", 160)
    tokens = store.tokens / "c0ffee-some"
    shutil.copytree(tmp_path / "made" / "tokens", tokens)
    shutil.copy(tmp_path / "made" / TOKENIZER_FILE, tokens)
    model, _ = checkpoint(tmp_path, random_decoder(SHAPE))
    state_file = Path(model, "state.json")
    body = json.loads(state_file.read_text())
    body["state"] |= {
        "corpus_digest": "c0ffee",
        "tokens_digests": [TokenShards(tokens, "held_out").digest],
        "tokenizer_sha256": tokenizer_hash(tokens / TOKENIZER_FILE),
    }
    state_file.write_text(json.dumps(body))
    out = tmp_path / "out"
    assert run("--model", model, "--output", str(out), store=store) == 0
    assert json.loads((out / "proof.json").read_text())["texts"] == len(PASSAGES) + 8
    assert "8 held-out documents of the corpus with the digest c0ffee and passages" in (out / "README.md").read_text()


@pytest.mark.parametrize(
    ("model", "harm", "said"),
    [
        ("absent", "", "there is no model 'absent'"),
        ("known@7", "", "there is no model 'known@7'"),
        ("known@1", "folder", "is there already: name another folder"),
        ("checkpoint", "unfinished", "is no complete checkpoint"),
        ("checkpoint", "damaged", "is damaged"),
    ],
)
def test_what_can_not_be_exported_is_said_in_one_line(
    store: Store, tmp_path: Path, model: str, harm: str, said: str
) -> None:
    out = tmp_path / "out"
    if harm == "folder":
        out.mkdir()
    if model == "checkpoint":
        copy = tmp_path / "step-00000002"
        shutil.copytree(checkpoint_of(store), copy)
        if harm == "unfinished":
            (copy / "state.json").unlink()
        else:
            content = bytearray((copy / "model.safetensors").read_bytes())
            content[-1] ^= 1
            (copy / "model.safetensors").write_bytes(content)
        model = str(copy)
    with pytest.raises((ValueError, OSError)) as refused:
        run("--model", model, "--output", str(out), store=store)
    line = user_line(refused.value)
    assert line is not None and said in line
    assert not out.exists() or harm == "folder"


@pytest.mark.parametrize(
    ("output", "said"),
    [("/proc/x", "no folder can be made in /proc ("), ("small", "MB and 3 MB are free in ")],
)
def test_no_place_for_it_is_said_with_what_helps(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, output: str, said: str
) -> None:
    if output == "small":
        usage = shutil.disk_usage(tmp_path)
        monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=3_000_000))
    with pytest.raises(ValueError, match="--output") as refused:
        run("--model", "known@1", "--output", str(tmp_path / output), store=store)  # an absolute one stays
    line = user_line(refused.value)
    assert line is not None and said in line and "--store" not in line


def test_a_signal_to_stop_leaves_nothing(store: Store, tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    model = ["--model", str(checkpoint_of(store)), "--output", str(tmp_path / "models" / "out")]
    process = subprocess.Popen(
        [sys.executable, "-c", "from flows.cli import main; main()", "export", "--store", str(store.root), *model],
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stderr is not None
        said = next(line for line in process.stderr if "loading the export" in line)  # its folder is there by then
        (unfinished,) = (tmp_path / "models").iterdir()
        assert unfinished.name.startswith(".tmp-out-export-"), said
        process.send_signal(signal.SIGTERM)
        assert "interrupted" in process.stderr.read()
        assert process.wait(30) == 130
    finally:
        process.kill()
        process.wait()
    assert not list((tmp_path / "models").iterdir())


def test_another_format_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        parser().parse_args(["export", "--model", "m", "--output", "o", "--format", "gguf"])
    assert ended.value.code == 2 and "invalid choice: 'gguf'" in capsys.readouterr().err
