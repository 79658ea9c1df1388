"""A checkpoint's folder as it is served, made without the command that users have."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def serve_folder(folder: Path, out: Path, settings: dict[str, Any] | None) -> Path:
    """A folder with another configuration and the same files."""
    out.mkdir(parents=True)
    for file in folder.iterdir():
        if file.name != "config.json":
            (out / file.name).symlink_to(file.resolve())
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    if settings is not None:
        config |= {"architectures": [f"Foveate{config['architectures'][0]}"], "foveate": settings}
    (out / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return out
