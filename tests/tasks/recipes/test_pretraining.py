"""Pretraining recipes: valid, named sizes, the published rules, and clear refusals."""

import math
import subprocess
import sys

import pytest
from pydantic import ValidationError

from model.config import RopeScaling, num_parameters
from model.scaling import HyperParameters, hyper_parameters
from tasks.recipes.pretraining import (
    PRETRAIN_RECIPES,
    PretrainRecipe,
    full,
    resolve_pretrain_recipe,
    resume_differences,
    small,
    smoke,
)


def recipe(**fields: object) -> PretrainRecipe:
    return PretrainRecipe.model_validate({"model": "smoke", "seq_len": 64, "global_batch_tokens": 640} | fields)


@pytest.mark.parametrize("name", PRETRAIN_RECIPES)
def test_recipes_are_what_they_are_called(name: str):
    found = resolve_pretrain_recipe(name, {})
    assert found == PRETRAIN_RECIPES[name]()
    assert found.name == name
    assert PretrainRecipe.model_validate_json(found.model_dump_json()) == found


@pytest.mark.parametrize(
    ("built", "low", "high"), [(smoke, 0.7e6, 1.1e6), (small, 9.5e6, 10.5e6), (full, 120e6, 127e6)]
)
def test_sizes(built, low, high):
    assert low < num_parameters(built().decoder_config()) < high


def test_the_decoder_follows_the_recipe():
    shape = recipe(total_tokens=1, tokenizer={"vocab_size": 300}).decoder_config()
    assert (shape.vocab_size, shape.max_seq_len) == (320, 64)


def test_what_is_left_out_follows_from_size_and_length():
    """`model.scaling` has the rule; here it is asked with the run's own length and batch."""
    unset = recipe(total_tokens=64_000_000, global_batch_tokens=None)
    found = unset.hyper_parameters(tokens_per_epoch=1)
    expected = hyper_parameters(unset.decoder_config(), seq_len=64, total_tokens=64_000_000)
    assert found.batch_tokens == unset.batch_tokens(1) == expected.batch_tokens
    assert found.total_tokens == unset.num_steps(1) * found.batch_tokens <= 64_000_000
    assert found.learning_rate == pytest.approx(expected.learning_rate, rel=1e-3)
    larger = recipe(total_tokens=64_000_000, global_batch_tokens=None, model="30m").hyper_parameters(1)
    assert larger.batch_tokens > found.batch_tokens and larger.learning_rate < found.learning_rate


def test_what_is_set_stays():
    fields = {
        "learning_rate": 0.25,
        "beta1": 0.8,
        "beta2": 0.9,
        "weight_decay": 0.3,
        "gradient_clip": 2,
        "z_loss": 1e-4,
    }
    assert recipe(total_tokens=6400, **fields).hyper_parameters(1) == HyperParameters(
        total_tokens=6400,
        batch_tokens=640,
        learning_rate=0.25,
        betas=(0.8, 0.9),
        weight_decay=0.3,
        max_grad_norm=2.0,
        z_loss=1e-4,
    )


def test_of_the_rules_other_figures_none_is_taken_over():
    """As the recipe's description says: the rule has beta2 .99 for this batch, and a z-loss."""
    short = recipe(total_tokens=64_000)
    rule = hyper_parameters(short.decoder_config(), seq_len=64, total_tokens=64_000, batch_tokens=640)
    found = short.hyper_parameters(1)
    assert (rule.betas, rule.z_loss) == ((0.9, 0.99), 1e-5) and found.learning_rate == rule.learning_rate
    assert (found.betas, found.weight_decay, found.max_grad_norm, found.z_loss) == ((0.9, 0.95), 0.1, 1.0, 0.0)


@pytest.mark.parametrize("total_tokens", [1, 63, 64])
def test_a_run_shorter_than_a_sequence_is_one_step(total_tokens: int):
    found = recipe(total_tokens=total_tokens, global_batch_tokens=None).hyper_parameters(1)
    assert (found.total_tokens, found.batch_tokens) == (64, 64)


def test_the_network_has_what_the_recipe_asks_for():
    scaling = {"kind": "linear", "factor": 2}
    shape = recipe(total_tokens=1, qk_norm=True, rope_scaling=scaling).decoder_config()
    assert shape.qk_norm and shape.rope_scaling == RopeScaling(kind="linear", factor=2.0)
    assert PretrainRecipe.model_validate_json(recipe(total_tokens=1, rope_scaling=scaling).model_dump_json()) == recipe(
        total_tokens=1, rope_scaling=scaling
    )


@pytest.mark.parametrize(
    ("limits", "steps"),
    [
        ({"total_tokens": 6400}, 10),
        ({"total_tokens": 6399}, 9),
        ({"total_tokens": 1}, 1),
        ({"epochs": 2}, 200),
        ({"epochs": 0.5, "total_tokens": 64_000}, 50),
        ({"epochs": 2, "total_tokens": 64_000}, 100),
    ],
)
def test_the_first_limit_ends_the_run(limits: dict[str, float], steps: int):
    assert recipe(**limits).num_steps(tokens_per_epoch=64_000) == steps


def test_tokens_per_parameter():
    found = recipe(tokens_per_parameter=20)
    assert found.num_steps(1) == math.floor(20 * num_parameters(found.decoder_config()) / 640)


def test_a_run_without_an_end_is_refused():
    with pytest.raises(ValidationError, match="the run has no end"):
        recipe()


