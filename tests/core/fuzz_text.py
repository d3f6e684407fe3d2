"""Mutations of files in the safetensors layout: each a function of chance alone."""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from random import Random

NUMBERS = (
    *("-1", "-0", "0", "1", "2", "3", "7", "1.0", "1.5", "1e3", "4e0", "0x10", "1_000", "+1", "01"),
    *("true", "false", "null", '"4"', '""', "[]", "{}", "[1]", "NaN", "Infinity", "-Infinity"),
    *(
        "2147483648",
        "4294967296",
        "9223372036854775807",
        "9223372036854775808",
        "18446744073709551615",
    ),
    *("1" + "0" * 30, "9" * 5000, "1e999", "4611686018427387904", "999999999999", "1e-400"),
)
STRINGS = (
    *('""', r'"\u0000"', r'"\ud800"', r'"\udc00\ud800"', r'"\ud83d\ude00"', '"😀"', r'"a\nb"'),
    *('"__metadata__"', '"../../etc/passwd"', '"' + "x" * 100_000 + '"', r'"\x41"', '"\t"', "'a'"),
    *('"a.weight"', '"dtype"', '"shape"', '"data_offsets"', '"F32"', '"format"', r'"\u202e"'),
    *("null", "1", "[]", '{"a": 1}', r'"\u001b[2J"'),
)
DTYPES = (
    *("F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2", "I64", "I32", "I16", "I8", "U8", "BOOL"),
    *("U16", "U32", "U64", "C64", "F4", "F8_E8M0", "f32", "F32 ", "float32", "", "F128", "😀"),
)
LENGTHS = (
    0,
    1,
    2,
    8,
    99_999_999,
    100_000_000,
    100_000_001,
    1 << 31,
    1 << 32,
    1 << 63,
    (1 << 64) - 1,
)


@dataclass(frozen=True)
class Parts:
    """A file's header, as text, and the bytes after it."""

    header: str
    data: bytes

    @classmethod
    def of(cls, content: bytes) -> "Parts":
        end = 8 + int.from_bytes(content[:8], "little")
        return cls(content[8:end].decode(), content[end:])

    def whole(self) -> bytes:
        text = self.header.encode("utf-8", "surrogatepass")
        return len(text).to_bytes(8, "little") + text + self.data

    def entries(self) -> dict[str, dict]:
        return {k: v for k, v in json.loads(self.header).items() if k != "__metadata__"}

    def with_entry(self, name: str, **changes: object) -> "Parts":
        found = json.loads(self.header)
        found[name] = {**found[name], **changes}
        return Parts(json.dumps(found), self.data)


def replaced(chance: Random, text: str, pattern: str, choices: tuple[str, ...]) -> str:
    """One to three of the places that match, each replaced by one of the choices."""
    for _ in range(chance.randint(1, 3)):
        places = list(re.finditer(pattern, text))
        if places:
            place = chance.choice(places)
            text = text[: place.start()] + chance.choice(choices) + text[place.end() :]
    return text


def flip(chance: Random, content: bytes, first: int, last: int) -> bytes:
    changed = bytearray(content)
    for _ in range(chance.choice((1, 1, 2, 8))):
        changed[chance.randrange(first, max(first + 1, last))] ^= 1 << chance.randrange(8)
    return bytes(changed)


def flip_header(chance: Random, parts: Parts) -> bytes:
    content = parts.whole()
    return flip(chance, content, 0, len(content) - len(parts.data))


def flip_data(chance: Random, parts: Parts) -> bytes:
    content = parts.whole()
    return flip(chance, content, len(content) - len(parts.data), len(content))


def insert(chance: Random, parts: Parts) -> bytes:
    at, more = chance.randrange(len(parts.header)), bytes(chance.choices(range(256), k=3))
    text = parts.header.encode()
    text = text[:at] + more[: chance.randint(1, 3)] + text[at:]
    length = len(text) if chance.random() < 0.7 else len(parts.header)
    return length.to_bytes(8, "little") + text + parts.data


def delete(chance: Random, parts: Parts) -> bytes:
    at = chance.randrange(len(parts.header))
    text = parts.header[:at] + parts.header[at + chance.choice((1, 2, 9)) :]
    if chance.random() < 0.7:
        return Parts(text, parts.data).whole()
    return len(parts.header).to_bytes(8, "little") + text.encode() + parts.data


def splice(chance: Random, parts: Parts) -> bytes:
    first, last, at = (chance.randrange(len(parts.header)) for _ in range(3))
    piece = parts.header[min(first, last) : max(first, last)]
    return Parts(parts.header[:at] + piece + parts.header[at:], parts.data).whole()


def truncate(chance: Random, parts: Parts) -> bytes:
    content = parts.whole()
    start = len(content) - len(parts.data)
    ends = (0, 1, 7, 8, 9, start - 1, start, start + 1, len(content) - 1)
    end = chance.choice(ends) if chance.random() < 0.3 else chance.randrange(len(content))
    return content[:end]


def append(chance: Random, parts: Parts) -> bytes:
    return parts.whole() + bytes(chance.choice((0, 255)) for _ in range(chance.randint(1, 9)))


def length(chance: Random, parts: Parts) -> bytes:
    near = len(parts.header) + chance.choice((-9, -8, -2, -1, 1, 2, 8, 9))
    stated = chance.choice((*LENGTHS, near, near))
    return stated.to_bytes(8, "little") + parts.whole()[8:]


