"""A model of quality for tests, which takes calls to subscribe for a sign of bad text."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from tasks.classifiers.fast_text import FastTextTraining, train_fast_text
from tasks.filters.quality_classifier import Quality
from tasks.model_cache import fetch_model
from tasks.recipes.curation import CurationRecipe
from tasks.recipes.rules import rule
from tasks.store import Store
from tests.data.prose import prose
from tests.tasks import page_store

LABELS = ("good", "raw")
CALL = "Subscribe to our newsletter now."
TRAINING = FastTextTraining(
    dim=4, epoch=16, lr=0.4, max_subword_chars=0, min_subword_chars=0, bucket=1_000, min_count=1
)


def page_text(seed: int, num_calls: int) -> str:
    """Prose between calls to subscribe: the more of these, the lower its score."""
    return prose(seed) + f"\n{CALL}" * num_calls


def write_model(folder: Path) -> str:
    """A fastText model with the labels good and raw in `folder`; its name, as a rule gives it."""
    path = folder / "quality.bin"
    texts = [(label, page_text(seed, 0 if label == "good" else 40)) for seed in range(100, 130) for label in LABELS]
    lines = ((label, " ".join(text.split())) for label, text in texts)
    train_fast_text(lines, TRAINING, path, quantised=False)
    return f"{path}#sha256={hashlib.sha256(path.read_bytes()).hexdigest()}"


def store_with_model(root: Path) -> tuple[Store, str]:
    """A store in `root` that has the model, and the model's name."""
    root.mkdir(parents=True, exist_ok=True)
    name = write_model(root)
    store = Store.open(root / "store")
    fetch_model(name, store.models)
    return store, name


def share_recipe(model: str, keep_share: float, **changes: Any) -> CurationRecipe:
    """One quality rule that drops some pages, and one that keeps a share of the others."""
    best = Quality(model=model, label="good", keep_share=keep_share)
    return page_store.recipe(quality_rules=(rule("gopher_quality"), best), **changes)
