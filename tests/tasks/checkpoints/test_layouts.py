"""Several processes: what any layout wrote, any other reads, tensor for tensor; and one process's failure is all's.

Two processes are started once for the tests of two. Those with four, which take longer, are for `make verify`: first
two of them are a training, then all four are one, then two again. What they find is told by the tests. One process
writes before and reads afterwards.
"""

from __future__ import annotations

import datetime
import json
import math
import os
import resource
import signal
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.distributed.checkpoint import HuggingFaceStorageReader, load
from torch.distributed.tensor import DTensor
from torch.multiprocessing.spawn import spawn

import tasks.checkpoints.checkpointer
from model.optimizer import OptimizerKind
from model.parallel import Parallelism
from tasks.checkpoints import Checkpointer, complete_checkpoints, copy_for_use, load_decoder
from tasks.checkpoints.processes import LostProcessError, Processes
from tests.tasks.checkpoints.tiny_training import (
    Training,
    advance,
    assert_equal,
    built,
    everything,
    state_at,
    trained,
)
from tests.tasks.s3_server import s3_server

LAYOUTS: Mapping[str, Parallelism] = {
    "one": Parallelism(),
    "dp 2": Parallelism(data=2),
    "fsdp 2": Parallelism(data=2, sharded=True),
    "tp 2": Parallelism(tensor=2),
    "fsdp 4": Parallelism(data=4, sharded=True),
    "tp 2 x dp 2": Parallelism(data=2, tensor=2),
    "tp 2 x fsdp 2": Parallelism(data=2, tensor=2, sharded=True),
}
TIME_LIMIT_S = 300


def checkpointer(location: str | Path, training: Training, keep: int = 9) -> Checkpointer:
    world_size = dist.get_world_size() if dist.is_initialized() else 1
    rank = dist.get_rank() if dist.is_initialized() else 0
    return Checkpointer(location, *training, keep=keep, rank=rank, world_size=world_size)


def write(folder: Path, name: str, kind: OptimizerKind) -> None:
    """Train, save beside what was saved, train on: a new network that loads draws the same losses, bit for bit."""
    training = trained(1, kind, parallelism=LAYOUTS[name])
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
    """A checkpoint of another layout, loaded by a new network, and, as in a rollback, by one that has trained."""
    expected = load_file(folder / f"{written_by} {kind}.safetensors")
    training = built(5, kind, parallelism=LAYOUTS[name])
    checkpoints = checkpointer(folder / f"{written_by} {kind}", training)
    newest = checkpoints.latest()
    assert newest is not None
    for _ in range(2):
        checkpoints.load(newest)
        assert_equal(everything(*training), expected)
        advance(*training)


def check_not_finite(folder: Path) -> None:
    """What one process alone holds is refused by all."""
    training = trained(1, parallelism=LAYOUTS["fsdp 2"])
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
    training = trained(1, parallelism=LAYOUTS["fsdp 2"])
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
    training = trained(1, parallelism=LAYOUTS["fsdp 2"])
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
    training = trained(1, parallelism=LAYOUTS["fsdp 2"])
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
    training = trained(1, parallelism=LAYOUTS["fsdp 2"])
    checkpoints = checkpointer(folder / "killed", training)
    if dist.get_rank() == 1:
        tasks.checkpoints.checkpointer.write_pieces = lambda *_: os.kill(os.getpid(), signal.SIGKILL)  # type: ignore[assignment,return-value]
    checkpoints.save(state_at(1, world_size=2))
    with pytest.raises(LostProcessError, match="another process of the training is gone"):
        checkpoints.finish()
    assert complete_checkpoints(folder / "killed") == []


Check = Callable[[Path], None]


def writing(names: str) -> dict[str, Check]:
    """ "fsdp 2 muon, tp 2 adamw": each layout and optimizer writes."""
    checks: dict[str, Check] = {}
    for each in names.split(", "):
        name, kind = taken_apart(each)
        checks[f"write {each}"] = partial(write, name=name, kind=kind)
    return checks