def numbers(chance: Random, parts: Parts) -> bytes:
    text = replaced(chance, parts.header, r"(?<=[\[, :])\d+(?=[\],}])", NUMBERS)
    return Parts(text, parts.data).whole()


def strings(chance: Random, parts: Parts) -> bytes:
    return Parts(replaced(chance, parts.header, r'"[^"\\]*"', STRINGS), parts.data).whole()


def dtypes(chance: Random, parts: Parts) -> bytes:
    name = chance.choice([*parts.entries()])
    return parts.with_entry(name, dtype=chance.choice(DTYPES)).whole()


def punctuation(chance: Random, parts: Parts) -> bytes:
    marks = (*'{}[]:,"', "", " ", "\n", "\0", "\\", "//", "\ufeff")
    return Parts(replaced(chance, parts.header, r'[\[\]{}:,"]', marks), parts.data).whole()


def duplicate(chance: Random, parts: Parts) -> bytes:
    name, entry = chance.choice([*parts.entries().items()])
    pair = f"{json.dumps(name)}:{json.dumps(entry)}"
    inner = chance.choice((pair, '"dtype":"F32"', '"shape":[1]'))
    at = chance.choice([place.end() for place in re.finditer("{", parts.header)])
    return Parts(f"{parts.header[:at]}{inner},{parts.header[at:]}", parts.data).whole()


def nest(chance: Random, parts: Parts) -> bytes:
    depth = chance.choice((10, 900, 1100, 20_000, 200_000))
    deep = chance.choice(
        ("[" * depth + "]" * depth, '{"a":' * depth + "1" + "}" * depth, "[" * depth)
    )
    text = replaced(chance, parts.header, r'"[^"\\]*"(?!:)|(?<=:)\d+|\[[^\]]*\]', (deep,))
    return Parts(text, parts.data).whole()


def offsets(chance: Random, parts: Parts) -> bytes:
    entries = parts.entries()
    name, other = chance.choice([*entries]), chance.choice([*entries])
    start, end = entries[name]["data_offsets"]
    by = chance.choice((-4, -1, 1, 2, 4, 1 << 40, 1 << 62))
    wild = ([start + by, end + by], [start, end + by], [start + by, end], [end, start], [start])
    wild = (*wild, entries[other]["data_offsets"], [start, end, end], [0, len(parts.data)])
    return parts.with_entry(name, data_offsets=chance.choice(wild)).whole()


def shapes(chance: Random, parts: Parts) -> bytes:
    name, entry = chance.choice([*parts.entries().items()])
    shape = entry["shape"]
    big = chance.choice((1 << 20, 1 << 31, 1 << 61, 10**18))
    wild = (shape[::-1], [1, *shape], [*shape, 1, 1], [0, *shape], [0, big, big], [big], [big] * 9)
    wild = (*wild, [*shape, *[1] * 15], [*shape, *[1] * 5000], [big] * 20_000, [], [0], shape[:-1])
    changes: dict[str, object] = {"shape": chance.choice(wild)}
    if chance.random() < 0.3:
        start = entry["data_offsets"][0]
        changes["data_offsets"] = [start, start]
    return parts.with_entry(name, **changes).whole()


def metadata(chance: Random, parts: Parts) -> bytes:
    found = json.loads(parts.header)
    texts: list[object] = [
        None,
        1,
        True,
        "text",
        [],
        ["a"],
        {"a": 1},
        {"a": None},
        {"a": {"b": "c"}},
    ]
    found["__metadata__"] = chance.choice([*texts, {"a": "\ud800"}, {"\udfff": "a"}, {"": ""}, {}])
    return Parts(json.dumps(found), parts.data).whole()


def pad(chance: Random, parts: Parts) -> bytes:
    white = chance.choice((" ", "\n", "\t", "\r")) * chance.randint(1, 9)
    return Parts(parts.header + white, parts.data).whole()


def noise(chance: Random, parts: Parts) -> bytes:
    content = chance.randbytes(chance.randint(0, 300))
    if chance.random() < 0.5:
        content = len(content).to_bytes(8, "little") + b"{" + content
    return content


def rename(chance: Random, parts: Parts) -> bytes:
    names = (".lora_down.weight", ".lora_up.weight", ".alpha", "", ".diff", ".lora_mid.weight")
    pattern = r"\.lora_down\.weight|\.lora_up\.weight|\.alpha"
    return Parts(replaced(chance, parts.header, pattern, names), parts.data).whole()


def not_finite(chance: Random, parts: Parts) -> bytes:
    data = bytearray(parts.data)
    at = chance.randrange(0, len(data) - 1, 2)
    data[at : at + 2] = chance.choice((b"\x00\x7c", b"\xff\xff", b"\x00\xfc", b"\xff\x7f"))
    return Parts(parts.header, bytes(data)).whole()


Mutation = Callable[[Random, Parts], bytes]
GENERAL: dict[str, Mutation] = {
    mutation.__name__: mutation
    for mutation in (
        *(flip_header, flip_data, insert, delete, splice, truncate, append, length, numbers),
        *(strings, dtypes, punctuation, duplicate, nest, offsets, shapes, metadata, pad, noise),
    )
}
OF_NETWORKS: dict[str, Mutation] = {**GENERAL, "rename": rename, "not_finite": not_finite}
CHANGES_NUMBERS = frozenset({"flip_data", "noise", "not_finite"})
