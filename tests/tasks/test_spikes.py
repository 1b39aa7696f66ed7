"""Spikes: planted ones are found, on the threshold and not below it, and curves as training draws them raise none."""

import json
import math
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from tasks.spikes import Spike, SpikeDetector, SpikeRule

RULE = SpikeRule(window_steps=32, min_history_steps=16, calm_steps=4)
NAN, INF = math.nan, math.inf


def observe_all(detector: SpikeDetector, figures: list[tuple[float, float]], first: int = 1) -> list[Spike]:
    spikes = [detector.observe(step, *figure) for step, figure in enumerate(figures, start=first)]
    return [spike for spike in spikes if spike is not None]


def steady(num_steps: int, seed: int = 0) -> list[tuple[float, float]]:
    generator = random.Random(seed)
    return [(3 + generator.gauss(0, 0.05), math.exp(generator.gauss(0, 0.1))) for _ in range(num_steps)]


def test_a_planted_jump_of_the_loss_is_one_event_with_its_figures():
    detector = SpikeDetector(RULE)
    history = steady(40)
    assert observe_all(detector, history) == []
    spike = detector.observe(41, 6.0, 1.0)
    window = np.array([loss for loss, _ in history[-32:]])
    slope = (np.median(window[16:]) - np.median(window[:16])) / 16
    level = np.median(window[-8:]) + max(0, slope) * 4.5
    flat = window - slope * np.arange(32)
    scale = 1.4826 * np.median(np.abs(flat - np.median(flat)))
    assert spike is not None and spike.reasons == ("loss",) and spike.new_event and spike.finite
    assert spike.usual_loss == pytest.approx(level, rel=1e-12)
    assert spike.loss_z == pytest.approx((6.0 - level) / scale, rel=1e-9)
    assert spike.usual_grad_norm == pytest.approx(1.0, rel=0.2)
    assert spike.grad_norm_z is not None and abs(spike.grad_norm_z) < 3
    assert detector.observe(42, 3.0, 1.0) is None


def test_a_planted_jump_of_the_gradient_norm():
    detector = SpikeDetector(RULE)
    observe_all(detector, steady(40))
    spike = detector.observe(41, 3.0, 40.0)
    assert spike is not None and spike.reasons == ("grad_norm",)
    both = SpikeDetector(RULE)
    observe_all(both, steady(40))
    spike = both.observe(41, 9.0, 40.0)
    assert spike is not None and spike.reasons == ("loss", "grad_norm")


@pytest.mark.parametrize(
    ("loss", "grad_norm", "reasons"),
    [
        (3.0 + 10 * 0.02 + 1e-9, 1.0, ("loss",)),
        (3.0 + 10 * 0.02 - 1e-9, 1.0, ()),
        (3.0, math.exp(10 * 0.15 + 1e-9), ("grad_norm",)),
        (3.0, math.exp(10 * 0.15 - 1e-9), ()),
        (-9.0, 1e-9, ()),  # falls are no spikes
    ],
)
def test_on_the_threshold_and_just_below(loss: float, grad_norm: float, reasons: tuple[str, ...]):
    """Without noise the least scale is the unit."""
    detector = SpikeDetector(RULE)
    observe_all(detector, [(3.0, 1.0)] * 32)
    spike = detector.observe(33, loss, grad_norm)
    assert (spike.reasons if spike else ()) == reasons


def test_the_scale_is_that_of_the_noise_where_it_is_larger():
    """Half of the losses at 2, half at 4: a deviation of 1, a unit of 1.4826."""
    for offset, found in ((1e-6, True), (-1e-6, False)):
        history = {"losses": [2.0, 4.0] * 16, "log_grad_norms": [0.0] * 32, "event_steps": 0, "calm_steps": 0}
        detector = SpikeDetector.from_state(RULE, history)
        assert (detector.observe(33, 3.0 + 10 * 1.4826 + offset, 1.0) is not None) is found


def test_nothing_is_compared_before_there_is_enough_history():
    figures = [(3.0, 1.0)] * 15
    for more, found in ((0, False), (1, True)):
        detector = SpikeDetector(RULE)
        observe_all(detector, figures + figures[:more])
        assert (detector.observe(99, 50.0, 1.0) is not None) is found


@pytest.mark.parametrize(("loss", "grad_norm"), [(NAN, 1.0), (3.0, NAN), (INF, 1.0), (3.0, INF), (-INF, NAN)])
@pytest.mark.parametrize("num_before", [0, 40])
def test_what_is_not_finite_always_is_a_spike(loss: float, grad_norm: float, num_before: int):
    detector = SpikeDetector(RULE)
    observe_all(detector, steady(num_before))
    spike = detector.observe(num_before + 1, loss, grad_norm)
    assert spike is not None and "not_finite" in spike.reasons and not spike.finite and spike.new_event
    assert all(
        math.isfinite(value) for values in detector.state().values() if isinstance(values, list) for value in values
    )


def curve(num_steps: int, seed: int, noise: str) -> list[tuple[float, float]]:
    """A pretraining curve: ln(V) down by a power law, gradient norms that rise in warmup and fall after it."""
    generator = random.Random(seed)

    def draw() -> float:
        if noise == "laplace":
            return generator.choice((-1, 1)) * generator.expovariate(1)
        if noise == "student":  # 5 degrees of freedom
            return generator.gauss(0, 1) / math.sqrt(generator.gammavariate(2.5, 0.4))
        return generator.gauss(0, 1) if noise == "normal" else 0.0

    figures = []
    for step in range(num_steps):
        loss = 2.2 + 8 / (1 + step / 30) ** 0.6 + 0.06 * draw()
        warmup = min(1.0, step / 100)
        grad_norm = (0.3 + 4 * warmup * math.exp(-step / 400)) * math.exp(0.12 * draw())
        figures.append((loss, grad_norm))
    return figures


