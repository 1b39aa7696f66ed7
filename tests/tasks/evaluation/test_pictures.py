"""The picture of an evaluation is drawn whatever was measured, in the width that was asked for."""

from __future__ import annotations

import math
from pathlib import Path

from matplotlib.image import imread

from tasks.evaluation.bits_per_byte import Score
from tasks.evaluation.compare import compare_models
from tasks.evaluation.pictures import scores_picture
from tasks.evaluation.report import score_rows
from tests.tasks.evaluation.measured_models import answers, documents, model, share_task


def drawn(file: Path, num_tasks: int, *, compared: bool, width_px: int = 600, broken: bool = False) -> tuple[int, int]:
    def scores(reference: str, bits: float, num_right: int) -> object:
        held_out = documents(bits)
        if broken:
            held_out[0] = Score(math.nan, 9, 9, 1)
        tasks = [share_task(f"task_{number}_$a$", answers(100, num_right), 0.25) for number in range(num_tasks)]
        return model(reference, held_out, {"own": tasks} if tasks else {})

    ours, theirs = scores("web@2", 1.9, 70), scores("web@1", 2.0, 50)
    others = {"web@1": compare_models(ours, theirs)} if compared else {}  # type: ignore[arg-type]
    rows = score_rows(ours, others, {})  # type: ignore[arg-type]
    scores_picture(rows, file, title="web@2 $x", other=theirs if compared else None, width_px=width_px)  # type: ignore[arg-type]
    height, width, _ = imread(file).shape
    return height, width


def test_it_has_its_width_and_grows_with_its_rows(tmp_path: Path) -> None:
    height, width = drawn(tmp_path / "a.png", 0, compared=False)
    more, same_width = drawn(tmp_path / "b.png", 5, compared=True)
    assert width == same_width == 600 and more > height


def test_what_is_not_finite_is_left_out(tmp_path: Path) -> None:
    assert drawn(tmp_path / "a.png", 1, compared=True, broken=True)[1] == 600


def test_a_model_that_was_not_asked_the_tasks_is_left_out_of_them(tmp_path: Path) -> None:
    ours, broken = model("web@2", documents(), {"own": [share_task("x", answers(100, 70))]}), documents()
    broken[0] = Score(math.nan, 9, 9, 1)
    theirs = model("web@1", broken)
    rows = score_rows(ours, {"web@1": compare_models(ours, theirs)}, {})
    scores_picture(rows, tmp_path / "a.png", title="web@2", other=theirs, width_px=600)
    assert imread(tmp_path / "a.png").shape[1] == 600
