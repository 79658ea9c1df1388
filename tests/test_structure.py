"""Methods and families do not know each other, nothing else knows a family, and files are written in one way."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from pathlib import Path

import foveate
from foveate.families import REFUSED, families
from foveate.methods import methods

ROOT = Path(foveate.__file__).parent
MODELS_OF_THEIR_OWN = {"demo", "recipe", "plugins/vllm"}
"""They build a model of one family, the embedded one, or serve classes of another program, and so must name them."""


def code(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Line and text of every name and string, except docstrings."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            node.value.value = None  # a docstring is for people; comments are not part of the tree
    for node in ast.walk(tree):
        for field in ("id", "attr", "name", "arg", "module", "value"):
            text = getattr(node, field, None)
            if isinstance(text, str):
                yield getattr(node, "lineno", 0), text


def mentions(text: str, names: Iterable[str]) -> list[str]:
    """Which of the names occur in a text, in any case, with or without signs between their words."""
    spellings = [words(spelling) for spelling in (text, re.sub(r"(?<=[a-z])(?=[A-Z])", " ", text))]
    return [name for name in names if any(words(name) in spelling for spelling in spellings)]


@cache
def words(text: str) -> str:
    """In small letters, with one space around each word."""
    return f" {re.sub(r'[^a-z0-9]+', ' ', text.lower())} "


def found(files: Iterable[Path], named: Callable[[str], Iterable[str]]) -> list[str]:
    return [
        f"{file.relative_to(ROOT)}:{line}: {name} in {text!r}"
        for file in files
        for line, text in code(ast.parse(file.read_text(encoding="utf-8")))
        for name in named(text)
    ]


def test_no_family_is_named_outside_the_families() -> None:
    names = {name for family in families().values() for name in (family.name, *family.model_types)} | set(REFUSED)
    files = [
        file
        for file in sorted(ROOT.rglob("*.py"))
        if not any(file.relative_to(ROOT).as_posix().startswith(own) for own in ("families", *MODELS_OF_THEIR_OWN))
    ]
    assert len(files) > 40
    names.remove("git")  # a refused model that is called like a program
    assert not found(files, lambda text: mentions(text, names))


def test_no_method_is_named_inside_the_families() -> None:
    # As a whole, because a model may well pool or be random.
    names = {word for name, method in methods().items() for word in (name, method.__name__)}
    files = sorted((ROOT / "families").rglob("*.py"))
    assert len(files) > 15
    assert not found(files, lambda text: names & {text} or [text] * text.startswith("foveate.method"))


def test_no_model_is_known_to_a_method() -> None:
    for file in sorted((ROOT / "methods").rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [getattr(node, "module", None) or ""]
            assert not any(module.startswith(("transformers", "foveate.families", "foveate.compression")) for module in modules), file


def test_names_are_found_in_every_spelling() -> None:
    for text in ("llava", "LlavaForConditionalGeneration", "if model_type == 'llava-next'", "from x.llava_next import y", "is_llava_next"):
        assert "llava" in mentions(text, {"llava"})
    assert mentions("as with LLaVA-1.5", {"llava"})
    assert not mentions("lava larger evangellava llavas", {"llava"})


# Writing files.

SCRIPTS = ROOT.parent / "benchmarks"
WRITERS = {
    *("write_text", "write_bytes", "savefig", "save_file", "save_pretrained", "to_parquet", "to_csv", "to_json_file", "tofile", "savez"),
    *("save", "dump", "imsave", "mkstemp", "NamedTemporaryFile", "rename", "touch", "copyfile", "copy2", "copytree", "move", "rmtree"),
    *("mkdir", "makedirs", "imwrite", "writestr", "savetxt", "save_model", "ParquetWriter", "write_table"),
}
"""Names of functions and methods of Python and of libraries that write files."""
FROM_WRITER = {"whole", "whole_folder"}
OWN = {
    "explain/labels/label_files.py: self._writer.write_table",  # into a file that `whole` gave
    "explain/compressor/train.py: self.compressor.save_pretrained",
    "explain/labels/pictures.py: file.write_bytes",  # scratch
    "cli/ask/run.py: report.save",
    "chat/processors/bounded.py: os.fdopen",  # a pipe to the parent process
    "cli/bench/run.py: run.save",
    "measure/bench/memory.py: Path('/proc/self/clear_refs').write_text",  # a switch of the kernel
    "relevance_memory.py: Path('/proc/self/clear_refs').write_text",
}
"""What is named like a writer of files, and either writes through `foveate.files.writing` itself or writes nothing that anybody reads."""


def opens_to_write(call: ast.Call) -> bool:
    """Whether a call of `open`, a function or a method, can change a file."""
    name = getattr(call.func, "id", None) or getattr(call.func, "attr", None)
    if name not in ("open", "fdopen"):
        return False
    values = [*call.args, *(keyword.value for keyword in call.keywords)]
    modes = [value.value for value in values if isinstance(value, ast.Constant) and isinstance(value.value, str)]
    return any(re.fullmatch(r"[rwaxbt+]{1,4}", mode) and set(mode) & set("wax+") for mode in modes)


def safe_names(tree: ast.AST) -> set[str]:
    """Names bound by `with whole(...) as NAME`, buffers, what `write_made` hands over, and what comes from these by `open`."""
    safe: set[str] = set()
    for _ in range(2):
        for node in ast.walk(tree):
            if isinstance(node, ast.withitem) and isinstance(node.optional_vars, ast.Name):
                text = ast.unparse(node.context_expr)
                if text.partition("(")[0] in FROM_WRITER or text.partition(".")[0] in safe:
                    safe.add(node.optional_vars.id)
            elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
                text = ast.unparse(node.value)
                if text.startswith(("io.BytesIO(", "io.StringIO(")) or any(f"({name}(" in text for name in FROM_WRITER):
                    safe.add(node.targets[0].id)
            elif isinstance(node, ast.Call) and ast.unparse(node.func) == "write_made" and isinstance(node.args[1], ast.Lambda):
                safe |= {argument.arg for argument in node.args[1].args.args}
    return safe


def written(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Line and text of everything in a module that may write a file, and does not do so into what `foveate.files.writing` gave."""
    for scope in [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)] or [tree]:
        safe = safe_names(scope)
        called = {id(node.func): node for node in ast.walk(scope) if isinstance(node, ast.Call)}
        for node in ast.walk(scope):
            if isinstance(node, ast.Call) and opens_to_write(node):
                if not any(name in ast.unparse(node.func).split(".") for name in safe) and "whole(" not in ast.unparse(node.func):
                    yield node.lineno, ast.unparse(node.func)
            elif isinstance(node, ast.Attribute) and (node.attr in WRITERS or ast.unparse(node) in ("os.replace", "os.truncate")):
                call = called.get(id(node))
                given = ast.unparse(call) if call is not None else ""
                if not any(re.search(rf"\b{name}\b", given) for name in safe):
                    yield node.lineno, ast.unparse(node)


