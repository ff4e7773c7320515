"""What README and docs show is true: blocks run, commands exist, links lead somewhere."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from keras_robustseg.cli import app
from keras_robustseg.recipes import list_recipes, load_recipe

ROOT = Path(__file__).resolve().parents[1]
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
    ROOT / "benchmarks" / "RESULTS.md",
]
# Pages whose blocks train a network, trace a graph for serving, or solve many problems.
SLOW = {
    "README.md",
    "docs/export.md",
    "docs/methods.md",
    "docs/resume.md",
    "docs/theory/cycle.md",
    "docs/theory/heavy_ball.md",
    "docs/theory/invertibility.md",
    "docs/theory/unrolled.md",
}


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, its text, and the line it starts on."""

    language: str
    text: str
    line: int


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def blocks(page: Path, *languages: str) -> list[Block]:
    text = page.read_text(encoding="utf-8")
    found = re.finditer(r"^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    every = [Block(m[1], m[2], text.count("\n", 0, m.start()) + 2) for m in found]
    return [block for block in every if block.language in languages]


def prose(page: Path) -> str:
    """The page without its fenced blocks."""
    text = page.read_text(encoding="utf-8")
    return re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)


# Python blocks ---------------------------------------------------------------


def pages_with_python() -> list[object]:
    pages = [page for page in PAGES if blocks(page, "python")]
    assert {name_of(page) for page in pages} >= SLOW
    slow = [pytest.mark.slow]
    return [
        pytest.param(page, id=name_of(page), marks=slow if name_of(page) in SLOW else [])
        for page in pages
    ]


@pytest.mark.parametrize("page", pages_with_python())
def test_python_blocks_run_one_after_the_other(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {"__name__": "page"}
    for block in blocks(page, "python"):
        padded = "\n" * (block.line - 1) + block.text  # so that a traceback names the page's line
        exec(compile(padded, str(page), "exec"), names)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_blocks_are_well_formed(page: Path) -> None:
    for block in blocks(page, "python"):
        compile(block.text, f"{name_of(page)}:{block.line}", "exec")
    for block in blocks(page, "yaml", "json"):
        assert yaml.safe_load(block.text)
    fences = len(re.findall(r"^```", page.read_text(encoding="utf-8"), re.MULTILINE))
    known = ("python", "bash", "yaml", "json")
    assert fences == 2 * len(blocks(page, *known)), f"expected blocks in one of {known}"


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "yaml")], ids=name_of)
def test_yaml_blocks_fit_into_a_recipe(page: Path, tmp_path: Path) -> None:
    for block in blocks(page, "yaml"):
        recipe = yaml.safe_load((ROOT / "recipes" / "quickstart.yaml").read_text(encoding="utf-8"))
        for name, shown in yaml.safe_load(block.text).items():
            recipe[name] |= shown
        path = tmp_path / "shown.yaml"
        path.write_text(yaml.safe_dump(recipe), encoding="utf-8")
        assert load_recipe(path).name == "quickstart"


# Commands --------------------------------------------------------------------


def commands() -> Iterator[tuple[str, str]]:
    """Place and text of every `robustseg ...` in bash blocks and in inline code."""
    for page in PAGES:
        for block in blocks(page, "bash"):
            for number, line in enumerate(block.text.replace("\\\n", " ").splitlines()):
                for part in line.split("#")[0].split("&&"):
                    if part.strip().startswith("robustseg"):
                        yield f"{name_of(page)}:{block.line + number}", part.strip()
        for code in re.findall(r"`(robustseg [^`]+)`", prose(page)):
            yield name_of(page), code
    for recipe in sorted((ROOT / "recipes").glob("*.yaml")):
        for line in recipe.read_text(encoding="utf-8").splitlines():
            if found := re.search(r"^#.*?(robustseg [a-z][^`#]*)", line):
                yield f"recipes/{recipe.name}", re.split(r"\s{2,}|`", found[1])[0].strip()


