"""Write files atomically, so that no reader ever finds half of one. Nothing in the package writes a file in another way.

The content first goes into a temporary file in the same folder, is flushed to disk, and then replaces the target in one step. If a library
would write by itself, its output is made in memory and written here, because some libraries do not notice a full disk.
"""

from __future__ import annotations

import errno
import io
import itertools
import os
import platform
import re
import stat
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from foveate.errors import WriteError

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from PIL.Image import Image

__all__ = [
    "UNFINISHED",
    "append_line",
    "clear",
    "is_leftover",
    "leftovers",
    "make_folder",
    "whole",
    "whole_folder",
    "write_error",
    "write_figure",
    "write_made",
    "write_picture",
    "write_whole",
]

UNFINISHED = ".part"
"""The suffix of unfinished files and folders; their names begin with a dot."""

_HOST = f"{zlib.crc32(platform.node().encode()):08x}"
_LONGEST = 180  # bytes of a file's name that its unfinished file repeats: file systems allow 255
_OURS = re.compile(rf"\..+\.([0-9a-f]{{8}}-\d+-\d+|\d+){re.escape(UNFINISHED)}")
_numbers = itertools.count()


@contextmanager
def whole(path: str | Path) -> Iterator[Path]:
    """Give a path to write a file to, so that a kill at any time leaves the old file or the new one; at the end it replaces the target.

    A device or a pipe is written to directly, and a symbolic link stays a link.

    Args:
        path: in an existing folder.

    Raises:
        WriteError: it cannot be written; what was there before is unchanged.
    """
    given = Path(path)
    try:
        path = given.resolve() if given.is_symlink() else given
        if path.exists() and not path.is_file() and not path.is_dir():
            yield path
            return
        _clear_dead(path)
        unfinished = _beside(path)
        try:
            yield unfinished
            if path.is_file():
                unfinished.chmod(stat.S_IMODE(path.stat().st_mode))
            _to_disk(unfinished)
            os.replace(unfinished, path)
            _to_disk(path.parent)
        finally:
            unfinished.unlink(missing_ok=True)
    except WriteError:
        raise
    except OSError as error:
        raise write_error(given, error) from error


def write_whole(path: str | Path, content: str | bytes | memoryview) -> None:
    """Write a file, so that a kill at any time leaves the old file or the new one.

    Args:
        path: in an existing folder.
        content: all of it; text is written as UTF-8.

    Raises:
        WriteError: it cannot be written; what was there before is unchanged.
    """
    data = content.encode() if isinstance(content, str) else content
    with whole(path) as unfinished, unfinished.open("wb") as file:
        file.write(data)


def write_made(path: str | Path, make: Callable[[BinaryIO], object]) -> None:
    """Write what `make` puts into a buffer, such as an encoded picture; a kill at any time leaves the old file or the new one.

    Raises:
        WriteError: it cannot be written; what was there before is unchanged.
    """
    buffer = io.BytesIO()
    make(buffer)
    write_whole(path, buffer.getbuffer())


def write_picture(path: str | Path, picture: Image) -> None:
    """Write a picture in the format of the path's extension.

    Args:
        path: ends in an extension that Pillow knows, in lower or upper case.
        picture: any size and mode that the format can hold.

    Raises:
        WriteError: it cannot be written; what was there before is unchanged.
    """
    from PIL import Image

    form = Image.registered_extensions()[Path(path).suffix.lower()]
    write_made(path, lambda buffer: picture.save(buffer, form))


def write_figure(path: str | Path, figure: Figure, dpi: int = 110) -> None:
    """Write a matplotlib figure in the format of the path's extension.

    Raises:
        WriteError: it cannot be written; what was there before is unchanged.
    """
    write_made(path, lambda buffer: figure.savefig(buffer, format=Path(path).suffix[1:].lower(), dpi=dpi))


@contextmanager
def whole_folder(path: str | Path) -> Iterator[Path]:
    """Give a path to write a folder of related files to.

    A new folder appears in one step, and so does one that is there and empty. In any other, each file is replaced whole, one after the
    other, and other files stay. Symbolic links in the folder stay links.

    Raises:
        WriteError: it cannot be written; what was there before is unchanged.
    """
    path = Path(path)
    unfinished = _beside(path)
    try:
        try:
            unfinished.mkdir(parents=True)
            yield unfinished
            for file in _files(unfinished):
                if not file.is_symlink():  # what it leads to is another's, and may be read-only
                    _to_disk(file)
            if _has_content(path):
                for file in _files(unfinished):
                    place = path / file.relative_to(unfinished)
                    place.parent.mkdir(parents=True, exist_ok=True)
                    os.replace(file, place)
            else:
                if path.exists():
                    unfinished.chmod(stat.S_IMODE(path.stat().st_mode))
                os.replace(unfinished, path)
            _to_disk(path)
            _to_disk(path.parent)
        finally:
            _remove(unfinished)
    except WriteError:
        raise
    except OSError as error:
        raise write_error(path, error) from error