def test_files_are_written_in_one_way() -> None:
    files = [*sorted(ROOT.rglob("*.py")), *sorted(SCRIPTS.glob("*.py"))]
    assert len(files) > 150
    wrong, allowed = [], set()
    for file in files:
        name = file.relative_to(ROOT if file.is_relative_to(ROOT) else SCRIPTS).as_posix()
        if name != "files/writing.py":
            for line, text in written(ast.parse(file.read_text(encoding="utf-8"))):
                (allowed.add if f"{name}: {text}" in OWN else wrong.append)(
                    f"{name}: {text}" if f"{name}: {text}" in OWN else f"{name}:{line}: {text}"
                )
    assert not wrong, "write through foveate.files.writing"
    assert allowed == OWN


def test_every_other_way_of_writing_is_found() -> None:
    for text in (
        "Path(x).write_text(y)",
        "open(x, 'w')",
        "path.open('ab')",
        "x.open(mode='r+')",
        "torch.save(x, path)",
        "image.save(path)",
        "figure.savefig(path)",
        "write(path, 'picture', picture.save)",
        "model.save_pretrained(folder)",
        "json.dump(x, file)",
        "os.replace(a, b)",
        "np.save(path, x)",
    ):
        assert list(written(ast.parse(f"def f():\n    {text}"))), text
    for text in (
        "open(x)",
        "Image.open(x, formats=known)",
        "path.open('rb')",
        "text.replace('a', 'b')",
        "write_made(path, lambda buffer: torch.save(x, buffer))",
        "with whole(path) as unfinished:\n        rows.to_parquet(str(unfinished))",
        "buffer = io.BytesIO()\n    image.save(buffer, 'PNG')",
    ):
        assert not list(written(ast.parse(f"def f():\n    {text}"))), text


def loads(tree: ast.Module) -> Iterator[ast.Call]:
    """Calls of `from_pretrained` and `from_config` on anything but the base class."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in ("from_pretrained", "from_config"):
            owner = node.func.value
            mine = isinstance(owner, ast.Call) and isinstance(owner.func, ast.Name) and owner.func.id == "super"
            compressor = isinstance(owner, ast.Name) and owner.id == "ConvCompressor"  # reads tensors and JSON, and has no code to run
            if not mine and not compressor:
                yield node


def test_whatever_is_loaded_may_not_bring_code() -> None:
    found = {file: list(loads(ast.parse(file.read_text(encoding="utf-8")))) for file in sorted(ROOT.rglob("*.py"))}
    for file, calls in found.items():
        for call in calls:
            trusts = [option.value for option in call.keywords if option.arg == "trust_remote_code"]
            named = [value.value for value in trusts if isinstance(value, ast.Constant)]
            assert named == [False], f"{file.relative_to(ROOT)}:{call.lineno} loads without trust_remote_code=False"
    loaders = {file.relative_to(ROOT).as_posix() for file, calls in found.items() for call in calls if call.func.attr == "from_pretrained"}
    assert loaders == {"files/checkpoints/loader.py"}, "load through foveate.files.checkpoints, which refuses incomplete weights"
