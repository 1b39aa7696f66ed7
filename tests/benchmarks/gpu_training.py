"""Training steps on one GPU: are they right, how fast, and what do they hold; one call, torch only, under 8 minutes.

    python -m tests.benchmarks.gpu_training [--presets 124m 1b] [--rounds 7] [--limit-s 420]

First it checks on the device what tests cannot check on a CPU (`gpu_checks`). Then, for each preset at sequences of
2,048 tokens: whole steps (forward, loss, backward, fused AdamW) under bf16 autocast, compiled, of our network, with and
without a mask for packed documents, of a plain torch Llama and, where it imports, of `transformers`' Llama, from the
same weights with the same batches. They take turns; medians. Model FLOPs utilisation is `model.flops`', and the peak of
memory stands beside the plan of `model.memory`.
Without a GPU it does all of that with a tiny shape, not compiled, which is how it is tested, and says so.
Exits with 1 where a check fails; a target that is missed is said and fails nothing.
"""

from __future__ import annotations

import argparse
import gc
import importlib.util
import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from model.config import PRESETS, DecoderConfig, preset
from model.decoder import Decoder
from model.flops import device_peak_flop_per_s, model_flops_utilisation
from model.memory import device_memory
from model.parallel import Parallelism, parallelize
from tests.benchmarks.gpu_checks import Check, plain_llama_like, run_checks
from tests.benchmarks.plain_llama import fused_adamw
from tests.benchmarks.report import report
from tests.model.reference_networks import reference_network

STEPS_PER_TURN = 4
WARMUP_STEPS = 3
MOST_DIFFERENT_LOSS = 0.01
"""Of the first step, relative to ours: bf16."""

MOST_OFF_PLAN = 0.1
"""Of the peak of memory."""

Loss = Callable[[Tensor], Tensor]
"""Of tokens (B, T + 1), to be differentiated."""

COLUMNS = (
    "preset",
    "network",
    "ms a step",
    "tokens/s",
    "MFU",
    "wanted",
    "peak, GiB",
    "planned, GiB",
    "difference of the first loss",
)


@dataclass(frozen=True, kw_only=True)
class Case:
    """A shape to be timed, and the model FLOPs utilisation that is wanted of it."""

    name: str
    config: DecoderConfig
    sequences: int
    seq_len: int
    wanted: float | None = None


def cases_for(device: torch.device, names: Sequence[str]) -> list[Case]:
    if device.type != "cuda":
        config = DecoderConfig(
            vocab_size=512, d_model=64, num_layers=2, num_heads=4, num_kv_heads=2, d_ff=128, max_seq_len=64
        )
        return [Case(name="tiny", config=config, sequences=2, seq_len=64)]
    sequences = {"124m": 32, "350m": 16, "1b": 8}
    wanted = {"124m": 0.45, "1b": 0.50}
    return [
        Case(
            name=name,
            config=preset(name, PRESETS[name].reference_vocab_size, max_seq_len=2_048),
            sequences=sequences.get(name, 16),
            seq_len=2_048,
            wanted=wanted.get(name),
        )
        for name in names
    ]


class Contender:
    """A network that takes training steps; its first ones, which compile it, are behind it."""

    def __init__(self, build: Callable[[Case, torch.device], tuple[nn.Module, Loss]], case: Case, device: torch.device):
        self.device = device
        before_bytes = self._allocated()
        torch.manual_seed(0)
        self.model, self._loss = build(case, device)
        self._optimizer = fused_adamw(self.model, 1e-4)
        self.first_loss, *_ = [self.step(batch) for batch in batches(case, device, WARMUP_STEPS, seed=0)]
        gc.collect()
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        self.step(batches(case, device, 1, seed=1)[0])
        self.peak_bytes = torch.cuda.max_memory_allocated(device) - before_bytes if device.type == "cuda" else None
        self.step_s: list[float] = []

    def turn(self, tokens: list[Tensor]) -> None:
        """Adds the seconds of a step to `step_s`: the mean over these batches."""
        self._wait()
        start = time.perf_counter()
        for tokens_BT in tokens:
            self._train(tokens_BT)
        self._wait()
        self.step_s.append((time.perf_counter() - start) / len(tokens))

    def step(self, tokens_BT: Tensor) -> float:
        return float(self._train(tokens_BT))

    def _train(self, tokens_BT: Tensor) -> Tensor:
        with torch.autocast(self.device.type, dtype=torch.bfloat16):
            loss = self._loss(tokens_BT)
        loss.backward()
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        return loss.detach()

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def _allocated(self) -> int:
        return torch.cuda.memory_allocated(self.device) if self.device.type == "cuda" else 0