def reading(pairs: str) -> dict[str, Check]:
    """ "fsdp 2 > tp 2 muon": what the first has written the second reads."""
    checks: dict[str, Check] = {}
    for each in pairs.split(", "):
        writer, _, reader = each.partition(" > ")
        name, kind = taken_apart(reader)
        checks[f"read {each}"] = partial(read, written_by=writer, name=name, kind=kind)
    return checks


def taken_apart(pair: str) -> tuple[str, OptimizerKind]:
    name, _, kind = pair.rpartition(" ")
    return name, "muon" if kind == "muon" else "adamw"


OF_TWO = "dp 2 adamw, dp 2 muon, fsdp 2 adamw, fsdp 2 muon, tp 2 adamw, tp 2 muon"
OF_FOUR = "fsdp 4 adamw, tp 2 x dp 2 adamw, tp 2 x fsdp 2 adamw, tp 2 x fsdp 2 muon"
PHASES: Mapping[str, list[tuple[int, dict[str, Check]]]] = {
    "two": [
        (
            2,
            writing(OF_TWO)
            | reading("one > dp 2 adamw, one > fsdp 2 muon, one > tp 2 adamw, dp 2 > fsdp 2 adamw, tp 2 > dp 2 muon")
            | reading("fsdp 2 > tp 2 adamw, fsdp 2 > tp 2 muon, tp 2 > fsdp 2 adamw, tp 2 > fsdp 2 muon")
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
        )
    ],
    "four": [
        (2, writing("fsdp 2 adamw, tp 2 muon")),
        (
            4,
            writing(OF_FOUR)
            | reading("one > fsdp 4 adamw, one > tp 2 x fsdp 2 muon, fsdp 2 > tp 2 x dp 2 adamw, fsdp 2 > fsdp 4 adamw")
            | reading("tp 2 > tp 2 x fsdp 2 muon, fsdp 4 > tp 2 x fsdp 2 adamw, tp 2 x fsdp 2 > fsdp 4 adamw"),
        ),
        (
            2,
            reading("fsdp 4 > fsdp 2 adamw, fsdp 4 > tp 2 adamw, tp 2 x dp 2 > fsdp 2 adamw, tp 2 x fsdp 2 > dp 2 muon")
            | reading("tp 2 x fsdp 2 > tp 2 adamw, tp 2 x fsdp 2 > fsdp 2 muon"),
        ),
    ],
}


def run_phases(rank: int, folder: Path, processes: str) -> None:
    torch.set_num_threads(1)
    limit = datetime.timedelta(seconds=60)
    for number, (size, checks) in enumerate(PHASES[processes]):
        if rank >= size:
            continue
        store = f"file://{folder}/store-{number}"
        dist.init_process_group("gloo", init_method=store, rank=rank, world_size=size, timeout=limit)
        for name, check in checks.items():
            try:
                check(folder)
                found = ""
            except Exception:  # told by the test of its name
                found = traceback.format_exc()
            (folder / f"{name}-{rank}.json").write_text(json.dumps(found))
        if "check_killed_writer" not in checks:  # it leaves one process
            dist.barrier()
            dist.destroy_process_group()


