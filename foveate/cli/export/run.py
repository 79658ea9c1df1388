"""`foveate export vllm`: writes the folder, and says what to do with it."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from foveate.cli import console
from foveate.cli.checks import parse_keep
from foveate.cli.specs import is_no_method, method_of
from foveate.errors import InputError

if TYPE_CHECKING:
    from foveate.cli.export.command import ExportVllm

__all__ = ["export"]

ADDRESS, PORT = "127.0.0.1", 8000
_TEMPLATES = ("chat_template.jinja", "chat_template.json", "additional_chat_templates")


def export(request: ExportVllm) -> None:
    """Write the folder and print the next two commands.

    Raises:
        FoveateError: whatever is wrong with the request, before anything is written.
    """
    from foveate.chat.models import DEMO, checkpoint_of
    from foveate.plugins.vllm.settings import FEATURE_CACHE_MIB, ServingSettings
    from foveate.plugins.vllm_export import export_vllm

    if is_no_method(request.method):
        raise InputError(f"{request.method!r} compresses nothing; serve the full model as it is: vllm serve {shlex.quote(request.model)}")
    method = method_of(request.method, parse_keep(request.keep), request.layer, request.seed)
    settings = ServingSettings(
        method,
        None if request.max_keep is None else parse_keep(request.max_keep),
        FEATURE_CACHE_MIB if request.feature_cache is None else request.feature_cache,
    )
    with console.spinner(f"writing {request.out}"):
        export_vllm(request.model, request.out, settings, copy=request.copy)
    question = "what does the sign say?" if request.model.startswith(DEMO) else "what does this picture show?"
    config = checkpoint_of(str(request.out)).config()
    commands = [serve_command(request.out, per_request=request.max_keep is not None), ask_command(request.out, question)]
    if request.as_json:
        console.put_json(
            {"folder": str(request.out), "architecture": config["architectures"][0], "settings": config["foveate"], "commands": commands}
        )
        return
    files = "copied" if request.copy else "linked, so keep the model where it is"
    console.put(f"written: {request.out} ({config['architectures'][0]}, {settings.method}; the model's files are {files})")
    if not _has_template(request.out):
        console.note("the model has no chat template; give vllm serve one with --chat-template FILE")
    console.put("\nserve it, where foveate[vllm] is installed:\n")
    console.put(f"  {commands[0]}")
    console.put("\nask it about an image file:\n")
    console.put(f"  {commands[1]}")


def serve_command(out: Path, *, per_request: bool) -> str:
    """How to serve a folder, on this machine alone.

    Args:
        out: the folder.
        per_request: whether requests may choose `keep`, which vLLM admits only if it trusts their processor options.
    """
    words = ["vllm", "serve", str(out), "--host", ADDRESS, "--port", str(PORT)]
    return shlex.join([*words, "--trust-request-mm-kwargs"] if per_request else words)


def ask_command(out: Path, question: str) -> str:
    """How to ask a served folder about the file image.png; the picture goes through a pipe, because arguments may not be that long."""
    picture = "data:image/png;base64,"
    content = [{"type": "image_url", "image_url": {"url": picture}}, {"type": "text", "text": question}]
    body = json.dumps({"model": str(out), "max_tokens": 32, "messages": [{"role": "user", "content": content}]}, ensure_ascii=False)
    form = body.replace("\\", "\\\\").replace("%", "%%").replace(f'"{picture}"', f'"{picture}%s"')
    url = f"http://{ADDRESS}:{PORT}/v1/chat/completions"
    return f'printf {shlex.quote(form)} "$(base64 -w0 image.png)" | curl -s {url} -H "Content-Type: application/json" -d @-'


def _has_template(out: Path) -> bool:
    settings = out / "tokenizer_config.json"
    return any((out / name).exists() for name in _TEMPLATES) or (settings.is_file() and '"chat_template"' in settings.read_text("utf-8"))
