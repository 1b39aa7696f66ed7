"""The formula of a step's memory against every byte that torch hands out during one.

What is asked for is 10 %; one process is off by less than 5 %, several by up to 9 %, where FSDP2's own buffers count.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch.multiprocessing.spawn import spawn

from model.config import DecoderConfig, num_parameters, preset
from model.memory import DeviceMemory, checkpoint_bytes, device_memory, evaluation_memory, optimizer_state_bytes
from model.optimizer import OptimizerKind
from model.parallel import Parallelism
from tests.model.live_bytes import Trained, peak_of, peak_of_training

CONFIG = DecoderConfig(
    vocab_size=1_024, d_model=128, num_layers=4, num_heads=4, num_kv_heads=2, d_ff=320, max_seq_len=128
)
UNTIED = dataclasses.replace(CONFIG, tie_embeddings=False)
WIDE = dataclasses.replace(CONFIG, vocab_size=16_384)
ONE = Parallelism()
RECOMPUTED = Parallelism(activation_checkpointing="block")
LAYOUTS = {
    "data": Parallelism(data=2),
    "data bf16": Parallelism(data=2, bf16=True),
    "sharded": Parallelism(data=2, sharded=True),
    "sharded recomputed": Parallelism(data=2, sharded=True, activation_checkpointing="block"),
    "tensor": Parallelism(tensor=2),
    "tensor bf16": Parallelism(tensor=2, bf16=True),
}


def compared(config: DecoderConfig, layout: Parallelism = ONE, *, sequences: int = 8, **options: Any) -> float:
    """The planned peak as a share of the real one."""
    real = peak_of_training(config, layout, sequences=sequences, **options)
    planned = device_memory(
        config,
        optimizer=options.pop("optimizer", "adamw"),
        microbatch_sequences=sequences,
        seq_len=config.max_seq_len,
        parallelism=layout,
        device_type="cpu",
        **options,
    )
    return planned.peak_bytes / real


@pytest.mark.parametrize(
    ("config", "layout", "options"),
    [
        (CONFIG, ONE, {}),
        (UNTIED, ONE, {}),
        (WIDE, ONE, {"sequences": 2}),  # the loss is the peak, in many slices
        (CONFIG, ONE, {"num_microbatches": 2}),
        (CONFIG, ONE, {"optimizer": "muon"}),
        (CONFIG, ONE, {"document_mask": True}),
        (dataclasses.replace(CONFIG, qk_norm=True), ONE, {}),
        (CONFIG, RECOMPUTED, {}),
        (CONFIG, Parallelism(bf16=True), {}),
        (CONFIG, Parallelism(bf16=True), {"document_mask": True, "num_microbatches": 2}),
        (UNTIED, dataclasses.replace(RECOMPUTED, bf16=True), {"sequences": 16}),
    ],
)
def test_one_process(config: DecoderConfig, layout: Parallelism, options: dict[str, Any]) -> None:
    assert compared(config, layout, **options) == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize(
    ("name", "vocab_size", "sequences"),
    [("smoke", 2_048, 4), ("10m", 8_192, 2), pytest.param("30m", 16_384, 1, marks=pytest.mark.verify)],
)
def test_presets(name: str, vocab_size: int, sequences: int) -> None:
    assert compared(preset(name, vocab_size), sequences=sequences) == pytest.approx(1, abs=0.02)


@pytest.mark.verify
@pytest.mark.parametrize("bf16", [False, True])
def test_compiled(bf16: bool) -> None:
    torch.compiler.reset()
    layout = Parallelism(compile=True, bf16=bf16)
    for config in (CONFIG, dataclasses.replace(CONFIG, qk_norm=True)):
        compared(config, layout)  # compiles
        assert compared(config, layout) == pytest.approx(1, abs=0.05)


def _two_processes(rank: int, folder: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=(folder / "rendezvous").as_uri(), rank=rank, world_size=2)
    shares = {
        f"{name}, {num_microbatches}": compared(CONFIG, layout, num_microbatches=num_microbatches)
        for name, layout in LAYOUTS.items()
        for num_microbatches in ((1,) if layout.bf16 else (1, 2))
    }
    if rank == 0:
        (folder / "shares.json").write_text(json.dumps(shares))
    dist.barrier()
    dist.destroy_process_group()


@pytest.mark.verify
def test_two_processes(tmp_path: Path) -> None:
    spawn(_two_processes, (tmp_path,), nprocs=2)  # type: ignore[no-untyped-call]
    shares = json.loads((tmp_path / "shares.json").read_text())
    assert len(shares) == 10
    off = {name: round(share, 3) for name, share in shares.items() if not 0.9 <= share <= 1.1}
    assert not off


@pytest.mark.parametrize("layout", [ONE, Parallelism(bf16=True)])
@pytest.mark.parametrize("config", [CONFIG, WIDE])
def test_an_evaluation(config: DecoderConfig, layout: Parallelism) -> None:
    trained = Trained(config, layout, sequences=64)
    planned = evaluation_memory(config, optimizer="adamw", batch_tokens=64 * 128, parallelism=layout, device_type="cpu")
    beyond = planned.peak_bytes - planned.gradients_bytes - checkpoint_bytes(config, "adamw")
    assert beyond == pytest.approx(peak_of(trained.evaluate), rel=0.03)
    assert planned.gradients_bytes == 4 * num_parameters(config)


@pytest.mark.parametrize("kind", ["adamw", "muon"])
def test_the_parts_are_those_of_the_network(kind: OptimizerKind) -> None:
    trained = Trained(CONFIG, ONE, optimizer=kind, sequences=1)
    trained.step()
    states = [value for state in trained.optimizer.state.values() for value in state.values() if value.ndim]
    weights = sum(parameter.nbytes for parameter in trained.model.parameters())
    assert sum(value.nbytes for value in states) == optimizer_state_bytes(CONFIG, kind)
    assert checkpoint_bytes(CONFIG, kind) == weights + optimizer_state_bytes(CONFIG, kind)


def test_the_peak_is_the_sum_of_the_parts() -> None:
    memory = DeviceMemory(weights_bytes=1, gradients_bytes=2, optimizer_bytes=3, activations_bytes=4, loss_bytes=5)
    assert memory.peak_bytes == 15
    assert memory.parts() == {"weights": 1, "gradients": 2, "optimizer": 3, "activations": 4, "loss": 5}


def planned(layout: Parallelism, device_type: str = "cuda", **options: Any) -> DeviceMemory:
    arguments: dict[str, Any] = {"optimizer": "adamw", "microbatch_sequences": 8, "seq_len": 2_048, **options}
    return device_memory(preset("1b", 50_304), parallelism=layout, device_type=device_type, **arguments)


def test_what_is_meant_to_save_memory_does() -> None:
    plain = planned(Parallelism(bf16=True)).peak_bytes
    assert planned(Parallelism(bf16=True, compile=True)).peak_bytes < plain
    assert planned(Parallelism(bf16=True, activation_checkpointing="block")).peak_bytes < plain / 2
    assert planned(Parallelism(bf16=True), microbatch_sequences=4).peak_bytes < plain
    sharded = planned(Parallelism(bf16=True, data=8, sharded=True))
    assert sharded.peak_bytes < planned(Parallelism(bf16=True, data=8)).peak_bytes
    assert sharded.optimizer_bytes == pytest.approx(planned(Parallelism()).optimizer_bytes / 8, rel=0.01)
    assert planned(Parallelism(), optimizer="muon").optimizer_bytes < planned(Parallelism()).optimizer_bytes
