"""`choreo init`: a new project in an empty folder, and nothing that is there is touched."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from choreo.cli.main import cli
from choreo.errors import ConfigurationError
from choreo.projects import DEFAULT, templates, write_project


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_it_makes_the_folder(tmp_path: Path) -> None:
    """What is written is said, and is a whole project."""
    written = write_project(DEFAULT, tmp_path / "new" / "shop")
    assert {str(path) for path in written} == set(contents(tmp_path / "new" / "shop"))
    assert {"streams.yaml", "README.md", ".gitignore", "shop/contracts.py", "tests/test_orders.py"} <= {
        str(path) for path in written
    }


def test_hidden_files_may_be_there(tmp_path: Path) -> None:
    """A repository or a virtual environment that was made before stays as it is."""
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git" / "config").write_text("mine")
    write_project(DEFAULT, tmp_path)
    assert contents(tmp_path)[".git/config"] == b"mine"


@pytest.mark.parametrize("name", ["notes.txt", "streams.yaml", ".gitignore"])
def test_nothing_is_touched(tmp_path: Path, name: str) -> None:
    """A folder that holds anything else, or a hidden file that would be overwritten, is refused whole."""
    (tmp_path / name).write_text("mine")
    with pytest.raises(ConfigurationError, match=f"is not empty: it holds {name}; name a new or an empty folder"):
        write_project(DEFAULT, tmp_path)
    assert contents(tmp_path) == {name: b"mine"}


def test_an_unknown_template(tmp_path: Path) -> None:
    """The refusal says which there are."""
    with pytest.raises(ConfigurationError, match=f"no template 'nope'; there are {DEFAULT}, "):
        write_project("nope", tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_a_folder_that_is_a_file(tmp_path: Path) -> None:
    """It is named, with what is wrong."""
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ConfigurationError, match="file: "):
        write_project(DEFAULT, tmp_path / "file")


def test_the_command_says_what_next(tmp_path: Path) -> None:
    """Every file, where to go and what to try."""
    result = CliRunner().invoke(cli, ["init", str(tmp_path / "shop")])
    assert result.exit_code == 0, result.output
    assert "streams.yaml" in result.output
    assert f"  cd {tmp_path / 'shop'}\n" in result.output
    assert "python -m pytest" in result.output


def test_the_list_tells_what_each_template_is() -> None:
    """The default one comes first."""
    lines = CliRunner().invoke(cli, ["init", "--list"]).output.splitlines()
    assert [line.split()[0] for line in lines] == list(templates())
    assert lines[0].startswith(DEFAULT)
    assert all(len(line.split()) > 2 for line in lines)
