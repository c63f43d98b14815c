"""A reader of other people's pickles that builds stand-ins for the names it is told of, and runs nothing."""

import pickle
from collections.abc import Callable, Mapping
from typing import IO, Any, NoReturn


def _load_bytearray(reader: Any) -> None:
    """As bytes, which nobody fills before they are read."""
    reader.append(reader.read(int.from_bytes(reader.read(8), "little")))


class Reader(pickle._Unpickler):
    """Knows the names in `admitted`, {(module, name): stand-in}; `refuse` is told of any other, and raises.

    `stored` gives what a persistent id stands for; without it one is refused. `load` reads one pickle and leaves the
    stream at its end.

    It is pickle's reader in Python: at one damaged byte, the one in C reserves and fills tens of gigabytes for a memo
    of that many places (CPython's issue 115952). This one takes twice its time.
    """

    def __init__(
        self,
        stream: IO[bytes],
        admitted: Mapping[tuple[str, str], Any],
        refuse: Callable[[str], NoReturn],
        stored: Callable[[Any], Any] | None = None,
    ) -> None:
        super().__init__(stream)
        self._admitted, self._refuse, self._stored = admitted, refuse, stored

    def find_class(self, module: str, name: str) -> Any:
        return self._admitted.get((module, name)) or self._refuse(f"{module}.{name}")

    dispatch = pickle._Unpickler.dispatch | {pickle.BYTEARRAY8[0]: _load_bytearray}

    def persistent_load(self, identity: Any) -> Any:
        return self._stored(identity) if self._stored else self._refuse("a persistent id")
