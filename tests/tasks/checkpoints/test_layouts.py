"""Several processes: what any layout wrote, any other reads, tensor for tensor; and one process's failure is all's.

Four processes are started once. First two of them are a training of two, then all four are one, then two again, each
with a process group of its own; what they find is told by the tests. One process writes before and reads afterwards.
"""

from __future__ import annotations

import datetime
import json
import math
import os
import resource
import signal
import traceback
from collections.abc import Callable, Iterator, Mapping
from itertools import product
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file, save_file
from torch.distributed.checkpoint import HuggingFaceStorageReader, load
from torch.distributed.tensor import DTensor
from torch.multiprocessing.spawn import spawn

import tasks.checkpoints.checkpointer
from model.optimizer import OptimizerKind
from model.parallel import Parallelism
from tasks.checkpoints import Checkpointer, complete_checkpoints, copy_for_use, load_decoder
from tasks.checkpoints.processes import Processes
from tests.tasks.checkpoints.tiny_training import (
    SHAPE,
    Training,
    advance,
    assert_equal,
    built,
    everything,
    state_at,
    trained,
)
from tests.tasks.s3_server import s3_server

KINDS: tuple[OptimizerKind, ...] = ("adamw", "muon")
LAYOUTS: Mapping[str, Parallelism] = {
    "one": Parallelism(),
    "dp 2": Parallelism(data=2),
    "fsdp 2": Parallelism(data=2, sharded=True),
    "tp 2": Parallelism(tensor=2),
    "fsdp 4": Parallelism(data=4, sharded=True),
    "tp 2 x dp 2": Parallelism(data=2, tensor=2),
    "tp 2 x fsdp 2": Parallelism(data=2, tensor=2, sharded=True),
}
PAIRS = [f"{name} {kind}" for name, kind in product(LAYOUTS, KINDS)]
OF_TWO = [name for name, layout in LAYOUTS.items() if layout.world_size == 2]
OF_FOUR = [name for name, layout in LAYOUTS.items() if layout.world_size == 4]
TIME_LIMIT_S = 150


def training_of(name: str, kind: OptimizerKind, seed: int = 1, steps: int = 2) -> Training:
    return trained(seed, kind, steps=steps, parallelism=LAYOUTS[name])


def checkpointer(location: str | Path, training: Training, keep: int = 9) -> Checkpointer:
    world_size = dist.get_world_size() if dist.is_initialized() else 1
    rank = dist.get_rank() if dist.is_initialized() else 0
    return Checkpointer(location, *training, keep=keep, rank=rank, world_size=world_size)


def write(folder: Path, name: str, kind: OptimizerKind) -> None:
    """Train, save beside what was saved, train on: a new network that loads draws the same losses, bit for bit."""
    training = training_of(name, kind)
    world_size = LAYOUTS[name].world_size
    with checkpointer(folder / f"{name} {kind}", training) as checkpoints:
        checkpoints.start()
        assert checkpoints.latest() is None
        expected = everything(*training)
        saved = checkpoints.save(state_at(2, world_size=world_size))
        losses = [advance(*training) for _ in range(2)]
    if checkpoints._is_first:
        save_file(expected, folder / f"{name} {kind}.safetensors")
    other = built(9, kind, parallelism=LAYOUTS[name])
    assert checkpointer(folder / f"{name} {kind}", other).load(saved) == state_at(2, world_size=world_size)
    assert_equal(everything(*other), expected)
    assert [advance(*other) for _ in range(2)] == losses
    assert_equal(everything(*other), everything(*training))


def read(folder: Path, written_by: str, name: str, kind: OptimizerKind) -> None:
    """A checkpoint of another layout, loaded: by a new network, and by one that has trained."""
    expected = load_file(folder / f"{written_by} {kind}.safetensors")
    for steps in (0, 1):
        training = training_of(name, kind, seed=5, steps=steps)
        checkpoints = checkpointer(folder / f"{written_by} {kind}", training)
        newest = checkpoints.latest()
        assert newest is not None
        checkpoints.load(newest)
        assert_equal(everything(*training), expected)
        advance(*training)  # the optimizer takes its state