@pytest.mark.parametrize("noise", ["none", "normal", "laplace", "student"])
@pytest.mark.parametrize("seed", range(2))
def test_an_ordinary_curve_raises_no_alarm(noise: str, seed: int):
    """From the first step through warmup, with tails far heavier than normal ones."""
    assert observe_all(SpikeDetector(SpikeRule()), curve(1_500, seed, noise)) == []


@pytest.mark.parametrize("noise", ["none", "normal", "laplace", "student"])
@pytest.mark.parametrize("at", [70, 150, 600])
def test_a_spike_in_that_curve_is_found(noise: str, at: int):
    figures = curve(650, 0, noise)
    figures[at] = (figures[at][0] + 3.0, figures[at][1] * 30)
    assert [spike.step for spike in observe_all(SpikeDetector(SpikeRule()), figures)] == [at + 1]


def test_one_event_is_reported_once_until_it_has_been_calm():
    detector = SpikeDetector(RULE)
    observe_all(detector, [(3.0, 1.0)] * 32)
    tail = [(9.0, 1.0), (3.15, 1.0), (9.0, 1.0), (3.0, 1.0), (3.0, 1.0), (3.0, 1.0), (9.0, 1.0)]
    spikes = observe_all(detector, tail, first=33)
    assert [(spike.step, spike.new_event) for spike in spikes] == [(33, True), (35, False), (39, False)]
    assert observe_all(detector, [(3.0, 1.0)] * 4, first=40) == []
    spike = detector.observe(44, 9.0, 1.0)
    assert spike is not None and spike.new_event


def test_spikes_and_their_tail_do_not_change_what_is_usual():
    detector = SpikeDetector(RULE)
    observe_all(detector, [(3.0, 1.0)] * 32)
    before = detector.state()
    observe_all(detector, [(9.0, 1.0), (3.15, 1.0), (NAN, 1.0)])  # 3.15 is above half of the threshold
    after = detector.state()
    assert [after[name] for name in ("losses", "log_grad_norms")] == [
        before[name] for name in ("losses", "log_grad_norms")
    ]


def test_a_level_that_stays_is_the_new_normal_after_a_window():
    detector = SpikeDetector(RULE)
    observe_all(detector, [(3.0, 1.0)] * 32)
    spikes = observe_all(detector, [(9.0, 1.0)] * 100, first=33)
    assert [spike.step for spike in spikes] == list(range(33, 33 + 32))
    assert [spike.new_event for spike in spikes] == [True] + [False] * 31
    spike = detector.observe(200, 12.0, 1.0)
    assert spike is not None and spike.new_event and spike.usual_loss == 9.0


def test_a_gradient_of_zeros_is_no_spike():
    detector = SpikeDetector(RULE)
    assert observe_all(detector, [(3.0, 1.0)] * 31 + [(0.0, 0.0)] + [(3.0, 1.0)] * 9) == []


FIGURES = st.lists(
    st.tuples(
        st.floats(0, 12) | st.sampled_from([NAN, INF, 3.0, 3.1, 9.0]),
        st.floats(0, 1e6) | st.sampled_from([NAN, INF, 1.0, 1.1, 50.0]),
    ),
    max_size=60,
)


@given(FIGURES, st.integers(0, 60))
@settings(max_examples=60)
def test_a_resumed_detector_reports_what_an_undisturbed_one_does(figures: list[tuple[float, float]], cut: int):
    rule = SpikeRule(window_steps=12, min_history_steps=4, calm_steps=3)
    whole = SpikeDetector(rule)
    spikes = observe_all(whole, figures)
    first = SpikeDetector(rule)
    before = observe_all(first, figures[:cut])
    second = SpikeDetector.from_state(rule, json.loads(json.dumps(first.state(), allow_nan=False)))
    after = observe_all(second, figures[cut:], first=min(cut, len(figures)) + 1)
    assert repr(before + after) == repr(spikes)  # repr, because NaN is not equal to itself
    assert second.state() == whole.state()


@given(FIGURES)
@settings(max_examples=40)
def test_what_is_not_finite_is_never_missed_and_what_is_usual_stays_finite(figures: list[tuple[float, float]]):
    detector = SpikeDetector(SpikeRule(window_steps=12, min_history_steps=4, calm_steps=3))
    spikes = observe_all(detector, figures)
    bad = {step for step, figure in enumerate(figures, start=1) if not all(map(math.isfinite, figure))}
    assert {spike.step for spike in spikes if not spike.finite} == bad
    state = detector.state()
    assert all(map(math.isfinite, state["losses"] + state["log_grad_norms"]))
    assert len(state["losses"]) == len(state["log_grad_norms"]) <= 12


def test_a_shorter_window_keeps_the_newest_steps():
    detector = SpikeDetector(RULE)
    observe_all(detector, [(float(step), 1.0) for step in range(32)])
    shorter = SpikeDetector.from_state(SpikeRule(window_steps=16, min_history_steps=16), detector.state())
    assert shorter.state()["losses"] == [float(step) for step in range(16, 32)]


def test_a_history_longer_than_the_window_is_refused():
    SpikeRule(window_steps=16, min_history_steps=16)
    with pytest.raises(ValidationError, match="min_history_steps 17 is more than window_steps 16"):
        SpikeRule(window_steps=16, min_history_steps=17)
