"""Folders on a file system and on an object store behave alike, and a training of one process runs on either."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from tasks.checkpoints import Checkpointer, copy_for_use, latest_checkpoint, load_decoder
from tasks.checkpoints.places import LocalPlace, Place, place
from tests.tasks.checkpoints.tiny_training import advance, assert_equal, built, everything, state_at, trained
from tests.tasks.s3_server import objects, s3_server


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    with s3_server() as address:
        yield address


@pytest.fixture(params=["file system", "s3"])
def address(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A folder that is not there yet."""
    if request.param == "file system":
        return str(tmp_path / "runs" / "checkpoints")
    return f"{request.getfixturevalue('bucket')}/{uuid.uuid4().hex}/checkpoints"


@pytest.fixture
def folder(address: str) -> Place:
    return place(address)


def test_nothing_is_in_a_folder_that_is_not_there(folder: Place):
    assert folder.names() == []
    assert folder.sizes_bytes() == {}
    assert folder.read("state.json") is None
    folder.remove_file("state.json")
    folder.remove()


def test_what_is_written_is_there(folder: Place, tmp_path: Path):
    child = folder.child("step-00000001")
    assert child.address == f"{folder.address}/step-00000001"
    for content in (b"first", b"second, longer"):
        child.write("state.json", content)
        assert child.read("state.json") == content
    with child.writing("model.safetensors") as file:
        file.write_bytes(b"weights" * 1000)
    assert child.sizes_bytes() == {"model.safetensors": 7000, "state.json": 14}
    assert child.names() == ["model.safetensors", "state.json"]
    assert folder.names() == ["step-00000001"]
    assert folder.sizes_bytes() == {}
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    assert child.fetched("model.safetensors", scratch).read_bytes() == b"weights" * 1000
    child.remove_file("state.json")
    assert child.names() == ["model.safetensors"]
    child.remove()
    assert folder.names() == []


def test_a_training_goes_on_bit_for_bit(address: str, tmp_path: Path):
    training = trained(1)
    with Checkpointer(address, *training, keep=1) as checkpoints:
        place(address).child("step-00000003").child("cut").write("model.safetensors", b"")
        place(address).child("step-00000001").write("model.safetensors", b"killed")
        checkpoints.start()
        for step in (1, 2):
            saved = checkpoints.save(state_at(step))
        expected = [advance(*training) for _ in range(2)]
    assert place(address).names() == ["step-00000002", "step-00000003"]  # the last is none of ours
    other = built(9)
    again = Checkpointer(address, *other, keep=1)
    assert again.latest() == latest_checkpoint(address) == saved == f"{address}/step-00000002"
    assert again.load(saved) == state_at(2)
    assert [advance(*other) for _ in range(2)] == expected
    assert_equal(everything(*other), everything(*training))
    copy_for_use(saved, tmp_path)
    assert load_decoder(tmp_path)[1] == load_decoder(saved)[1] == state_at(2)
    again.discard_after(0)
    assert place(address).names() == ["step-00000003"]


def test_damage_on_an_object_store_is_found(bucket: str):
    address = f"{bucket}/{uuid.uuid4().hex}"
    training = trained(1)
    checkpoints = Checkpointer(address, *training, keep=2)
    saved = checkpoints.save(state_at(1), wait=True)
    content = bytearray(objects(address)["step-00000001/model.safetensors"])
    content[-5] ^= 1
    with place(saved).writing("model.safetensors") as file:
        file.write_bytes(content)
    with pytest.raises(ValueError, match=r"step-00000001/model\.safetensors is damaged"):
        checkpoints.load(saved)
    place(saved).remove_file("optimizer.safetensors")
    assert checkpoints.latest() is None


def test_a_bucket_that_is_not_there_is_an_error_in_one_line(bucket: str):
    address = f"s3://missing-{uuid.uuid4().hex}/checkpoints"
    checkpoints = Checkpointer(address, *trained(1), keep=1)
    with pytest.raises(ValueError, match="NoSuchBucket") as caught:
        checkpoints.start()
    assert "\n" not in str(caught.value)
    checkpoints.save(state_at(1))
    with pytest.raises(ValueError, match=r"saving s3://missing.* failed: .*NoSuchBucket"):
        checkpoints.finish()


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("https://example.org/checkpoints", "can't be kept at"),
        ("s3://", "can't be kept at"),
        ("moon://bucket/checkpoints", "moon"),
        ("s3://key:secret@bucket/checkpoints", "credentials in its address"),
        ("ftp://nowhere.invalid/checkpoints", "ftp://nowhere.invalid/checkpoints"),
    ],
)
def test_an_address_that_can_not_be_one_is_refused_without_secrets(address: str, message: str):
    with pytest.raises(ValueError, match=message) as caught:
        place(address)
    assert "secret" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_url_is_a_path(tmp_path: Path):
    found = place(f"file://{tmp_path}")
    assert isinstance(found, LocalPlace)
    assert found.address == str(tmp_path)
