"""Recipes: every field can be set by its dotted name, is checked, and reads back as it was set."""

import json

import pytest

from benchmark.errors import UsageError
from benchmark.listing import task_names
from benchmark.recipe import Recipe, Schedule
from benchmark.tasks import find_task

RECIPE = Recipe(
    backbone="mini", shorter_side=128, longer_side=224, train=Schedule(batch=8, learning_rate=0.1, steps=5),
    parameters={"window": 5}, curves={"gamma": (0.1, 0.2)},
)  # fmt: skip
ALL = [recipe for name in task_names() for recipe in find_task(name).recipes.values()]


def paths(content, prefix=""):
    """Yield the dotted names of all fields of a recipe's content, those of parts before their fields."""
    for name, value in content.items():
        yield f"{prefix}{name}"
        if isinstance(value, dict):
            yield from paths(value, f"{prefix}{name}.")


@pytest.mark.parametrize("recipe", ALL)
def test_every_field_reads_back_as_it_is_stored(recipe):
    names = list(paths(recipe.model_dump(mode="json")))
    assert {"train.milestones", "deformable", "curves.gamma"} <= set(names)
    for name in names:
        stored = json.loads(json.dumps(recipe.select([name])))
        assert recipe.override(stored) == recipe, name
    assert recipe.override(recipe.select(names)) == recipe


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("deformable", True), ("train.steps", 7), ("train.learning_rate", 1), ("train.milestones", [0.25, 0.5]),
        ("train.mask_learning_rate", 0.5), ("threads", 2), ("frozen", ["conv1"]), ("backbone", "other"),
        ("parameters.window", 7), ("parameters.new", "text"), ("curves.gamma", [1, 2, 3]),
        ("pretrain", {"batch": 4, "learning_rate": 0.01, "epochs": 3}),
    ],
)  # fmt: skip
def test_a_field_of_any_kind_can_be_set(path, value):
    changed = RECIPE.override({path: value})
    assert changed != RECIPE
    (stored,) = changed.select([path]).values()
    assert stored.items() >= value.items() if isinstance(value, dict) else stored == value
    assert RECIPE.override(changed.select([path])) == changed


def test_setting_one_field_leaves_the_others_and_the_recipe_itself():
    changed = RECIPE.override({"train.steps": 7})
    assert (RECIPE.train.steps, changed.train.steps, changed.train.batch) == (5, 7, 8)
    assert changed.replace(train=RECIPE.train) == RECIPE


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("tran.steps", 7, "no recipe field 'tran.steps'; the recipe has backbone, "),
        ("train.step", 7, "no recipe field 'train.step'; train has batch, "),
        ("train.steps.more", 7, "no recipe field 'train.steps.more'; train.steps has none"),
        ("pretrain.steps", 7, "'pretrain.steps': this scale has no pretrain; give it whole"),
        ("train.steps", "many", "'train.steps': input should be a valid integer, got \"many\""),
        ("train.steps", 2.5, "'train.steps': input should be a valid integer, got 2.5"),
        ("train.steps", True, "'train.steps': input should be a valid integer, got true"),
        ("train.steps", -5, "'train.steps': input should be greater than or equal to 0, got -5"),
        ("train.steps", 0, "'train': give it steps or epochs"),
        ("train.batch", 0, "'train.batch': input should be greater than or equal to 1, got 0"),
        ("train.batch", None, "'train.batch': input should be a valid integer, got null"),
        ("train.optimizer", "foo", "'train.optimizer': input should be 'sgd' or 'adamw', got \"foo\""),
        ("train.learning_rate", float("nan"), "'train.learning_rate': input should be"),
        ("train.milestones", [0.5, 2], "'train.milestones.1': input should be less than or equal to 1, got 2"),
        ("train.flip", "yes", "'train.flip': input should be a valid boolean, got \"yes\""),
        ("deformable", 1, "'deformable': input should be a valid boolean, got 1"),
        ("curves.gamma", 0.1, "'curves.gamma': input should be a valid"),
        ("pretrain", {"batch": 4}, "'pretrain.learning_rate': field required"),
        ("threads", object(), "takes what JSON can write"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_one_line_that_names_the_field(path, value, message):
    with pytest.raises(UsageError) as caught:
        RECIPE.override({path: value})
    assert message in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("recipe", ALL)
def test_the_tasks_backbones_are_known_by_name(recipe):
    with pytest.raises(UsageError, match="'backbone': there are resnet18, .*, got \"vgg\""):
        recipe.override({"backbone": "vgg"})