def append_line(path: str | Path, line: str) -> None:
    """Append a line to a file, whole or not at all; an incomplete last line, left by a kill, is cut off first.

    Raises:
        WriteError: it cannot be written; what was there before is unchanged.
    """
    path = Path(path)
    try:
        with path.open("a+b", buffering=0) as file:
            length = _whole_lines(file)
            file.truncate(length)
            data = line.encode() + b"\n"
            try:
                if file.write(data) != len(data):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                os.fsync(file.fileno())
            except BaseException:
                file.truncate(length)
                raise
    except OSError as error:
        raise write_error(path, error) from error


def make_folder(path: str | Path) -> Path:
    """Create a folder, and its parents, unless it exists.

    Raises:
        WriteError: it cannot be created, or is a file.
    """
    path = Path(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise write_error(path, error) from error
    return path


def leftovers(folder: Path) -> Iterator[Path]:
    """What killed processes on any machine left unfinished in a folder and its subfolders."""
    return (path for path in folder.rglob(f".*{UNFINISHED}") if is_leftover(path))


def is_leftover(path: Path) -> bool:
    """Whether a name is that of an unfinished file, in this version or an earlier one."""
    return _OURS.fullmatch(path.name) is not None


def clear(folder: Path) -> None:
    """Remove what killed processes left unfinished in a folder and its subfolders; no other process may be writing there.

    Raises:
        WriteError: something cannot be removed.
    """
    for left in list(leftovers(folder)):
        try:
            _remove(left)
        except OSError as error:
            raise write_error(left, error) from error


def write_error(path: str | Path, error: BaseException) -> WriteError:
    """The error to raise when something cannot be written."""
    reason = getattr(error, "strerror", None) or " ".join(str(error).split()) or type(error).__name__
    found = WriteError(f"cannot write {path}: {reason}; make room there, or choose another place")
    found.errno = getattr(error, "errno", None)
    return found


def _beside(path: Path) -> Path:
    """A name in the same folder that belongs to this process and says who is writing."""
    return path.with_name(f"{_stem(path)}{os.getpid()}-{next(_numbers)}{UNFINISHED}")


def _stem(path: Path) -> str:
    """The common prefix of the names of all unfinished files for this one, on this machine."""
    return f".{os.fsdecode(os.fsencode(path.name)[:_LONGEST])}.{_HOST}-"


def _clear_dead(path: Path) -> None:
    """Remove what killed processes of this machine left unfinished of the same file."""
    stem = _stem(path)
    with suppress(OSError):  # a folder that cannot be listed may still be written to
        for name in os.listdir(path.parent):
            process = name.removeprefix(stem).partition("-")[0]
            if name.startswith(stem) and name.endswith(UNFINISHED) and process.isdigit() and not _alive(int(process)):
                _remove(path.with_name(name))


def _alive(process: int) -> bool:
    if os.name == "nt":  # on platforms without signal 0
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:  # another user's
        return True
    return True


def _to_disk(path: Path) -> None:
    """Flush a file, or the names in a folder, to disk, if the platform supports it."""
    folder = path.is_dir()
    if folder and os.name == "nt":
        return
    descriptor = os.open(path, os.O_RDONLY if folder else os.O_RDWR)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if not folder or error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some file systems cannot flush folders
            raise
    finally:
        os.close(descriptor)


def _whole_lines(file: BinaryIO) -> int:
    """How many bytes of a file form whole lines."""
    size = file.seek(0, os.SEEK_END)
    if not size:
        return 0
    file.seek(size - 1)
    if file.read(1) == b"\n":
        return size
    file.seek(0)
    return file.read().rfind(b"\n") + 1


def _has_content(path: Path) -> bool:
    """Whether something is there that a whole folder cannot replace in one step."""
    return path.exists() and (os.name == "nt" or path.is_symlink() or not path.is_dir() or any(path.iterdir()))


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _remove(path: Path) -> None:
    """Remove a file, or a folder with everything in it."""
    if path.is_dir() and not path.is_symlink():
        for own in path.iterdir():
            _remove(own)
        path.rmdir()
    else:
        path.unlink(missing_ok=True)
