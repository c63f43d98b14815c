"""Few sizes for many: arrays are padded to them, so that a stream of different ones compiles a handful of programs."""


def bucket(size: int, smallest: int = 1) -> int:
    """The least power of two that holds `size`, and not less than `smallest`, a power of two."""
    return max(smallest, 1 << max(size - 1, 0).bit_length())
