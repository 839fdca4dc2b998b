"""The contract: parameters, curves and discovery."""

import ast
import os
import re
import sys

import pytest

from benchmark import SampledMethod
from benchmark.errors import PluginError, UsageError
from benchmark.listing import task_names
from benchmark.method import Method, address, discover, kind_of, resolve
from benchmark.sweep import make_sweep
from benchmark.tasks import find_task

BROKEN = "x = 1\nraise RuntimeError('not today')\n"
EXITING = "import sys\n\nsys.exit(3)\n"
UNREADABLE = "class\n"
NO_METHOD = "x = 1\n"
NAMELESS = "from benchmark import Method\n\n\nclass Nameless(Method):\n    pass\n"
WRONG_CURVE = """from benchmark import Method


class Wrong(Method):
    name = "wrong"
    curve = {"gama": (1, 2)}
"""
NAMED = """from benchmark import Method


class Named(Method):
    name = {name!r}
"""
WRONG_FOLLOWS = """from benchmark import Method


class Wrong(Method):
    name = "wrong"
    stride: int = 2
    follows = ("strides",)
"""
OLD_LOSS = """from benchmark import Method


class Old(Method):
    name = "old"

    def loss(self, backbone):
        return 0
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
        (BROKEN, "plugin.py:2: importing it raised RuntimeError: not today"),
        (EXITING, "plugin.py:3: importing it raised SystemExit: 3"),
        (UNREADABLE, "plugin.py:1: importing it raised SyntaxError"),
        (NO_METHOD, "plugin.py: defines no subclass"),
        (NAMELESS, "plugin.py: class Nameless has no name"),
        (WRONG_CURVE, "`curve` of 'wrong' names 'gama', which is no parameter"),
        (WRONG_FOLLOWS, "`follows` of 'wrong' names 'strides', which is no parameter; it must name one of stride=2"),
        (WRONG_CURVE.replace('{"gama": (1, 2)}', "5"), "`curve` of 'wrong' is 5; it must be values by parameter"),
        (WRONG_FOLLOWS.replace('("strides",)', "7"), "`follows` of 'wrong' is 7; it must be a tuple"),
        (WRONG_FOLLOWS.replace('follows = ("strides",)', "references = None"), "`references` of 'wrong' is None"),
        (TAKEN, "the name 'dense' is taken"),
        (OLD_LOSS, r"`loss` of 'old' takes \(self, backbone\); write it as `def loss\(self, backbone, step\)`"),
        (OLD_LOSS.replace("def loss(self, backbone)", "def skip(self)"), r"write it as `def skip\(self, task\)`"),
        (NAMED.format(name=5), "class Named has no name"),
    ],
)
def test_a_broken_plugin_is_one_line_that_names_the_file(tmp_path, text, message):
    with pytest.raises(PluginError, match=message) as error:
        discover([write(tmp_path, text)])
    assert "\n" not in str(error.value)


def test_unknown_methods_and_missing_files_are_usage_errors(tmp_path):
    with pytest.raises(UsageError, match=r"unknown method 'stochastik'; did you mean 'stochastic'\? There are"):
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


def test_a_sweep_of_everything_leaves_out_what_wants_to_be_named(tmp_path, tiny_set):
    path = write(tmp_path, NAMED.format(name="shy") + '    only_named = ("imagenet",)\n')
    named = make_sweep("imagenet", [str(path)], data=tiny_set("imagenet"))
    assert [each.cell.method for each in named.plans] == ["shy"] and not named.skipped
    everything = make_sweep("coco", data=tiny_set("coco"))
    assert everything.skipped["topk"] == "runs where it is named: --methods topk"
    assert "topk" not in {each.cell.method for each in everything.plans}


def test_a_recipes_values_stand_in_for_a_parameter_that_follows_it():
    stochastic = discover()["stochastic"]
    assert [point["gamma"] for point in stochastic.points({})] == [0.02, 0.05, 0.1, 0.2]
    assert [point["gamma"] for point in stochastic.points({"gamma": (1, 2), "stride": (3,)})] == [1, 2]
    assert stochastic.defaults({"window": 5, "fill": "zeros", "stride": 3}) == {"window": 5}


def test_a_parameter_that_only_shares_the_name_keeps_its_own_values():
    class Own(Method):
        name = "own"
        gamma: float = 1.0
        rate: float = 0.5
        curve = {"gamma": (1.0, 2.0)}

    assert Own.points({"gamma": (7,)}) == [{"gamma": 1.0}, {"gamma": 2.0}]
    assert Own.defaults({"rate": 0.1, "gamma": 7}) == {}


def test_a_subclass_that_states_its_own_values_keeps_them_and_may_follow_again():
    class OwnCurve(SampledMethod):
        name = "own_curve"
        curve = {"gamma": (1.0,)}

    class OwnDefault(SampledMethod):
        name = "own_default"
        window: int = 9

    class Follows(OwnCurve):
        name = "follows"
        curve = {"gamma": (1.0,)}
        follows = ("gamma",)

    values = {"gamma": (7, 8)}
    assert OwnCurve.points(values) == [{"gamma": 1.0}]
    assert OwnCurve.defaults({"window": 5, "gamma": 7}) == {"window": 5, "gamma": 7}
    assert OwnDefault.points(values) == [{"gamma": 7}, {"gamma": 8}]
    assert OwnDefault.defaults({"window": 5, "grid_stride": 2}) == {"grid_stride": 2}
    assert Follows.points(values) == [{"gamma": 7}, {"gamma": 8}]


def test_every_value_of_a_recipe_is_followed_by_a_method():
    followed = {parameter for method in discover().values() for parameter in method.follows}
    for task in task_names():
        for recipe in find_task(task).recipes.values():
            assert {*recipe.curves, *recipe.parameters} <= followed


def test_a_method_says_what_it_is_called_and_where_it_was_found(plugin):
    found = discover([plugin])
    assert {name: found[name].title() for name in ("stochastic", "equal_interval", "checkerboard")} == {
        "stochastic": "Stochastic sampling", "equal_interval": "Equal interval", "checkerboard": "Checkerboard",
    }  # fmt: skip
    kinds = {name: kind_of(method) for name, method in found.items()}
    assert (kinds["stochastic"], kinds["dense"], kinds["checkerboard"]) == ("method", "baseline", "plug-in")


def test_a_plugin_is_read_again_when_it_has_changed_and_only_then(tmp_path):
    path = write(tmp_path, NAMED.format(name="first"))
    before = discover([path])
    assert discover([path])["first"] is before["first"]
    path.write_text(NAMED.format(name="second"))
    os.utime(path, ns=(1, 1))
    after = discover([path])
    assert "second" in after and "first" not in after
    assert after["dense"] is before["dense"]


def test_each_of_several_methods_in_a_file_can_be_named(tmp_path, plugin):
    two = NAMED.format(name="one") + "\n\nclass Other(Method):\n    name = 'two'\n"
    path = write(tmp_path, two)
    assert [method.name for method in resolve([str(path)])] == ["one", "two"]
    for method in [*resolve([str(path), str(plugin)]), *discover().values()]:
        assert resolve([address(method)]) == [method]
    with pytest.raises(UsageError, match="unknown method"):
        resolve([f"{path}::three"])


def test_a_curve_over_two_parameters_has_every_combination():
    perforated = discover()["perforated"]
    points = perforated.points({"structure": ("grid", "pooling"), "rate": (0.1, 0.2, 0.3)})
    assert len(points) == 6 and {"structure": "pooling", "rate": 0.2} in points


def test_the_code_fingerprint_ignores_comments_and_docstrings_and_sees_code(tmp_path, plugin):
    text = plugin.read_text()
    variants = {
        "same": text.replace("class", "# a comment\nclass", 1).replace("Compute one", "Compute just one"),
        "described": text.replace("    stride: int", '    label = "Board"\n    follows = ("stride",)\n    stride: int'),
        "other": text.replace("Masks.grid(self.stride)", "Masks.grid(self.stride + 1)"),
    }
    (own,) = resolve([str(plugin)])
    for name, variant in variants.items():
        (found,) = resolve([str(write(tmp_path, variant, f"{name}.py"))])
        assert (found.code_fingerprint() == own.code_fingerprint()) == (name != "other")


def test_the_code_fingerprint_does_not_depend_on_pythons_version(tmp_path, plugin, monkeypatch):
    """Later versions of Python write a tree's text otherwise: made up here, as 3.12 and 3.13 do."""
    kind = resolve([str(write(tmp_path, plugin.read_text(), "one.py"))])[0]
    here = kind.code_fingerprint()
    dump = ast.dump

    def later(tree, **options):
        assert options == ({"show_empty": True} if sys.version_info >= (3, 13) else {})
        text = dump(tree, **options)
        return text if "type_params" in text else text.replace("decorator_list=[]", "decorator_list=[], type_params=[]")

    monkeypatch.setattr(ast, "dump", later)
    (again,) = resolve([str(write(tmp_path, plugin.read_text(), "two.py"))])
    assert again.code_fingerprint() == here


