from tasks.funnel import STAGES, funnel_rows
from tasks.recipes.curation import fineweb


def test_rows_are_in_the_order_of_the_work_and_the_most_first() -> None:
    removed = {"near_dedup": {"near_duplicate": 4}, "quality": {"b": 2, "a": 2, "c": 9}, "read": {"damaged": 1}}
    assert funnel_rows(removed) == [
        ("read", "damaged", 1),
        ("quality", "c", 9),
        ("quality", "a", 2),
        ("quality", "b", 2),
        ("near_dedup", "near_duplicate", 4),
    ]


def test_every_rule_of_a_recipe_removes_in_a_stage_that_is_known() -> None:
    named = {name.removesuffix("_rules") for name in type(fineweb()).model_fields if name.endswith("_rules")}
    assert named <= set(STAGES)
