"""What a person at a terminal sees of a flow: one progress bar for each stage, and the tables at the end."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from tasks.funnel import funnel_rows

if TYPE_CHECKING:
    from tasks.diff import VersionDiff
    from tasks.spike_documents import SpikeRecord

_LINE_INTERVAL_S = 10.0  # where there is no terminal: in a log
_DOMAINS_IN_A_LINE = 3


class Console:
    """Progress on standard error; standard output is left to results."""

    def __init__(self) -> None:
        self._bar: Any = None
        self._stage = ""
        self._said_s = 0.0
        self._ended = False

    def progress(self, stage: str, done: int, total: int, note: str = "", *, records: int = 0) -> None:
        """A bar a stage, closed when it is done; where there is no terminal, a line now and then."""
        if stage != self._stage:
            self.close()
            self._stage, self._ended, self._said_s = stage, False, time.monotonic()
            if sys.stderr.isatty():
                self._bar = tqdm(
                    total=total, desc=f"{stage:<12}", file=sys.stderr, mininterval=0.5, dynamic_ncols=True, leave=True
                )
        if self._ended:  # a late report draws no second bar
            return
        self._ended = done >= total
        if self._bar is None:
            if self._ended or time.monotonic() - self._said_s >= _LINE_INTERVAL_S:
                self._said_s = time.monotonic()
                print(f"{stage:<12} {done:,}/{total:,}{'  ' + note if note else ''}", file=sys.stderr, flush=True)
            return
        if note:
            self._bar.set_postfix_str(note, refresh=False)
        self._bar.update(done - self._bar.n)
        if self._ended:
            self.close()

    def say(self, text: str) -> None:
        """A line between the bars."""
        tqdm.write(text, file=sys.stderr)

    def close(self) -> None:
        """End the current bar where it stands. The stage stays known, so a late report does not draw a second one."""
        self._ended = True
        if self._bar is not None:
            self._bar.close()
            self._bar = None


def funnel_lines(result: Mapping[str, Any]) -> list[str]:
    """The funnel as a table for people: records in, removed by stage and reason, kept."""
    records = result["records_in"]
    lines = [f"{'records in':<40}{records:>10,}"]
    for stage, reason, count in funnel_rows(result["removed"]):
        lines.append(f"  {stage + ': ' + reason:<38}{-count:>10,}{-count / max(records, 1):>9.1%}")
    kept = result["documents_kept"]
    lines.append(f"{'documents kept':<40}{kept:>10,}{kept / max(records, 1):>9.1%}")
    if (tokens := result.get("tokens")) is not None:
        lines.append(f"{'tokens':<40}{tokens:>10,}")
    return lines


def spike_line(spike: SpikeRecord) -> str:
    """What happened at a step unlike the ones before it."""
    loss = "not finite" if spike.loss is None else f"{spike.loss:.3f}"
    usual = "" if spike.usual_loss is None else f" (usually {spike.usual_loss:.3f})"
    done = "taken" if spike.step_taken else "not taken"
    return f"step {spike.step:,}: spike, loss {loss}{usual}; policy {spike.policy}: the step was {done}"


def training_lines(result: Mapping[str, Any]) -> list[str]:
    """What a training made, for people. `result` is the flow's; earlier ones say nothing of spikes."""
    left_out = result.get("steps_left_out", 0)
    steps = f"{result['steps'] - left_out:,} steps{f' ({left_out:,} more were left out)' if left_out else ''}"
    lines = [
        f"model            {result['model']} ({result['num_parameters']:,} parameters)",
        f"trained on       {result['tokens']:,} tokens in {steps}, loss {result['loss']:.4f}",
    ]
    if result.get("spikes", 0):
        from tasks.diff_report import printable

        worst = " ".join(printable(result["worst_document"]).split())
        lines.append(f"loss spikes      {result['spikes']:,}, see {result['spikes_file']}; worst document: {worst}")
    lines.append(f"held-out text    {result['bits_per_byte']:.4f} bits per byte")
    lines.append(f"loss curve       {result['loss_curve']}")
    lines.append(f"checkpoint       {result['checkpoint']}")
    return lines


def preview_lines(result: Mapping[str, Any]) -> list[str]:
    """What a recipe does to a sample, as a table for people."""
    from tasks.preview.report import effort

    documents = max(result["documents"], 1)
    lines = [f"{'records in the sample':<40}{result['records']:>10,}"]
    lines.append(f"{'documents that the rules are asked about':<40}{result['documents']:>10,}")
    lines.append(f"{'':<40}{'alone':>10}{'in sequence':>13}{'nothing else':>14}")
    for rule in result["rules"]:
        lines.append(f"{rule['rule']:<40}{rule['alone']:>10,}{rule['in_sequence']:>13,}{rule['only']:>14,}")
        for check in rule["checks"]:
            if check["alone"] and len(rule["checks"]) > 1:
                limits = ", ".join(f"{limit:g}" for limit in check["limits"])
                name = f"{check['setting']} {limits}"
                lines.append(f"  {name:<38}{check['alone']:>10,}{check['in_sequence']:>13,}{check['only']:>14,}")
    lines.append(f"{'kept':<40}{result['kept']:>10,}{result['kept'] / documents:>13.1%}")
    if (changes := result.get("comparison")) is not None:
        lines.append(f"{'kept without the settings':<40}{changes['kept_before']:>10,}")
        lines.append(f"  come in{len(changes['gained']):>42,}\n  go{len(changes['lost']):>47,}")
        lines.append(effort(changes["scored_again"], changes["unseen"]))
    return lines


def diff_lines(diff: VersionDiff) -> list[str]:
    """What changed between two versions, as a table for people."""
    from tasks.diff_report import KIND_TITLES, printable, signed, words

    before, after = diff.before, diff.after
    lines = [f"{'':<40}{'documents':>14}{'tokens, est.':>16}"]
    lines.append(f"{before.reference:<40}{before.documents:>14,}{before.estimated_tokens:>16,}")
    for kind, part in diff.kinds.items():
        more = part.estimated_tokens_in - part.estimated_tokens_out
        tokens = f"{more:+,}" if more else ""
        lines.append(f"  {KIND_TITLES[kind]:<38}{signed(kind, part.documents):>14}{tokens:>16}")
        for stage, reason, count in part.reasons:
            lines.append(f"    {printable(f'{words(stage)}: {words(reason)}'):<36}{count:>14,}")
    lines.append(f"{after.reference:<40}{after.documents:>14,}{after.estimated_tokens:>16,}")
    lines.append(f"{'unchanged':<40}{diff.unchanged:>14,}")
    for exact in diff.exact_tokens:
        name = f"tokens by {exact.tokenizer_sha256[:12]}, {words(exact.split)}"
        lines.append(f"{name:<40}{exact.before:>14,}{exact.after:>16,}{exact.after - exact.before:>+16,}")
    for kind, part in diff.kinds.items():
        shown = part.domains[:_DOMAINS_IN_A_LINE]
        rest = len(part.domains) - len(shown) + part.other_domains[0]
        if shown:
            domains = ", ".join(f"{printable(domain)} {count:,}" for domain, count in shown)
            lines.append(f"{KIND_TITLES[kind].lower():<12}{domains}{f', and {rest:,} domains more' if rest else ''}")
    return [line.rstrip() for line in lines]


console = Console()
"""The terminal of this process."""
