"""What properties are tried on: text of any kind, files of every format that are nearly right, what is said of them."""

import gzip
import json

from hypothesis import strategies as st

from rag_jax.errors import UserError

# Half a surrogate pair, NUL, bidirectional marks, a combining accent alone, beyond the basic plane, all kinds of line
# ends and spaces, special tokens, and what a format string, a shell or a path would take for its own.
NASTY = (
    "\ud800", "\udfff", "\0", "\u202e", "\u2066", "\u0301", "e\u0301", "𝒳", "👩🏽‍🚀", "\U0010ffff", "\ufeff", "\u2028",
    "\x85", "\x1c", "\r", "\n", "\t", "\u00a0", "\u200b", "ß", "İ", "ﬁ", "</s>", "[SEP]", "<mask>", "'s", '"', "''",
    "\\", " / ", " // ", "{0}", "{}", "{a.__class__}", "%s", "%n", "$(x)", "`x`", ";x", "../", "..\\", "|", "NaN",
)  # fmt: skip
CHARACTERS = st.characters(exclude_categories=())
TEXT = st.lists(st.sampled_from(NASTY) | st.text(CHARACTERS, max_size=8), max_size=6).map("".join)
WHOLE = TEXT.map(lambda text: text.encode(errors="ignore").decode())  # of whole characters alone
# Written into JSON as they stand, in the place of the string '@n'.
RAW = (
    "NaN",
    "-Infinity",
    "1e999",
    "9" * 5000,
    "-" + "1" * 400,
    "0x1",
    "[" * 990,
    "[" * 400 + "]" * 400,
    '{"a":' * 2000,
    "1 2",
)
PLAIN = (
    None,
    True,
    False,
    0,
    -1,
    1.5,
    10**30,
    "",
    " ",
    "\0",
    "\ud800",
    [],
    {},
    [[]],
    [None],
    [""],
    {"": None},
    [{}],
    "../x",
)
VALUES = st.sampled_from(PLAIN) | st.sampled_from([f"@{n}" for n in range(len(RAW))]) | TEXT


def places(value, path=()):
    """The path of every value inside a JSON value, its own first."""
    yield path
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in pairs:
        yield from places(inner, (*path, key))


def altered(value, path, how, new):
    """A JSON value with the one at a path replaced, wrapped, left out or doubled."""
    if path:
        copy = value.copy()
        key = path[0]
        if len(path) > 1 or how in ("replace", "wrap"):
            copy[key] = altered(value[key], path[1:], how, new)
        elif how == "leave out":
            del copy[key]
        elif isinstance(copy, list):
            copy.insert(key, copy[key])
        else:
            copy[str(new)] = copy[key]
        return copy
    return [value] if how == "wrap" else new


@st.composite
def nearly(draw, values):
    """One of some JSON values with up to three of the values in it made wrong."""
    value = draw(st.sampled_from(values))
    for _ in range(draw(st.integers(0, 3))):
        path = draw(st.sampled_from(list(places(value))))
        how = draw(st.sampled_from(("replace", "replace", "wrap", "leave out", "double")))
        value = altered(value, path, how, draw(VALUES))
    return value


def as_json(value, **how):
    """JSON's text of a value, with RAW in its places."""
    text = json.dumps(value, **how)
    for n, raw in enumerate(RAW):
        text = text.replace(f'"@{n}"', raw)
    return text


def as_bytes(text):
    """UTF-8, half surrogates included, which is none."""
    return text.encode(errors="surrogatepass")


@st.composite
def damaged(draw, data, most=4):
    """Bytes of a file with some of them flipped, cut out, put in, doubled or moved."""
    for _ in range(draw(st.integers(0, most))):
        at, how = (
            draw(st.integers(0, len(data))),
            draw(st.sampled_from(("flip", "end", "cut", "put in", "double", "move"))),
        )
        piece = data[at : at + draw(st.integers(1, 40))]
        rest = data[at + len(piece) :]
        if how == "flip":
            data = data[:at] + bytes([draw(st.integers(0, 255))]) + data[at + 1 :]
        elif how == "end":
            data = data[:at]
        elif how == "cut":
            data = data[:at] + rest
        elif how == "put in":
            data = data[:at] + draw(st.binary(max_size=8) | TEXT.map(as_bytes)) + data[at:]
        elif how == "double":
            data = data[:at] + piece + data[at:]
        else:
            data = data[:at] + rest + piece
    return data


@st.composite
def as_file(draw, data):
    """(what its name ends in, its bytes): with a byte order mark, other line ends, gzipped, damaged before or after."""
    data = draw(damaged(data, most=2)) if draw(st.booleans()) else data
    if draw(st.integers(0, 7)) == 0:
        data = b"\xef\xbb\xbf" + data
    if draw(st.integers(0, 7)) == 0:
        data = data.replace(b"\n", b"\r\n")
    if draw(st.integers(0, 3)):
        return "", data
    zipped = gzip.compress(data, 1, mtime=0)
    return ".gz", draw(damaged(zipped, most=2)) if draw(st.booleans()) else zipped


def told(read, *names):
    """What read() returns, None where a UserError says in one line what is wrong, and where: it holds one of names."""
    try:
        return read()
    except UserError as error:
        said = str(error)
        assert any(str(name) in said for name in names), said
        for name in filter(None, map(str, names)):  # a name that was typed may have lines of its own
            said = said.replace(name, "")
        said = said.replace("\n       ", "; ")  # of a configuration all problems are told, a line each
        assert said and "\n" not in said and "Traceback" not in said, said
        return None


def is_text(*strings):
    """Whether all are strings that can be written."""
    return all(isinstance(string, str) and string.encode() is not None for string in strings)
