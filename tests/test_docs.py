"""What the README says is so: its configuration is valid and the files and commands that it names are there."""

import importlib.util
import re
from pathlib import Path

from rag_jax.validation import validate

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_its_configuration_is_valid():
    code = next(block for block in re.findall(r"```python\n(.*?)```", README, re.DOTALL) if "get_config" in block)
    names = {}
    exec(code, names)
    validate(names["get_config"]())


def test_its_files_are_there():
    named = set(re.findall(r"`((?:rag_jax|configs|launch)/[\w/]+\.\w+)`", README))
    assert len(named) >= 7
    assert [name for name in sorted(named) if not (ROOT / name).is_file()] == []


def test_its_commands_are_there():
    commands = set(re.findall(r"python -m (rag_jax\.\w+)", README))
    assert commands and not [name for name in sorted(commands) if importlib.util.find_spec(name) is None]
    assert (ROOT / "launch" / "demo.sh").is_file() and (ROOT / "launch" / "test.sh").is_file()
