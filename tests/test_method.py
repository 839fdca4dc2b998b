"""The contract: parameters, curves and discovery."""

import pytest

from benchmark.errors import PluginError, UsageError
from benchmark.method import Method, discover, resolve

BROKEN = "raise RuntimeError('not today')\n"
NO_METHOD = "x = 1\n"
NAMELESS = "from benchmark import Method\n\n\nclass Nameless(Method):\n    pass\n"
WRONG_CURVE = """from benchmark import Method


class Wrong(Method):
    name = "wrong"
    curve = {"gama": (1, 2)}
"""
TAKEN = """from benchmark import Method


class Taken(Method):
    name = "dense"
"""


def write(folder, text, name="plugin.py"):
    path = folder / name
    path.write_text(text)
    return path


def test_the_papers_methods_and_baselines_are_found():
    found = discover()
    expected = {
        "stochastic", "deterministic_gumbel", "relu_gating", "dense", "uniform", "equal_interval", "smaller_backbone",
        "perforated",
    }  # fmt: skip
    assert expected <= found.keys()
    assert all(issubclass(method, Method) and method.__doc__ for method in found.values())


def test_a_plugin_file_is_found_by_its_path(plugin):
    (found,) = resolve([str(plugin)])
    assert found.name == "checkerboard"
    assert found.points({}) == [{"stride": 2}, {"stride": 3}]
    assert "checkerboard" not in discover()


def test_a_projects_own_file_is_not_found_twice():
    (found,) = resolve(["methods/stochastic.py"])
    assert found.name == "stochastic"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (BROKEN, "plugin.py: importing it raised RuntimeError: not today"),
        (NO_METHOD, "plugin.py: defines no subclass"),
        (NAMELESS, "plugin.py: class Nameless has no name"),
        (WRONG_CURVE, "the curve of 'wrong' names 'gama'"),
        (TAKEN, "the name 'dense' is taken"),
    ],
)
def test_a_broken_plugin_is_one_line_that_names_the_file(tmp_path, text, message):
    with pytest.raises(PluginError, match=message) as error:
        discover([write(tmp_path, text)])
    assert "\n" not in str(error.value)


def test_unknown_methods_and_missing_files_are_usage_errors(tmp_path):
    with pytest.raises(UsageError, match="unknown method 'stochastik'; there are"):
        resolve(["stochastik"])
    with pytest.raises(UsageError, match="no such method file"):
        resolve([str(tmp_path / "none.py")])


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"gama": 1}, "has no parameter 'gama'; it has gamma=0.05"),
        ({"gamma": -1}, "parameter 'gamma': input should be greater than or equal to 0"),
        ({"gamma": "much"}, "parameter 'gamma': input should be a valid number"),
        ({"window": 4}, "parameter 'window'.*must be odd"),
        ({"fill": "magic"}, "parameter 'fill': input should be 'rbf'"),
        ({"gamma": float("nan")}, "parameter 'gamma'"),
    ],
)
def test_a_wrong_parameter_is_one_line_that_says_what_it_accepts(parameters, message):
    with pytest.raises(UsageError, match=message) as error:
        discover()["stochastic"].make(parameters)
    assert "\n" not in str(error.value)


def test_a_recipes_values_stand_in_for_the_curves_own():
    stochastic = discover()["stochastic"]
    assert [point["gamma"] for point in stochastic.points({})] == [0.02, 0.05, 0.1, 0.2]
    assert [point["gamma"] for point in stochastic.points({"gamma": (1, 2), "stride": (3,)})] == [1, 2]


def test_a_curve_over_two_parameters_has_every_combination():
    perforated = discover()["perforated"]
    points = perforated.points({"structure": ("grid", "pooling"), "rate": (0.1, 0.2, 0.3)})
    assert len(points) == 6 and {"structure": "pooling", "rate": 0.2} in points


def test_the_code_fingerprint_ignores_comments_and_docstrings_and_sees_code(tmp_path, plugin):
    text = plugin.read_text()
    variants = {
        "same": text.replace("class", "# a comment\nclass", 1).replace("Compute one", "Compute just one"),
        "other": text.replace("Masks.grid(self.stride)", "Masks.grid(self.stride + 1)"),
    }
    (own,) = resolve([str(plugin)])
    for name, variant in variants.items():
        (found,) = resolve([str(write(tmp_path, variant, f"{name}.py"))])
        assert (found.code_fingerprint() == own.code_fingerprint()) == (name == "same")


@pytest.mark.parametrize("name", ["a/b", "../x", "[red]x[/red]", "<script>", "a b", "-x", "x" * 300])
def test_a_plugin_whose_name_cannot_be_a_folder_is_refused_before_anything_runs(tmp_path, name):
    path = tmp_path / "plugin.py"
    path.write_text(f"from benchmark import Method\n\n\nclass Odd(Method):\n    name = {name!r}\n")
    with pytest.raises(PluginError, match=r"plugin\.py: class Odd: the name ") as error:
        discover([path])
    assert "\n" not in str(error.value) and len(str(error.value)) < 200 + len(str(path))
