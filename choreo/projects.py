"""New projects: the templates that choreo brings along, and writing one into a folder."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path

from choreo.errors import ConfigurationError

#: The template that is written if none is named.
DEFAULT = "starter"
#: What editors, version control and virtual environments leave in a folder that counts as empty.
_OVERLOOKED = "."
#: What running a template leaves in it, where it is run in place.
_LEFTOVERS = ("__pycache__", ".pytest_cache", ".hypothesis", ".choreo")


def templates() -> dict[str, str]:
    """Every template by name, in order, with the headline of its README."""
    found = {each.name: _headline(each) for each in _root().iterdir() if each.is_dir()}
    return {name: found[name] for name in sorted(found, key=lambda name: (name != DEFAULT, name))}


def write_project(template: str, folder: Path) -> list[Path]:
    """Write a template into ``folder``, which is made if it is not there.

    Hidden files (``.git``, ``.venv``) may be there already; nothing is overwritten.

    Returns:
        What was written, relative to ``folder``, in order.

    Raises:
        ConfigurationError: if there is no such template, or the folder is not empty or cannot be written.
    """
    if template not in templates():
        raise ConfigurationError(f"there is no template {template!r:.80}; there are {', '.join(templates())}")
    try:
        return _write(_root() / template, folder)
    except OSError as error:
        raise ConfigurationError(f"{error.filename or folder}: {error.strerror}") from None


def _write(source: Traversable, folder: Path) -> list[Path]:
    there = sorted(each.name for each in folder.iterdir()) if folder.is_dir() else []
    visible = [name for name in there if not name.startswith(_OVERLOOKED)]
    new = dict(_walk(source, Path()))
    taken = visible or [str(path) for path in new if (folder / path).exists()]
    if taken:
        names = ", ".join(taken[:5]) + (", ..." if len(taken) > 5 else "")
        raise ConfigurationError(f"{folder} is not empty: it holds {names}; name a new or an empty folder")
    for path, content in new.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        # "x" refuses to overwrite, whoever was faster.
        with (folder / path).open("xb") as file:
            file.write(content)
    return list(new)


def _walk(folder: Traversable, path: Path) -> Iterator[tuple[Path, bytes]]:
    for each in sorted(folder.iterdir(), key=lambda item: (item.is_dir(), item.name)):
        if each.name in _LEFTOVERS or each.name.endswith((".pyc", ".db")):
            continue
        if each.is_dir():
            yield from _walk(each, path / each.name)
        else:
            yield path / each.name, each.read_bytes()


def _root() -> Traversable:
    return files("choreo") / "templates"


def _headline(template: Traversable) -> str:
    first, _, _ = (template / "README.md").read_text("utf-8").partition("\n")
    return first.removeprefix("# ").strip()