def check_not_finite(folder: Path) -> None:
    """What one process alone holds is refused by all."""
    training = training_of("fsdp 2", "adamw")
    checkpoints = checkpointer(folder / "nan", training)
    checkpoints.save(state_at(1, world_size=2))
    weight = training[0].blocks[0].feed_forward.down.weight  # type: ignore[union-attr]
    assert isinstance(weight, DTensor)
    if dist.get_rank() == 1:
        with torch.no_grad():
            weight.to_local()[0, 0] = math.nan
    with pytest.raises(ValueError, match=r"blocks\.0\.feed_forward\.down\.weight is not finite after step 2"):
        checkpoints.save(state_at(2, world_size=2))
    dist.barrier()
    assert complete_checkpoints(folder / "nan") == [str(folder / "nan" / "step-00000001")]


def check_failed_write(folder: Path) -> None:
    """The second process can't write: an error in both, no checkpoint, and garbage that goes."""
    training = training_of("fsdp 2", "adamw")
    checkpoints = checkpointer(folder / "full", training)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    if dist.get_rank() == 1:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    checkpoints.save(state_at(1, world_size=2))
    with pytest.raises(ValueError, match=r"saving .*step-00000001 failed: .*File too large"):
        checkpoints.finish()
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert (folder / "full" / "step-00000001").is_dir()
    assert checkpoints.latest() is None
    checkpoints.start()
    assert list((folder / "full").iterdir()) == []
    checkpoints.save(state_at(1, world_size=2), wait=True)
    assert checkpoints.latest() == str(folder / "full" / "step-00000001")


def check_damaged(folder: Path) -> None:
    """One process's damaged file is an error in both."""
    training = training_of("fsdp 2", "adamw")
    checkpoints = checkpointer(folder / "damaged", training)
    saved = checkpoints.save(state_at(1, world_size=2), wait=True)
    file = Path(saved, "optimizer-00002-of-00002.safetensors")
    if dist.get_rank() == 0:
        content = bytearray(file.read_bytes())
        content[-3] ^= 1
        file.write_bytes(content)
    dist.barrier()
    with pytest.raises(ValueError, match=r"optimizer-00002-of-00002\.safetensors is damaged"):
        checkpoints.load(saved)


def check_object_store(folder: Path) -> None:
    """The same on S3."""
    location = (folder / "s3.txt").read_text() + "/runs/a"
    training = training_of("fsdp 2", "adamw")
    with checkpointer(location, training, keep=1) as checkpoints:
        checkpoints.start()
        checkpoints.save(state_at(1, world_size=2))
        saved = checkpoints.save(state_at(2, world_size=2))
        losses = [advance(*training) for _ in range(2)]
    other = built(9, parallelism=LAYOUTS["fsdp 2"])
    checkpoints = checkpointer(location, other)
    assert saved == checkpoints.latest() == f"{location}/step-00000002"
    checkpoints.load(saved)
    assert [advance(*other) for _ in range(2)] == losses


def check_speech(folder: Path) -> None:
    """What processes tell each other is of any length."""
    processes = Processes(dist.get_rank(), 2)
    for texts in (["", ""], ["", "Größe"], ["a" * 70_000, ""]):
        assert processes.gather(texts[dist.get_rank()]) == texts
    assert processes.together(dist.get_rank) == dist.get_rank()


def check_killed_writer(folder: Path) -> None:
    """The second process dies while it writes: the first is told, and there is no checkpoint. It is the last check."""
    training = training_of("fsdp 2", "adamw")
    checkpoints = checkpointer(folder / "killed", training)
    if dist.get_rank() == 1:
        tasks.checkpoints.checkpointer.write_pieces = lambda *_: os.kill(os.getpid(), signal.SIGKILL)  # type: ignore[assignment,return-value]
    checkpoints.save(state_at(1, world_size=2))
    with pytest.raises(ValueError, match=r"saving .*step-00000001 failed"):
        checkpoints.finish()
    assert complete_checkpoints(folder / "killed") == []


Phase = Mapping[str, Callable[[Path], None]]


def writing(names: list[str]) -> Phase:
    return {
        f"write {name} {kind}": lambda folder, name=name, kind=kind: write(folder, name, kind)
        for name, kind in product(names, KINDS)
    }


def reading(writers: list[str], readers: list[str]) -> Phase:
    return {
        f"read {writer} as {reader} {kind}": lambda folder, w=writer, r=reader, kind=kind: read(folder, w, r, kind)
        for writer, reader, kind in product(writers, readers, KINDS)
        if writer != reader
    }


