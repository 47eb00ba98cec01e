"""Configuration files as text, and what is said of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from lmkd.config import Config, ConfigError, load_config


def write(directory: Path, text: str, name: str = "lmkd.toml") -> Path:
    path = directory / name
    path.write_text(text)
    return path


def load(directory: Path, *texts: str) -> Config:
    """Load texts as files, in this order."""
    return load_config(
        write(directory, text, f"{number}.toml") for number, text in enumerate(texts)
    )


def mistakes_of(directory: Path, text: str) -> list[str]:
    """Return what is said of a file, without the path of the file."""
    path = write(directory, text)
    with pytest.raises(ConfigError) as caught:
        load_config([path])
    said = [str(mistake) for mistake in caught.value.mistakes]
    assert str(caught.value) == "\n".join(said)
    assert all(line.startswith(f"{path}:") for line in said)
    return [line.removeprefix(f"{path}:") for line in said]


def warnings_of(directory: Path, *texts: str) -> list[str]:
    """Return the warnings, without the folder of the files."""
    loaded = load(directory, *texts)
    return [str(warning).removeprefix(f"{directory}/") for warning in loaded.warnings]
