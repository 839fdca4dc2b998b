"""What a plug-in's identity is made of, and what it may import."""

import importlib
import json
import os
import subprocess
import sys
import textwrap

import pytest

from benchmark.errors import PluginError
from benchmark.method import discover
from benchmark.tasks import find_task
from tests.conftest import FIXTURES, TINY

METHOD = """
from benchmark import Method
{imports}


class Grid(Method):
    name = "grid_of_helpers"

    def stride_here(self):
        {lazily}
        return {stride}
"""


def write(folder, imports="from helper import STRIDE", stride="STRIDE", lazily="pass", **files):
    """Write a plug-in and the files beside it, by name without ending; ``__`` ends a folder's."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        path = folder / f"{name.replace('__', '/').replace('INIT', '__init__')}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text))
    path = folder / "grid.py"
    path.write_text(METHOD.format(imports=imports, stride=stride, lazily=lazily))
    return path


def load(path):
    return discover([path])["grid_of_helpers"]


def stride_of(method):
    return method().stride_here()


#: Ways of importing a helper that says 2, or 3 with the text in ``other``.
IMPORTS = {
    "a name": {"helper": "STRIDE = 2", "other": "STRIDE = 3"},
    "a module": {"imports": "import helper", "stride": "helper.STRIDE", "helper": "STRIDE = 2", "other": "STRIDE = 3"},
    "relative": {"imports": "from .helper import STRIDE", "helper": "STRIDE = 2", "other": "STRIDE = 3"},
    "everything": {"imports": "from helper import *", "helper": "STRIDE = 2", "other": "STRIDE = 3"},
    "under another name": {
        "imports": "import helper as h", "stride": "h.STRIDE", "helper": "STRIDE = 2", "other": "STRIDE = 3"
    },
    "inside of a function": {
        "imports": "", "lazily": "from helper import STRIDE", "helper": "STRIDE = 2", "other": "STRIDE = 3"
    },
    "through another helper": {
        "imports": "from first import STRIDE", "first": "from helper import STRIDE", "helper": "STRIDE = 2",
        "other": "STRIDE = 3",
    },
    "from a package": {
        "imports": "from tools import STRIDE", "tools__INIT": "from .sizes import STRIDE", "tools__sizes": "STRIDE = 2",
        "other": "STRIDE = 3", "changed": "tools/sizes.py",
    },
    "a module of a package": {
        "imports": "import tools.sizes", "stride": "tools.sizes.STRIDE", "tools__INIT": "",
        "tools__sizes": "STRIDE = 2", "other": "STRIDE = 3", "changed": "tools/sizes.py",
    },
    "a package without a file": {
        "imports": "from tools.sizes import STRIDE", "tools__sizes": "STRIDE = 2", "other": "STRIDE = 3",
        "changed": "tools/sizes.py",
    },
    "by __import__": {
        "imports": "import helper\nSTRIDE = __import__('helper').STRIDE", "helper": "STRIDE = 2", "other": "STRIDE = 3"
    },
    "a class that was made there": {
        "imports": "from helper import Base\nSTRIDE = Base.STRIDE", "helper": "class Base:\n    STRIDE = 2",
        "other": "class Base:\n    STRIDE = 3",
    },
    "a label, which describes methods alone": {
        "imports": "from helper import Base\nSTRIDE = Base.label", "helper": "class Base:\n    label = 2",
        "other": "class Base:\n    label = 3",
    },
}  # fmt: skip


@pytest.mark.parametrize("way", IMPORTS)
def test_a_helper_is_found_and_its_code_is_part_of_the_methods_identity(tmp_path, way):
    files = dict(IMPORTS[way])
    other, changed = files.pop("other"), files.pop("changed", "helper.py")
    path = write(tmp_path, **files)
    first = load(path)
    before = first.code_fingerprint()
    assert stride_of(first) == 2
    (tmp_path / changed).write_text("# a comment, of another size\n" + (tmp_path / changed).read_text())
    assert load(path).code_fingerprint() == before
    (tmp_path / changed).write_text(other)  # within a second, and of the size that it had at first
    second = load(path)
    assert second.code_fingerprint() != before and stride_of(second) == 3
    assert first.code_fingerprint() == before and stride_of(first) == 2


def test_two_plugins_with_a_helper_of_one_name_each_have_their_own(tmp_path):
    for stride in (2, 3):
        path = write(tmp_path / str(stride), imports="", stride="helper.STRIDE", lazily="import helper",
                     helper=f"STRIDE = {stride}")  # fmt: skip
        path.write_text(path.read_text().replace("grid_of_helpers", f"grid_{stride}"))
    found = discover([tmp_path / "2" / "grid.py", tmp_path / "3" / "grid.py"])
    assert [stride_of(found[f"grid_{stride}"]) for stride in (3, 2, 3)] == [3, 2, 3]
    assert "helper" not in sys.modules
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("helper")


def test_files_beside_a_plugin_do_not_hide_python_or_saibench_and_nobody_else_sees_them(tmp_path):
    spoilt = dict.fromkeys(("json", "random", "benchmark", "methods", "torch"), "raise RuntimeError('not this one')")
    path = write(
        tmp_path, imports="import json\nimport random\nfrom helper import STRIDE\njson.dumps(random.random())",
        helper="import json, statistics\nSTRIDE = 2", **spoilt,
    )  # fmt: skip
    before = list(sys.path)
    assert stride_of(load(path)) == 2 and sys.path == before
    # What others import, such as PyTorch its own, is not looked up there either: only what the plug-in's own files do.
    script = f"from benchmark.method import discover; discover([__import__('pathlib').Path({str(path)!r})]); " + (
        "import statistics, torch.utils.data"
    )
    subprocess.run([sys.executable, "-c", script], check=True, cwd=tmp_path.parent)


def test_a_folder_of_data_hides_no_installed_package(tmp_path):
    (tmp_path / "numpy").mkdir(parents=True)
    path = write(tmp_path, imports="import numpy\nSTRIDE = int(numpy.array(2))")
    assert stride_of(load(path)) == 2


def test_a_module_from_pythons_path_counts_where_it_is_not_installed(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path / "lib"))
    (tmp_path / "lib").mkdir()
    shared = tmp_path / "lib" / "saibench_test_shared.py"
    shared.write_text("STRIDE = 2")
    imports = "import importlib\nSTRIDE = importlib.import_module('saibench_' + 'test_shared').STRIDE"
    seen = {}
    for name, text in (("statically", "from saibench_test_shared import STRIDE"), ("computed", imports)):
        path = write(tmp_path / name, imports=f"{text}\nimport saibench_test_shared")
        seen[name] = load(path).code_fingerprint()
    shared.write_text("STRIDE = 33")
    importlib.invalidate_caches()
    for name, before in seen.items():
        path = tmp_path / name / "grid.py"
        path.write_text(path.read_text() + "\n")
        assert load(path).code_fingerprint() != before


def test_a_plugin_without_helpers_keeps_the_identity_that_it_had(plugin):
    """As computed by the version that hashed the file alone: records are found under it."""
    (found,) = (method for method in discover([plugin]).values() if method.name == "checkerboard")
    assert found.code_fingerprint() == "f31cf88561efcb06"


@pytest.mark.parametrize(
    "content",
    [
        b"\xef\xbb\xbf" + METHOD.format(imports="STRIDE = 2", stride="STRIDE", lazily="pass").encode(),
        b"# -*- coding: latin-1 -*-\n# \xe9\n"
        + METHOD.format(imports="STRIDE = 2", stride="STRIDE", lazily="pass").encode(),
    ],
)
def test_a_file_is_read_in_the_encoding_that_python_reads_it_in(tmp_path, content):
    path = tmp_path / "grid.py"
    path.write_bytes(content)
    plain = write(tmp_path / "plain", imports="STRIDE = 2")
    assert load(path).code_fingerprint() == load(plain).code_fingerprint()


def test_a_fault_in_a_helper_names_the_helper(tmp_path):
    path = write(tmp_path, helper="STRIDE = = 2")
    with pytest.raises(PluginError, match=r"grid\.py:3: importing it raised SyntaxError.*helper\.py:1"):
        load(path)
    path = write(tmp_path, imports="from nowhere import STRIDE")
    with pytest.raises(PluginError, match=r"grid\.py:3: importing it raised ModuleNotFoundError: No module named 'now"):
        load(path)


def test_a_tasks_helpers_are_part_of_the_identity_of_its_cells(tmp_path):
    """In new processes: a task is imported once in one."""
    folder = tmp_path / "stripes"
    folder.mkdir()
    for path in (FIXTURES / "stripes").glob("*.py"):
        (folder / path.name).write_text(path.read_text())
    task = folder / "task.py"
    task.write_text(
        task.read_text().replace("import torch\n", "import torch\nfrom saibench_test_noise import NOISE\n", 1)
    )
    lib = tmp_path / "lib"
    lib.mkdir()
    script = (
        "import sys, json; from pathlib import Path; from benchmark.cells import Request, plan; "
        f"print(plan(Request({str(folder)!r}, 'dense', overrides=json.loads(sys.argv[1]))).cell.id)"
    )

    def identity(noise):
        (lib / "saibench_test_noise.py").write_text(f"NOISE = {noise}")
        paths = os.pathsep.join([str(lib), *filter(None, [os.environ.get("PYTHONPATH")]), os.getcwd()])
        environment = {**os.environ, "PYTHONPATH": paths, "SAIBENCH_CACHE": str(tmp_path / "cache")}
        done = subprocess.run(
            [sys.executable, "-c", script, json.dumps(TINY)], env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    first = identity(5)
    assert identity(5) == first != identity(6)


def test_a_task_finds_the_files_beside_it_under_their_own_names(tmp_path):
    folder = tmp_path / "stripes"
    folder.mkdir()
    for path in (FIXTURES / "stripes").glob("*.py"):
        text = path.read_text().replace("from .pictures", "from pictures").replace("from .task", "from task")
        (folder / path.name).write_text(text.replace('name = "stripes"', 'name = "stripes_of_another_folder"'))
    found = find_task(f"{folder}/")
    assert found.name == "stripes_of_another_folder" and "pictures" not in sys.modules