PHASES: list[tuple[int, Phase]] = [
    (2, writing(OF_TWO) | reading(["one", *OF_TWO], OF_TWO)),
    (4, writing(OF_FOUR) | reading(["one", *OF_TWO, *OF_FOUR], OF_FOUR)),
    (
        2,
        reading(OF_FOUR, OF_TWO)
        | {
            check.__name__: check
            for check in (
                check_speech,
                check_not_finite,
                check_failed_write,
                check_damaged,
                check_object_store,
                check_killed_writer,
            )
        },
    ),
]
CHECKS = {name: size for size, phase in PHASES for name in phase}


def run_phases(rank: int, folder: Path) -> None:
    torch.set_num_threads(1)
    limit = datetime.timedelta(seconds=60)
    for number, (size, phase) in enumerate(PHASES):
        if rank >= size:
            continue
        store = f"file://{folder}/store-{number}"
        dist.init_process_group("gloo", init_method=store, rank=rank, world_size=size, timeout=limit)
        for name, check in phase.items():
            try:
                check(folder)
                found = ""
            except Exception:  # told by the test of its name
                found = traceback.format_exc()
            (folder / f"{name}-{rank}.json").write_text(json.dumps(found))
        if number < len(PHASES) - 1:  # of the last phase one process is left
            dist.barrier()
            dist.destroy_process_group()
    os._exit(0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("layouts")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    for kind in KINDS:
        write(folder, "one", kind)
    with s3_server() as bucket:
        (folder / "s3.txt").write_text(bucket)
        context = spawn(run_phases, (folder,), 4, join=False)  # type: ignore[no-untyped-call]
        try:
            for process in context.processes:  # one of them is killed on purpose
                process.join(TIME_LIMIT_S)
        finally:
            for process in context.processes:
                process.kill()
    yield folder
    torch.set_num_threads(threads)


@pytest.mark.parametrize("name", CHECKS)
def test_several_processes(folder: Path, name: str):
    for rank in range(1 if name == "check_killed_writer" else CHECKS[name]):
        file = folder / f"{name}-{rank}.json"
        assert file.is_file(), f"process {rank} did not get to {name}"
        found = json.loads(file.read_bytes())
        assert found == "", f"process {rank}: {found}"


@pytest.mark.parametrize("name", PAIRS)
def test_one_process_goes_on_with_any(folder: Path, name: str):
    writer, _, kind = name.rpartition(" ")
    assert kind in KINDS
    read(folder, writer, "one", kind)


@pytest.mark.parametrize("name", PAIRS)
def test_the_network_alone_comes_from_any(folder: Path, tmp_path: Path, name: str):
    expected = load_file(folder / f"{name}.safetensors")
    (saved,) = complete_checkpoints(folder / name)
    copy_for_use(saved, tmp_path)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["model.safetensors", "state.json"]
    plain = load_file(tmp_path / "model.safetensors")  # no reader of ours
    for where in (saved, tmp_path):
        model, state = load_decoder(where)
        assert state.good
        assert_equal(dict(model.state_dict()), {weight: expected[weight] for weight in plain})


@pytest.mark.parametrize(("name", "num_files"), [("dp 2", 1), ("fsdp 2", 2), ("tp 2", 2), ("tp 2 x dp 2", 2)])
def test_what_several_processes_hold_is_written_once(folder: Path, name: str, num_files: int):
    (saved,) = complete_checkpoints(folder / f"{name} adamw")
    files = sorted(Path(saved).glob("model*.safetensors"))
    assert len(files) == num_files
    assert (num_files == 1) == (files[0].name == "model.safetensors")
    stored = sum(tensor.numel() for file in files for tensor in load_file(file).values())
    assert stored == sum(parameter.numel() for parameter in built(0)[0].parameters())


@pytest.mark.parametrize("name", ["one adamw", "fsdp 2 adamw", "tp 2 x fsdp 2 muon"])
def test_torchs_own_reader_reads_them(folder: Path, name: str):
    expected = load_file(folder / f"{name}.safetensors")
    (saved,) = complete_checkpoints(folder / name)
    found = {weight: torch.full_like(expected[weight], torch.nan) for weight in built(0)[0].state_dict()}
    load(found, storage_reader=HuggingFaceStorageReader(saved), no_dist=True)
    assert_equal(found, {weight: expected[weight] for weight in found})
    assert SHAPE.vocab_size % 4, "so that not every process has as many rows"
