"""What the project says about itself in several places is the same in all of them."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

import foveate
from foveate.engine.versions import NEWEST, OLDEST

pytestmark = pytest.mark.project

ROOT = Path(__file__).parent.parent
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PINS = dict(
    line.split("==") for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines() if line and not line.startswith("#")
)


def read(path: str) -> Any:
    return yaml.safe_load((ROOT / path).read_text(encoding="utf-8"))


def steps(workflow: str) -> list[dict[str, Any]]:
    """Of all jobs of a workflow."""
    return [step for job in read(f".github/workflows/{workflow}.yml")["jobs"].values() for step in job["steps"]]


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def test_hooks_run_ruff_at_the_version_of_continuous_integration() -> None:
    hooks = [hook for repository in read(".pre-commit-config.yaml")["repos"] for hook in repository["hooks"]]
    assert {hook["id"] for hook in hooks} == {"ruff-check", "ruff-format"}
    assert [hook["additional_dependencies"] for hook in hooks] == [[f"ruff=={PINS['ruff']}"]] * len(hooks)


def test_everything_that_is_asked_for_is_pinned() -> None:
    extras = PROJECT["optional-dependencies"]
    pinned = {canonical(name) for name in PINS}
    wanted = [line for extra in ("demo", "dev", "docs", "eval", "explain", "plots", "video") for line in extras[extra]]
    names = {canonical(re.match(r"[\w.-]+", line)[0]) for line in [*PROJECT["dependencies"], *wanted]} - {"foveate"}  # type: ignore[index]
    assert not names - pinned


def test_supported_versions_are_the_same_everywhere() -> None:
    oldest, newest = OLDEST.rpartition(".")[0], NEWEST.rpartition(".")[0]
    assert f"transformers>={oldest}" in PROJECT["dependencies"]
    assert PINS["transformers"] == NEWEST
    assert f"| transformers | {oldest} to {newest};" in README
    torch = next(line for line in PROJECT["dependencies"] if line.startswith("torch>="))
    assert f"| PyTorch | {torch.removeprefix('torch>=')} or newer |" in README
    python = PROJECT["requires-python"].removeprefix(">=")
    assert f"| Python | {python} or newer; the tests run on {python} |" in README
    assert {step["with"]["python-version"] for step in steps("ci") if "python-version" in step.get("with", {})} == {python}
    assert badge("transformers") == f"{oldest} to {newest}"
    assert badge("python") == f"{python} or newer"
    assert badge("license") == PROJECT["license"]


def badge(name: str) -> str:
    """What a badge of the README says, which its picture shows too."""
    svg = (ROOT / "docs" / "images" / "badges" / f"{name}.svg").read_text(encoding="utf-8")
    left, right = re.findall(r"<text [^>]*>([^<]*)</text>", svg)
    assert left == name
    assert f"<title>{left}: {right}</title>" in svg
    assert f"(docs/images/badges/{name}.svg)" in README
    return right


def test_badges_need_no_other_machine() -> None:
    assert not re.findall(r"!\[[^\]]*\]\(https?://", README)


def test_the_citation_file_fits_the_package_and_the_papers_of_the_readme() -> None:
    cited = read("CITATION.cff")
    assert (cited["version"], cited["license"], cited["cff-version"]) == (foveate.__version__, PROJECT["license"], "1.2.0")
    papers = {work["identifiers"][0]["value"].removeprefix("arXiv:"): work for work in cited["references"]}
    entries = re.findall(r"title\s+= \{(.+?)\},\s+author\s+= \{(.+?)\},.+?eprint\s+= \{(.+?)\}", README, re.DOTALL)
    assert {eprint for *_, eprint in entries} == set(papers) == {"2503.10501", "2506.01097"}
    for title, authors, eprint in entries:
        assert title == papers[eprint]["title"]
        assert authors == " and ".join(f"{each['family-names']}, {each['given-names']}" for each in papers[eprint]["authors"])


def test_an_address_is_published_only_where_there_is_one() -> None:
    """The README names a variable until `project.urls` names an address, and then that address."""
    urls = PROJECT.get("urls", {})
    assert ("FOVEATE_URL" in README) == (not urls)
    assert all(address in README for name, address in urls.items() if name == "Source")


@pytest.mark.parametrize("form", sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("[!c]*.yml")), ids=lambda form: form.stem)
def test_forms_have_what_the_platform_asks_for(form: Path) -> None:
    content = yaml.safe_load(form.read_text(encoding="utf-8"))
    assert {"name", "description", "body"} <= set(content)
    ids = [field["id"] for field in content["body"] if field["type"] != "markdown"]
    assert ids
    assert len(ids) == len(set(ids))
    assert all(field["attributes"].get("label") for field in content["body"] if field["type"] != "markdown")


def test_public_continuous_integration_runs_the_script_of_everybody() -> None:
    assert ".ci/run" in [step.get("run") for step in steps("ci")]


def test_commands_of_make_that_pages_name_exist() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    (phony,) = re.findall(r"^\.PHONY: (.+)$", makefile, re.MULTILINE)
    targets = {*phony.split()}
    pages = [README, *((ROOT / name).read_text(encoding="utf-8") for name in ("CONTRIBUTING.md", ".ci/run"))]
    named = {
        name for page in pages for names in re.findall(r"^make ([\w-]+)|`make ([\w-]+)`", page, re.MULTILINE) for name in names if name
    }
    assert {"demo", "test", "site", "test-wheel"} <= named <= targets