def batches(case: Case, device: torch.device, number: int, *, seed: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shape = (case.sequences, case.seq_len + 1)
    return [torch.randint(0, case.config.vocab_size, shape, generator=generator).to(device) for _ in range(number)]


def ours(case: Case, device: torch.device) -> tuple[nn.Module, Loss]:
    model = our_network(case, device)
    return model, lambda tokens_BT: model.loss(tokens_BT[:, :-1], tokens_BT[:, 1:])


def ours_with_documents(case: Case, device: torch.device) -> tuple[nn.Module, Loss]:
    """Four documents to a sequence."""
    model = our_network(case, device)
    positions_T = torch.arange(case.seq_len, device=device, dtype=torch.int32)
    document_ids_BT = (positions_T // (case.seq_len // 4)).expand(case.sequences, -1).contiguous()
    return model, lambda tokens_BT: model.loss(tokens_BT[:, :-1], tokens_BT[:, 1:], document_ids_BT=document_ids_BT)


def our_layout(device: torch.device) -> Parallelism:
    return Parallelism(compile=device.type == "cuda", bf16=True)


def our_network(case: Case, device: torch.device) -> Decoder:
    with device:
        model = Decoder(case.config)
    return parallelize(model, our_layout(device), None, device)


def plain(case: Case, device: torch.device) -> tuple[nn.Module, Loss]:
    with device:
        model = plain_llama_like(Decoder(case.config))
    run = torch.compile(model, disable=device.type != "cuda")
    return model, lambda tokens_BT: run(tokens_BT[:, :-1], tokens_BT[:, 1:])


def transformers(case: Case, device: torch.device) -> tuple[nn.Module, Loss]:
    with device:
        model = reference_network(Decoder(case.config)).train()
    run = torch.compile(model, disable=device.type != "cuda")

    def loss(tokens_BT: Tensor) -> Tensor:
        inputs_BT, targets_BT = tokens_BT[:, :-1], tokens_BT[:, 1:].contiguous()
        # `labels` alone would be shifted inside, over one position more than ours
        result: Tensor = run(inputs_BT, labels=targets_BT, shift_labels=targets_BT, use_cache=False).loss
        return result

    return model, loss


def measure(case: Case, device: torch.device, rounds: int, deadline: float) -> tuple[list[list[object]], list[str]]:
    """A row for each network, ours first; and those for which no time was left."""
    builders = [ours, ours_with_documents, plain]
    if importlib.util.find_spec("transformers"):
        builders.append(transformers)
    contenders: dict[str, Contender] = {}
    left_out = []
    for build in builders:
        if contenders and time.monotonic() > deadline:
            left_out.append(f"{case.name}, {build.__name__.replace('_', ' ')}")
            continue
        contenders[build.__name__] = Contender(build, case, device)
        print(f"{case.name}: {build.__name__} is warm", file=sys.stderr, flush=True)
    for number in range(rounds):
        if number and time.monotonic() > deadline:
            break
        tokens = batches(case, device, STEPS_PER_TURN, seed=2 + number)
        for contender in contenders.values():
            contender.turn(tokens)
    reference = contenders["ours"].first_loss
    return [row(case, name, contender, reference) for name, contender in contenders.items()], left_out


def row(case: Case, name: str, contender: Contender, reference_loss: float) -> list[object]:
    step_s = statistics.median(contender.step_s)
    tokens_per_s = case.sequences * case.seq_len / step_s
    is_ours = name.startswith("ours")
    return [
        case.name,
        name.replace("_", " "),
        1_000 * step_s,
        tokens_per_s,
        utilisation(tokens_per_s, case, contender.device),
        case.wanted if is_ours else None,
        gibibytes(contender.peak_bytes),
        gibibytes(planned_bytes(case, contender.device, with_documents=name != "ours") if is_ours else None),
        abs(contender.first_loss - reference_loss) / reference_loss,
    ]


def planned_bytes(case: Case, device: torch.device, *, with_documents: bool) -> int:
    return device_memory(
        case.config,
        optimizer="adamw",
        microbatch_sequences=case.sequences,
        seq_len=case.seq_len,
        parallelism=our_layout(device),
        device_type=device.type,
        document_mask=with_documents,
    ).peak_bytes


def utilisation(tokens_per_s: float, case: Case, device: torch.device) -> float | None:
    peak = device_peak_flop_per_s(device, torch.bfloat16)
    return model_flops_utilisation(tokens_per_s, case.config, case.seq_len, peak)


def gibibytes(num_bytes: int | None) -> float | None:
    return None if num_bytes is None else num_bytes / 2**30


def judged(checks: Sequence[Check], rows: Sequence[Sequence[object]]) -> tuple[list[str], list[str]]:
    """What is wrong, and which targets are missed; a line each."""
    wrong = [
        f"{check.name}: off by {check.difference:.2g}, tolerated {check.tolerated:.2g}"
        for check in checks
        if not check.passed
    ]
    missed = []
    for cells in rows:
        measured = dict(zip(COLUMNS, cells, strict=True))
        which = f"{measured['preset']}, {measured['network']}"
        difference = measured["difference of the first loss"]
        assert isinstance(difference, float)
        if not difference <= MOST_DIFFERENT_LOSS and measured["network"] != "ours with documents":
            wrong.append(f"{which}: its first loss is off by {difference:.2g}")
        utilised, wanted = measured["MFU"], measured["wanted"]
        if isinstance(utilised, float) and isinstance(wanted, float) and utilised < wanted:
            missed.append(f"{which}: MFU {utilised:.3f}, wanted {wanted}")
        peak, planned = measured["peak, GiB"], measured["planned, GiB"]
        if isinstance(peak, float) and isinstance(planned, float) and abs(planned - peak) > MOST_OFF_PLAN * peak:
            missed.append(f"{which}: peak {peak:.2f} GiB, planned {planned:.2f}")
    return wrong, missed


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="training steps on one GPU")
    parser.add_argument("--presets", nargs="+", choices=sorted(PRESETS), default=["124m", "1b"])
    parser.add_argument("--rounds", type=int, default=7, help="turns of each network")
    parser.add_argument("--limit-s", type=float, default=420.0, help="from here on no other network and no new turns")
    options = parser.parse_args(arguments)
    start = time.monotonic()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    on_gpu = device.type == "cuda"
    checks = []
    for check in run_checks(device, full_size=on_gpu):
        checks.append(check)
        print(f"{'ok ' if check.passed else 'BAD'} {check.name}: {check.difference:.2g}", file=sys.stderr, flush=True)
    checked_s = time.monotonic() - start
    cases = cases_for(device, options.presets)
    rows: list[list[object]] = []
    left_out: list[str] = []
    for number, case in enumerate(cases, 1):
        torch.compiler.reset()
        found, not_timed = measure(case, device, options.rounds, start + options.limit_s * number / len(cases))
        rows += found
        left_out += not_timed
        gc.collect()
    wrong, missed = judged(checks, rows)
    facts = {
        "device": torch.cuda.get_device_name(device) if on_gpu else "CPU: NOT RUN ON A GPU, tiny shape, not compiled",
        "torch": torch.__version__,
        "checks": f"{sum(check.passed for check in checks)} of {len(checks)} passed, in {checked_s:.0f} s",
        "wrong": "; ".join(wrong) or "nothing",
        "missed": "; ".join(missed) or ("nothing" if on_gpu else "not measured"),
        "left out, no time": "; ".join(left_out) or "nothing",
        "seconds": time.monotonic() - start,
    }
    file = report("gpu_training", COLUMNS, rows, facts)
    print(json.dumps(json.loads(file.read_text(encoding="utf-8"))))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