@contextmanager
def checked(folder: Path, processes: str) -> Iterator[Path]:
    """The folder in which so many processes have written and read."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    write(folder, "one", "adamw")
    write(folder, "one", "muon")
    with s3_server() as bucket:
        (folder / "s3.txt").write_text(bucket)
        num_processes = max(size for size, _ in PHASES[processes])
        context = spawn(run_phases, (folder, processes), num_processes, join=False)  # type: ignore[no-untyped-call]
        try:
            for process in context.processes:  # not `context.join`: one of them is killed on purpose
                process.join(TIME_LIMIT_S)
        finally:
            for process in context.processes:
                process.kill()
        (folder / "ended.json").write_text(json.dumps([process.exitcode for process in context.processes]))
    yield folder
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with checked(tmp_path_factory.mktemp("two"), "two") as folder:
        yield folder


@pytest.fixture(scope="module")
def four(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with checked(tmp_path_factory.mktemp("four"), "four") as folder:
        yield folder


def assert_passed(folder: Path, name: str, num_processes: int) -> None:
    for rank in range(num_processes):
        file = folder / f"{name}-{rank}.json"
        assert file.is_file(), (
            f"process {rank} did not get to {name}; they ended with {(folder / 'ended.json').read_text()}"
        )
        found = json.loads(file.read_bytes())
        assert found == "", f"process {rank}: {found}"


@pytest.mark.parametrize("name", PHASES["two"][0][1])
def test_two_processes(two: Path, name: str):
    assert_passed(two, name, 1 if name == "check_killed_writer" else 2)


@pytest.mark.verify
@pytest.mark.parametrize(("size", "name"), [(size, name) for size, checks in PHASES["four"] for name in checks])
def test_two_and_four_processes(four: Path, size: int, name: str):
    assert_passed(four, name, size)


@pytest.mark.parametrize("pair", OF_TWO.split(", "))
def test_one_process_goes_on_with_what_two_wrote(two: Path, pair: str):
    name, kind = taken_apart(pair)
    read(two, name, "one", kind)


@pytest.mark.verify
@pytest.mark.parametrize("pair", OF_FOUR.split(", "))
def test_one_process_goes_on_with_what_four_wrote(four: Path, pair: str):
    name, kind = taken_apart(pair)
    read(four, name, "one", kind)


@pytest.mark.parametrize("pair", ["one adamw", *OF_TWO.split(", ")])
def test_the_network_alone_comes_from_any(two: Path, tmp_path: Path, pair: str):
    expected = load_file(two / f"{pair}.safetensors")
    (saved,) = complete_checkpoints(two / pair)
    copy_for_use(saved, tmp_path)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["model.safetensors", "state.json"]
    plain = load_file(tmp_path / "model.safetensors")  # no reader of ours
    for where in (saved, tmp_path):
        model, state = load_decoder(where)
        assert state.good
        assert_equal(dict(model.state_dict()), {weight: expected[weight] for weight in plain})


@pytest.mark.parametrize(("name", "num_files"), [("dp 2", 1), ("fsdp 2", 2), ("tp 2", 2)])
def test_what_several_processes_hold_is_written_once(two: Path, name: str, num_files: int):
    (saved,) = complete_checkpoints(two / f"{name} adamw")
    files = sorted(Path(saved).glob("model*.safetensors"))
    assert len(files) == num_files
    assert (num_files == 1) == (files[0].name == "model.safetensors")
    stored = sum(tensor.numel() for file in files for tensor in load_file(file).values())
    assert stored == sum(parameter.numel() for parameter in built(0)[0].parameters())


def torchs_reading(saved: str, names: Iterable[str], expected: dict[str, Tensor]) -> dict[str, Tensor]:
    found = {name: torch.full_like(expected[name], torch.nan) for name in names}
    load(found, storage_reader=HuggingFaceStorageReader(saved), no_dist=True)
    return found


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
@pytest.mark.parametrize("pair", ["one adamw", "fsdp 2 adamw", "tp 2 muon"])
def test_torchs_own_reader_reads_them(two: Path, pair: str):
    expected = load_file(two / f"{pair}.safetensors")
    (saved,) = complete_checkpoints(two / pair)
    assert_equal(torchs_reading(saved, expected, expected), expected)


@pytest.mark.verify
@pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
def test_torchs_own_reader_reads_what_four_wrote(four: Path):
    """Over 4 processes the embedding's 66 rows are 17, 17, 17 and 15; tensor and data parallel both cut rows."""
    for pair in OF_FOUR.split(", "):
        expected = load_file(four / f"{pair}.safetensors")
        (saved,) = complete_checkpoints(four / pair)
        assert_equal(torchs_reading(saved, expected, expected), expected)
