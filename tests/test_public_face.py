"""`foveate/__init__.pyi`, which type checkers and editors read, says what `foveate/__init__.py` does.

Run as a program, this writes the stub: python tests/test_public_face.py
"""

from __future__ import annotations

import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

import foveate

pytestmark = pytest.mark.project

STUB = Path(foveate.__file__).with_suffix(".pyi")


def stub() -> str:
    """What the stub must be: one line per public name, which stays in this form under the linter."""
    faces = sorted(foveate._FACE.items())
    lines = [f"from {module} import {name} as {name}" for module, names in faces for name in sorted(names, key=_as_the_linter_does)]
    return "\n".join(["# Written by tests/test_public_face.py from __init__.py.", "", *lines, ""])


def _as_the_linter_does(name: str) -> tuple[bool, bool, str]:
    """Names in capitals before other classes, these before functions, and case does not matter among them."""
    return not name.isupper(), not name[0].isupper(), name.lower()


def test_the_stub_has_the_names_of_the_module() -> None:
    assert STUB.read_text(encoding="utf-8") == stub(), f"run python {Path(__file__).name}"


@pytest.mark.parametrize("name", foveate.__all__)
def test_a_public_name_comes_from_the_module_that_defines_it(name: str) -> None:
    value = getattr(foveate, name)
    assert value is getattr(import_module(foveate._HOMES[name]), name)
    assert name in dir(foveate)


def test_each_public_name_is_listed_once() -> None:
    listed = [name for names in foveate._FACE.values() for name in names]
    assert sorted(listed) == sorted(set(listed)) == foveate.__all__


def test_another_name_is_no_attribute() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Tokencarve'"):
        foveate.Tokencarve  # noqa: B018


def test_a_type_checker_knows_the_public_names(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(
        "import foveate\n"
        "reveal_type(foveate.FastV(keep=4).keep)\n"
        "reveal_type(foveate.parse_method('fastv:keep=4'))\n"
        "foveate.Missing\n"
        "foveate.FastV(keep='x')\n"
    )
    # Other packages are left unread, because their types take minutes and say nothing about these names.
    others = "".join(f"[mypy-{name}.*]\nfollow_imports = skip\n" for name in ("torch", "transformers", "numpy", "pydantic", "PIL"))
    (tmp_path / "mypy.ini").write_text(f"[mypy]\nfollow_imports = silent\n{others}")
    mypy = [sys.executable, "-m", "mypy", "--no-incremental", f"--config-file={tmp_path / 'mypy.ini'}", str(program)]
    said = subprocess.run(mypy, capture_output=True, text=True, check=False, cwd=STUB.parents[1]).stdout
    assert 'Revealed type is "int | float"' in said.replace("builtins.", "")
    assert 'Revealed type is "foveate.method.Method"' in said
    assert "Missing" in said
    assert 'incompatible type "str"' in said


def test_importing_foveate_imports_nothing_heavy() -> None:
    program = "import sys, foveate; dir(foveate); print(sorted({'torch', 'transformers', 'pydantic', 'yaml'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


if __name__ == "__main__":
    STUB.write_text(stub(), encoding="utf-8")