@pytest.mark.parametrize("global_batch_tokens", [639, 641, 32])
def test_a_batch_of_parts_of_sequences_is_refused(global_batch_tokens: int):
    with pytest.raises(ValidationError, match=r"not a multiple of seq_len 64; choose (640|64)"):
        recipe(total_tokens=1, global_batch_tokens=global_batch_tokens)


def test_a_decay_from_a_checkpoint_needs_its_schedule():
    assert recipe(total_tokens=1, schedule="wsd", decay_from="x").decay_from == "x"
    with pytest.raises(ValidationError, match="schedule is cosine; set schedule to wsd"):
        recipe(total_tokens=1, decay_from="x")


@pytest.mark.parametrize(("checkpoint", "evaluate"), [(6, 6), (12, 6), (6, 12), (500, 1)])
def test_a_rollback_needs_checkpoints_that_were_evaluated(checkpoint: int, evaluate: int):
    steps = {"checkpoint_every_steps": checkpoint, "evaluate_every_steps": evaluate}
    assert recipe(total_tokens=1, spikes={"policy": "rollback"}, **steps).spikes.policy == "rollback"
    with pytest.raises(ValidationError, match="make one of them a multiple of the other"):
        recipe(
            total_tokens=1,
            spikes={"policy": "rollback"},
            **(steps | {"checkpoint_every_steps": 7, "evaluate_every_steps": 3}),
        )
    assert (
        recipe(total_tokens=1, **(steps | {"checkpoint_every_steps": 7, "evaluate_every_steps": 3})).spikes.policy
        == "alert"
    )


@pytest.mark.parametrize(
    ("field", "inside", "outside"),
    [
        ("decay_fraction", 0.8, 0.81),
        ("decay_fraction", 0.01, 0.0),
        ("z_loss", 0.0, -0.1),
        ("tensor", 1, 0),
        ("held_out_fraction", 0.5, 0.51),
        ("warmup_fraction", 0.2, 0.21),
        ("beta2", 0.999, 1.0),
        ("floor_fraction", 1.0, 1.01),
        ("checkpoint_every_steps", 1, 0),
        ("keep_checkpoints", 1, 0),
        ("gradient_clip", 1e-3, 0.0),
        ("learning_rate", 1.0, 1.1),
    ],
)
def test_bounds(field: str, inside: float, outside: float):
    assert getattr(recipe(total_tokens=1, **{field: inside}), field) == inside
    with pytest.raises(ValidationError, match=field):
        recipe(total_tokens=1, **{field: outside})


def test_overrides_reach_into_the_recipe():
    found = resolve_pretrain_recipe(
        "smoke",
        {"model": "10m", "tokenizer.vocab_size": "512", "seq_len": "512", "learning_rate": "null", "epochs": "1.5"},
    )
    assert (found.model, found.vocab_size, found.seq_len, found.learning_rate, found.epochs) == (
        "10m",
        512,
        512,
        None,
        1.5,
    )
    assert found.seed == smoke().seed


@pytest.mark.parametrize(
    ("name", "overrides", "message"),
    [
        ("tiny", {}, "no pretraining recipe 'tiny'; there are smoke, small, full"),
        ("smoke", {"learningrate": "1"}, "recipe smoke: .*no field 'learningrate'; did you mean learning_rate"),
        ("smoke", {"model": "2b"}, "recipe smoke: model: Input should be 'smoke', '10m'.*got '2b'"),
        ("smoke", {"rope_scaling": '{"kind": "linear", "factor": 0.5}'}, r"rope_scaling.*must be at least 1"),
        ("smoke", {"spikes.polcy": "skip"}, "did you mean .*spikes.policy"),
        ("full", {"tokenizer.vocab_size": "10"}, r"recipe full: tokenizer\.vocab_size: .*equal to 259 \(got 10\)"),
    ],
)
def test_refusals(name: str, overrides: dict[str, str], message: str):
    with pytest.raises(ValueError, match=message) as refusal:
        resolve_pretrain_recipe(name, overrides)
    assert "\n" not in str(refusal.value)


def test_recipes_do_not_load_torch():
    """Forms and the command line read recipes; torch takes seconds."""
    code = "import sys, tasks.recipes.pretraining; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_what_forbids_to_resume_is_named():
    before = smoke().model_dump(mode="json")
    assert resume_differences(before, smoke()) == []
    free = {"name": "mine", "checkpoint_every_steps": 7, "tensor": 2, "sharded": True, "compile": True}
    free |= {"activation_checkpointing": "block", "spikes": {"policy": "skip"}}
    assert resume_differences(before | free, smoke()) == []
    moves = {"optimizer": "muon", "schedule": "wsd", "z_loss": 1e-5, "document_mask": True, "qk_norm": True}
    assert [each.split()[0] for each in resume_differences(before | moves, smoke())] == sorted(moves)
    changed = before | {"seed": 1, "tokenizer": before["tokenizer"] | {"vocab_size": 300}}
    first, second = resume_differences(changed, smoke())
    assert first == "seed (1 before, 0 now)"
    assert second.startswith("tokenizer (") and "'vocab_size': 300" in second


def test_fields_that_came_or_went_since_are_held_against_their_defaults():
    before = smoke().model_dump(mode="json")
    del before["weight_decay"]
    assert resume_differences(before, smoke()) == []
    assert resume_differences(before, resolve_pretrain_recipe("smoke", {"weight_decay": "0.2"})) == [
        "weight_decay (0.1 before, 0.2 now)"
    ]
    assert resume_differences(before | {"dropout": 0.1}, smoke()) == ["dropout (0.1 before, unknown now)"]