@pytest.mark.parametrize("name", ["a/b", "../x", "[red]x[/red]", "<script>", "a b", "-x", "x" * 300])
def test_a_plugin_whose_name_cannot_be_a_folder_is_refused_before_anything_runs(tmp_path, name):
    path = tmp_path / "plugin.py"
    path.write_text(f"from benchmark import Method\n\n\nclass Odd(Method):\n    name = {name!r}\n")
    with pytest.raises(PluginError, match=r"plugin\.py: class Odd: the name ") as error:
        discover([path])
    assert "\n" not in str(error.value) and len(str(error.value)) < 200 + len(str(path))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("def masks(self, block): return None", "has `masks`, which nothing calls; did you mean `mask`"),
        ("def losses(self, backbone, step): return 0", "did you mean `loss`"),
        ("def interpolate(self, block): return None", "did you mean `interpolation`"),
        ("def on_steps(self, backbone, progress): pass", "did you mean `on_step`"),
        ("curves: dict = {}", "has a parameter `curves`; did you mean `curve`"),
        ("reference: str = 'x'", "did you mean `references`"),
    ],
)
def test_a_name_that_is_nearly_a_hooks_is_refused(tmp_path, line, message):
    with pytest.raises(PluginError, match=re.escape(message)) as error:
        discover([write(tmp_path, NAMED.format(name="near") + f"    {line}\n")])
    assert "\n" not in str(error.value) and "plugin.py" in str(error.value)


def test_helpers_of_ones_own_are_no_slips(tmp_path):
    own = "    def mask(self, block): return self.masks(block)\n    def masks(self, block): return None\n"
    own += "    def _losses(self): return 0\n    def choose(self): return 1\n    side: int = 3\n"
    assert "own" in discover([write(tmp_path, NAMED.format(name="own") + own)])


@pytest.mark.parametrize(
    "encoded",
    [
        b"\xef\xbb\xbf" + NAMED.format(name="coded").encode(),
        b"# -*- coding: latin-1 -*-\n# \xe9\xe8\n" + NAMED.format(name="coded").encode("latin-1"),
        "# \u03b3 \u2264 1\n".encode() + NAMED.format(name="coded").encode(),
        NAMED.format(name="coded").replace("\n", "\r\n").encode(),
    ],
)
def test_a_plugin_is_read_as_python_reads_it(tmp_path, encoded):
    path = tmp_path / "coded.py"
    path.write_bytes(encoded)
    plain = resolve([str(write(tmp_path, NAMED.format(name="coded")))])[0].code_fingerprint()
    assert resolve([str(path)])[0].code_fingerprint() == plain
