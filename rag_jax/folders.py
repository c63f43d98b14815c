"""Folders that are replaced whole: built beside, renamed when they are finished; and second names for their files."""

import ctypes
import glob
import os
import shutil
from collections.abc import Callable
from pathlib import Path

from rag_jax.errors import fail
from rag_jax.files import flush, temporary_beside, writing
from rag_jax.progress import waiting


def build_folder(final: str | Path, build: Callable[[Path], None]) -> None:
    """Calls build(folder beside `final`) and renames that to `final`; a failure leaves nothing behind."""
    final = Path(final)
    final.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_beside(final)
    try:
        with writing(final, temporary):
            temporary.mkdir()
            build(temporary)
            replace_folder(temporary, final)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def replace_folder(temporary: str | Path, final: str | Path) -> None:
    """Flushes a finished folder and renames it to `final`, whose older folder is removed when all is well.

    At no moment is there none, where the file system can exchange two names.
    """
    temporary, final = Path(temporary), Path(final)
    with waiting(f"{final}: written out to the disk"):
        for member in temporary.rglob("*"):
            flush(member)
    aside = temporary_beside(final).with_suffix(".old")
    if final.exists() and _exchange(temporary, final):
        os.replace(temporary, aside)
    else:
        try:
            if final.exists():
                os.replace(final, aside)
            os.replace(temporary, final)
        except BaseException:
            if aside.exists() and not final.exists():
                os.replace(aside, final)
            raise
    flush(final.parent)
    remove_older(final)


def remove_older(final: Path) -> None:
    """Removes what once had the name of a folder that is in place: also of whoever was killed before he could."""
    for old in final.parent.glob(f".{glob.escape(final.name)}.*.old"):
        shutil.rmtree(old, ignore_errors=True)


def real(folder: Path) -> Path:
    """Where a folder lies that may be a link, as to a larger disk: beside it another is built to take its place."""
    return folder.resolve() if folder.is_symlink() else folder


def check_replaceable(folder: Path) -> None:
    """UserError for a folder whose place no other can take; asked before any work goes into that other."""
    if os.path.ismount(folder):
        fail(f"{folder}: is a mount point, which cannot change places with another folder; give a folder in it")


def _exchange(one: Path, other: Path) -> bool:
    """Gives two folders each other's name in one step; False where the system or the file system cannot."""
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    here, exchange = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    return rename is not None and rename(here, os.fsencode(one), here, os.fsencode(other), exchange) == 0


def link(source: str | Path, target: str | Path) -> None:
    """A second name for a file that is never written in place; a copy where the file system has none."""
    Path(target).unlink(missing_ok=True)
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def link_folder(source: Path, target: Path) -> None:
    """A folder of such names for all files of another, in place of what is there."""
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(source, target, copy_function=link)
