"""What the documents tell a reader to type works: commands parse, environments exist, methods in them are methods."""

import configparser
import re
import shlex
from pathlib import Path

import pytest
import torch
from typer.main import get_command

from benchmark.cli import commands as subcommands
from benchmark.cli.app import app
from benchmark.flops.command import FlopsRequest, count_flops
from benchmark.method import Step, discover
from benchmark.nn import build_backbone, residual_blocks, training
from benchmark.tasks import find_task

ROOT = Path(__file__).parent.parent
DOCUMENTS = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *ROOT.glob("docs/**/*.md")])


def blocks(language):
    """Return the code blocks of a language: (where, text)."""
    found = []
    for path in DOCUMENTS:
        text = path.read_text(encoding="utf-8")
        for match in re.finditer(rf"^```{language}\n(.*?)^```", text, re.M | re.S):
            line = text[: match.start()].count("\n") + 1
            found.append((f"{path.relative_to(ROOT)}:{line}", match[1]))
    return found


def commands():
    """Return the command lines in the documents: (where, words)."""
    found = []
    for where, text in blocks("sh"):
        for line in re.sub(r"\\\n\s*", " ", text).splitlines():
            for part in line.split("&&"):
                words = shlex.split(part, comments=True)
                while words and "=" in words[0] and not words[0].startswith("-"):
                    words = words[1:]  # a variable for this command
                if words:
                    found.append((f"{where}: {part.strip()}", words))
    return found


@pytest.mark.parametrize(
    ("where", "words"), [c for c in commands() if c[1][0] == "saibench"], ids=lambda v: str(v)[:60]
)
def test_commands_parse(where, words):
    subcommands.load()
    command, arguments = get_command(app), words[1:]
    while hasattr(command, "get_command"):
        context = command.make_context("saibench", list(arguments[:1]), resilient_parsing=True)
        found = command.get_command(context, arguments[0])
        assert found is not None, f"{where}: there is no command {arguments[0]!r}"
        command, arguments = found, arguments[1:]
    # Values such as paths are not there in a test; options and their number must be.
    known = {flag for parameter in command.params for flag in (*parameter.opts, *parameter.secondary_opts)}
    for word in arguments:
        if word.startswith("--"):
            assert word.partition("=")[0] in known | {"--help"}, f"{where}: no option {word}"


@pytest.mark.parametrize(("where", "words"), [c for c in commands() if "tox" in c[1]], ids=lambda v: str(v)[:60])
def test_tox_environments_exist(where, words):
    tox = configparser.ConfigParser(interpolation=None)
    tox.read(ROOT / "tox.ini")
    if "-e" in words:
        for name in words[words.index("-e") + 1].split(","):
            assert f"testenv:{name}" in tox, f"{where}: tox.ini has no environment {name!r}"


METHODS = [block for block in blocks("python") if re.search(r"^class \w+\(\w*Method\)", block[1], re.M)]


@pytest.mark.parametrize(("where", "text"), METHODS, ids=[where for where, _ in METHODS])
def test_methods_in_documents_adapt_a_network(where, text, tmp_path):
    path = tmp_path / "documented.py"
    path.write_text(text, encoding="utf-8")
    known = set(discover())
    (name,) = set(discover([path])) - known
    method = discover([path])[name].make({})
    model = build_backbone("mini")
    method.adapt(model)
    assert any(block.work.masks or block.work.gates for block in residual_blocks(model)), where
    method.on_step(model, 0.5)
    with training(0.5):
        outputs = model.train()(torch.randn(2, 3, 64, 64))
        assert torch.isfinite(method.loss(model, Step(0.5, [0, 1], outputs)))


def test_there_are_documented_methods_and_commands():
    assert METHODS and len(commands()) > 5


def leads_somewhere(path, target):
    """Tell whether a link leads to a file; from the site's pages, to one of the site."""
    site = ROOT / "docs"
    found = (path.parent / target).resolve()
    return found.exists() and (site not in path.parents or found.is_relative_to(site))


def test_links_between_documents_lead_somewhere():
    broken = [
        f"{path.relative_to(ROOT)}: {target}"
        for path in DOCUMENTS
        for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", path.read_text(encoding="utf-8"))
        if not leads_somewhere(path, target)
    ]
    assert not broken


def rows(document, marker):
    """Return the cells of a table of the documents, by its first column; rows whose first cell is empty continue it."""
    lines = (ROOT / "docs" / document).read_text(encoding="utf-8").partition(marker)[2].splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith("|"))
    table = []
    for line in lines[start + 2 :]:
        if not line.startswith("|"):
            break
        cells = [cell.strip().strip("`") for cell in line.strip("|").split("|")]
        table.append([cells[0] or table[-1][0], *cells[1:]])
    return table


def test_design_names_every_module():
    text = (ROOT / "docs" / "design.md").read_text(encoding="utf-8").partition("## 3. Rooms")[2].partition("## 4.")[0]
    modules = [path for path in (ROOT / "benchmark").iterdir() if not path.name.startswith(("_", "."))]
    names = [path.name if path.suffix else f"{path.name}/" for path in modules if path.suffix in ("", ".py")]
    assert not [name for name in names if name not in text]


def test_rendered_sets_have_the_documented_extent():
    for task, scale, train, val, pixels, _ in rows("data.md", "## Rendered sets"):
        embedded = find_task(task).embedded
        size, times = embedded.sizes[scale], len(embedded.classes) if embedded.per_class else 1
        assert {"train": int(train), "val": int(val)} == {split: times * n for split, n in size.images.items()}
        assert pixels == f"{size.height} × {size.width}"


def test_a_run_at_scale_paper_needs_the_documented_computation():
    images = {task: int(train) for task, _, train, _ in rows("paper.md", "**Data.**")}
    found = rows("paper.md", "## How much computation")
    assert [row[0] for row in found] == list(images)
    for task, seen, gmacs, operations, hours in found:
        schedule = find_task(task).recipe("paper").train
        # Segmentation trains on crops, and is convolutions alone: its computation grows with the area.
        side, part = (256, 768**2 / (256 * 512)) if task == "cityscapes" else (None, 1.0)
        count = part * count_flops(FlopsRequest(task, shorter_side=side, convention="measured"))["gmacs"]
        total = schedule.length(images[task]) * schedule.batch
        assert int(seen) == total
        assert float(gmacs) == pytest.approx(count, rel=1e-2)
        assert float(operations) == pytest.approx(6 * total * count / 1e9, rel=2e-2)  # a MAC is two; backward is twice
        assert float(hours) == pytest.approx(6 * total * count / 1e4 / 3600, rel=2e-2)
