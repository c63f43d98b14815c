"""Compiled programs on disk, where jax finds them again: whole, unchanged, or not there.

jax writes an entry in place and reads it without a check of its own: half of one would stay for good, and of a flipped
bit in machine code nobody would hear.
"""

import hashlib
import sys
from pathlib import Path

from jax._src.compilation_cache_interface import CacheInterface

from rag_jax.files import write_atomically

DIGEST = hashlib.sha256().digest_size


class Programs(CacheInterface):
    """A folder of compiled programs by name, each with its SHA-256 behind it; a damaged one is named and removed."""

    def __init__(self, folder: str | Path):
        self._path, self._refused = Path(folder), False

    def get(self, key: str) -> bytes | None:
        """The program of that name; None where it is not there whole."""
        path = self._path / key
        if not path.is_file():
            return None
        content = path.read_bytes()
        program, digest = content[:-DIGEST], content[-DIGEST:]
        if hashlib.sha256(program).digest() == digest:
            return program
        print(f"warning: {path}: damaged; its program is compiled again", file=sys.stderr, flush=True)
        path.unlink(missing_ok=True)
        return None

    def put(self, key: str, value: bytes) -> None:
        """Keeps a program under its name, where the disk lets it."""
        try:
            write_atomically(self._path / key, value + hashlib.sha256(value).digest())
        except OSError as error:
            if not self._refused:
                print(f"warning: {self._path}: {error.strerror}; compiled programs are not kept", file=sys.stderr)
            self._refused = True
