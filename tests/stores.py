"""Two stores for tests of remote places: one in memory that fails at will, one in a folder that processes share."""

import os

import fsspec
from fsspec.implementations.local import LocalFileSystem
from fsspec.implementations.memory import MemoryFileSystem


class Killed(BaseException):
    """The process ends here."""


class Flaky(MemoryFileSystem):
    """flaky://: objects in memory; `before` and `after` each operation somebody may do what he likes.

    Hooks are called with the operation's name and the object's path, without the protocol; what they raise is raised.
    """

    protocol = "flaky"
    store, pseudo_dirs = {}, [""]
    before = after = staticmethod(lambda operation, path: None)

    @classmethod
    def _strip_protocol(cls, path):
        return super()._strip_protocol(path.removeprefix("flaky:/"))

    @classmethod
    def objects(cls):
        """Every object's content, by its path."""
        return {path: file.getvalue() for path, file in sorted(cls.store.items())}

    @classmethod
    def fill(cls, objects):
        """Puts objects in place of all that are there."""
        cls.store.clear()
        store = cls()
        for path, content in objects.items():
            MemoryFileSystem.pipe_file(store, path, content)

    @classmethod
    def cut(cls, path):
        """Loses the second half of an object."""
        content = cls.store[path].getvalue()
        MemoryFileSystem.pipe_file(cls(), path, content[: len(content) // 2])

    def _watched(self, operation, path, *arguments, **options):
        path = self._strip_protocol(path)
        Flaky.before(operation, path)
        given = (arguments[0], path) if operation == "put_file" else (path, *arguments)
        done = getattr(MemoryFileSystem, operation)(self, *given, **options)
        Flaky.after(operation, path)
        return done

    def put_file(self, lpath, rpath, **options):
        self._watched("put_file", rpath, lpath, **options)

    def get_file(self, rpath, lpath, **options):
        self._watched("get_file", rpath, lpath, **options)

    def pipe_file(self, path, value, **options):
        self._watched("pipe_file", path, value, **options)

    def cat_file(self, path, **options):
        return self._watched("cat_file", path, **options)

    def cp_file(self, path1, path2, **options):
        self._watched("cp_file", path1, path2, **options)

    def rm_file(self, path):
        self._watched("rm_file", path)

    def info(self, path, **options):
        return self._watched("info", path, **options)

    def find(self, path, **options):
        return self._watched("find", path, **options)


class Folder(LocalFileSystem):
    """folder://: objects are files below $FOLDER_STORE."""

    protocol = "folder"

    def __init__(self, *arguments, **options):
        super().__init__(*arguments, auto_mkdir=True, **options)

    @classmethod
    def _strip_protocol(cls, path):
        if path.startswith("folder://"):
            path = f"{os.environ['FOLDER_STORE']}/{path.removeprefix('folder://')}"
        return super()._strip_protocol(path)


for kind in (Flaky, Folder):
    fsspec.register_implementation(kind.protocol, kind, clobber=True)