def words_of(command: str) -> tuple[list[str], list[str]]:
    """The subcommand, such as `["recipe", "copy"]`, and what follows it."""
    words = shlex.split(command)[1:]
    nested = words[:1] == ["recipe"] and len(words) > 1 and not words[1].startswith("-")
    count = 2 if nested else 1
    return words[:count], words[count:]


def placed(pairs: Iterator[tuple[str, str]]) -> list[object]:
    return [pytest.param(text, id=f"{place} {text}") for place, text in dict.fromkeys(pairs)]


def test_the_main_commands_are_in_the_readme() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert "pip install -e . && robustseg train recipes/quickstart.yaml" in text
    assert 'pip install -e ".[test]" && pytest\n' in text
    assert "pytest -m slow" in text


@pytest.mark.parametrize("command", placed(commands()))
def test_commands_and_their_options_exist(command: str) -> None:
    subcommand, rest = words_of(command)
    shown = CliRunner().invoke(app, [*subcommand, "--help"])
    assert shown.exit_code == 0, shown.output
    options = [word.partition("=")[0] for word in rest if word.startswith("--")]
    assert [option for option in options if option not in shown.output] == []


@pytest.mark.parametrize("command", placed(commands()))
def test_recipes_and_overrides_in_commands_are_valid(
    command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    subcommand, rest = words_of(command)
    if subcommand[-1] not in ("train", "noise", "show", "copy", "check") or not rest:
        return
    recipe = rest[0]
    overrides = [rest[i + 1] for i, word in enumerate(rest) if word == "--set"]
    if recipe in list_recipes() or recipe.startswith("recipes/"):
        load_recipe(recipe, overrides=overrides)
    else:  # a stand-in for the reader's own file or folder
        assert re.fullmatch(r"my\.yaml|my_folder|runs/\w+/tuned\.yaml|RECIPE\w*", recipe), recipe


# Links -----------------------------------------------------------------------


def anchors(page: Path) -> set[str]:
    """Names of the headings as the usual Markdown hosts make them."""
    titles = re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).strip().replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_relative_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if "://" in target:
            continue
        path, _, anchor = target.partition("#")
        linked = (page.parent / path).resolve() if path else page
        assert linked.exists(), f"{name_of(page)}: {target}"
        assert not anchor or anchor in anchors(linked), f"{name_of(page)}: {target}"


def test_paths_in_prose_exist() -> None:
    """Files of the repository that contributors are sent to."""
    text = prose(ROOT / "CONTRIBUTING.md")
    paths = re.findall(r"`((?:tests|tools|benchmarks|keras_robustseg)/[\w./]+)`", text)
    assert paths
    assert [path for path in paths if not (ROOT / path).exists()] == []


# Tables and names ------------------------------------------------------------


def test_the_field_tables_are_those_of_the_schema() -> None:
    sys.path.insert(0, str(ROOT / "tools"))
    try:
        from make_recipe_docs import PAGE, page_with_fields
    finally:
        sys.path.pop(0)
    text = PAGE.read_text(encoding="utf-8")
    assert page_with_fields(text) == text, "run: python tools/make_recipe_docs.py"


def test_every_source_kind_and_noise_kind_is_described() -> None:
    from keras_robustseg.data import noise
    from keras_robustseg.data._registry import SOURCES

    text = (ROOT / "docs" / "data.md").read_text(encoding="utf-8")
    assert [name for name in (*SOURCES, *noise.KINDS) if f"`{name}`" not in text] == []


def test_every_extra_is_described() -> None:
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert [e for e in project["optional-dependencies"] if f"| `{e}` |" not in text] == []


def test_citation_file_agrees_with_the_package() -> None:
    from keras_robustseg import __version__

    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["cff-version"] == "1.2.0"
    assert {"message", "title", "authors", "version", "license"} <= citation.keys()
    assert citation["version"] == __version__
    assert f"{__version__}" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
