"""Mutated and hostile files of torch.save, in its two layouts; made without torch's help."""

import io
import pickle
import pickletools
import struct
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random

MAGIC, VERSION = 0x1950A86A20F9469CFC6C, 1001
SIZE = 12  # numbers of the one storage, fp32
DATA = bytes(range(0x20, 0x40)) + bytes(range(0x20, 0x30))
HUGE = (1 << 20, 1 << 31, 1 << 40, 1 << 62, 1 << 63, 1 << 64, 10**30)
ODD = (-1, 1.0, 1e300, True, None, "3", (), [], b"3", float("nan"))
EXTRA = b"\xff" * 9


def value(item: object) -> bytes:
    """The opcodes of a plain value."""
    return pickle.dumps(item, 2)[2:-1]


def storage(count: object = SIZE, kind: bytes = b"FloatStorage", key: object = "0") -> bytes:
    kind = b"ctorch\n" + kind + b"\n"
    return b"(" + value("storage") + kind + value(key) + value("cpu") + value(count) + b"tQ"


def tensor(
    held: bytes, offset: object = 0, shape: object = (3, 4), stride: object = (4, 1)
) -> bytes:
    hooks = b"ccollections\nOrderedDict\n)R"
    where = value(offset) + value(shape) + value(stride)
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + held + where + b"\x89" + hooks + b"tR"


def table(*items: bytes) -> bytes:
    names = (value(f"layer.{number}.weight") for number in range(len(items)))
    return b"\x80\x02}(" + b"".join(n + item for n, item in zip(names, items, strict=True)) + b"u."


@dataclass
class Saved:
    """What the file is made of: the pickle, the storage's record, and how it is packed."""

    pickled: bytes = table(tensor(storage()), tensor(storage(), 4, (2, 3), (1, 2)))
    data: bytes = DATA
    records: dict[str, bytes] = field(default_factory=dict)
    without: tuple[str, ...] = ()
    compression: int = zipfile.ZIP_STORED
    attributes: int = 0

    def zipped(self) -> bytes:
        records = {"data.pkl": self.pickled, "byteorder": b"little", "data/0": self.data}
        records = {f"archive/{name}": content for name, content in records.items()}
        records |= {"archive/version": b"3\n", **self.records}
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", self.compression) as archive:
            for name, content in records.items():
                if name not in self.without:
                    info = zipfile.ZipInfo(name)
                    info.external_attr, info.compress_type = self.attributes, self.compression
                    archive.writestr(info, content)
        return buffer.getvalue()

    def in_a_row(self) -> bytes:
        machine = {"protocol_version": VERSION, "little_endian": True}
        head = b"".join(pickle.dumps(item, 2) for item in (MAGIC, VERSION, machine))
        keys = pickle.dumps(["0"], 2)
        return head + self.pickled + keys + struct.pack("<q", SIZE) + self.data


def packed(chance: Random, saved: Saved) -> bytes:
    return saved.zipped() if chance.random() < 0.6 else saved.in_a_row()


def truncate(chance: Random) -> bytes:
    content = packed(chance, Saved())
    return content[: chance.randrange(4, len(content))]


def flip_bits(chance: Random) -> bytes:
    content = bytearray(packed(chance, Saved()))
    for _ in range(chance.choice((1, 1, 2, 5))):
        content[chance.randrange(2, len(content))] ^= 1 << chance.randrange(8)
    return bytes(content)


def insert(chance: Random) -> bytes:
    content = packed(chance, Saved())
    at = chance.randrange(4, len(content))
    return content[:at] + chance.randbytes(chance.randint(1, 5)) + content[at:]


def delete(chance: Random) -> bytes:
    content = packed(chance, Saved())
    at = chance.randrange(4, len(content))
    return content[:at] + content[at + chance.choice((1, 2, 8)) :]


def append(chance: Random) -> bytes:
    return packed(chance, Saved()) + chance.randbytes(chance.choice((1, 22, 300)))


def zip_fields(chance: Random) -> bytes:
    """Sizes, offsets and flags of a zip's central directory."""
    content = bytearray(Saved().zipped())
    entry = content.index(b"PK\x01\x02") if chance.random() < 0.7 else content.index(b"PK\x05\x06")
    at = entry + chance.choice(range(4, 46, 2) if content[entry + 2] == 1 else range(4, 22, 2))
    more = chance.choice((b"\xff\xff", b"\x00\x00", b"\x01\x00", b"\xff\xff\xff\xff", b"\x00\x80"))
    content[at : at + len(more)] = more
    return bytes(content)


def opcode(chance: Random) -> bytes:
    """One opcode is another one, its argument stays."""
    whole = Saved().pickled
    places = [place for _, _, place in pickletools.genops(whole)]
    mutated = bytearray(whole)
    for _ in range(chance.randint(1, 2)):
        mutated[chance.choice(places)] = ord(chance.choice(pickletools.opcodes).code)
    return packed(chance, Saved(pickled=bytes(mutated)))


def pickle_bytes(chance: Random) -> bytes:
    mutated = bytearray(Saved().pickled)
    for _ in range(chance.randint(1, 4)):
        at = chance.randrange(len(mutated))
        mutated[at : at + chance.randint(0, 3)] = chance.randbytes(chance.randint(0, 3))
    return packed(chance, Saved(pickled=bytes(mutated)))


def record(chance: Random) -> bytes:
    cases = (
        Saved(data=b""),
        Saved(data=DATA[:-1]),
        Saved(data=DATA + b"\0" * 8),
        Saved(without=("archive/data/0",)),
        Saved(without=("archive/data.pkl",)),
        Saved(without=("archive/byteorder",)),
        Saved(records={"archive/byteorder": b"big"}),
        Saved(records={"other/data.pkl": b"\x80\x02}."}),
        Saved(records={"../archive/data/0": DATA}),
        Saved(records={"/etc/passwd": b"x", "archive/data/../../x": b"x"}),
        Saved(records={"archive/\ud7ff\0\x1b[2J": b"x"}),
        Saved(records={f"archive/{n}": b"" for n in range(500)}),
        Saved(attributes=0xA1ED << 16),  # a symbolic link
        Saved(compression=zipfile.ZIP_DEFLATED),
        Saved(compression=zipfile.ZIP_DEFLATED, data=bytes(1 << 20)),
        Saved(compression=zipfile.ZIP_BZIP2),
    )
    return chance.choice(cases).zipped()


def storage_size(chance: Random) -> bytes:
    count = chance.choice((*HUGE, *ODD, SIZE - 1, SIZE + 1, 0))
    shape = chance.choice(((3, 4), (1,), (0,), (1 << 40,)))
    stride = (4, 1)[-len(shape) :]
    return packed(chance, Saved(pickled=table(tensor(storage(count), 0, shape, stride))))


def tensor_size(chance: Random) -> bytes:
    """Shapes, strides and offsets that lead out of the storage, or are none."""
    wild = (*HUGE, *ODD)
    shapes = ((3, 4), (4, 3), (12,), (chance.choice(wild), 4), [3, 4], (3, 4, 1), (0, 1 << 62, 9))
    shapes = (*shapes, (1 << 20, 1 << 20), (1,) * 70, (2,) * 70, chance.choice(wild), (), (13,))
    strides = ((4, 1), (1, 3), (0, 0), (chance.choice(wild), 1), (-4, 1), (4, 2), (1,), (0,) * 70)
    strides = (*strides, (1 << 62, 1 << 62), chance.choice(wild), ())
    shape, stride = chance.choice(shapes), chance.choice(strides)
    offset = chance.choice((0, 0, 1, SIZE, -1, chance.choice(wild)))
    return packed(chance, Saved(pickled=table(tensor(storage(), offset, shape, stride))))


def kinds(chance: Random) -> bytes:
    names = (b"HalfStorage", b"DoubleStorage", b"BoolStorage", b"UntypedStorage", b"QInt8Storage")
    names = (*names, b"ComplexFloatStorage", b"Tensor", b"float32", b"load", b"Size")
    kind, key = chance.choice(names), chance.choice(("0", "1", 0, None, "../0", "", "0" * 9999))
    held = storage(chance.choice((SIZE, 6, 24, 48)), kind, chance.choice(("0", key)))
    return packed(chance, Saved(pickled=table(tensor(held), tensor(storage()))))


def code(chance: Random, proof: str = "") -> bytes:
    """Pickles that would make the file `proof`; every way that the format has of calling."""
    call = value(f"open({proof!r}, 'w')")
    command = value(f"touch {proof}")
    calls = (
        b"c__builtin__\neval\n(" + call + b"tR",
        b"cbuiltins\nexec\n(" + call + b"tR",
        b"cos\nsystem\n(" + command + b"tR",
        b"cposix\nsystem\n" + command + b"\x85R",
        b"csubprocess\ncheck_output\n(" + value(["touch", proof]) + b"tR",
        b"(" + command + b"ios\nsystem\n",
        b"(cos\nsystem\n" + command + b"o",
        value("os") + value("system") + b"\x93" + command + b"\x85R",
        b"c__builtin__\ngetattr\n(cos\nsystem\n" + value("__call__") + b"tR",
        b"ctorch\nload\n(" + value(proof) + b"tR",
        b"ctorch.hub\nload\n(" + value(proof) + b"tR",
        b"ctorch\nSize\n)\x81}" + value("__class__") + b"cos\nsystem\nsb",
        b"ccollections\nOrderedDict\n(cos\nsystem\n" + command + b"tR",
        b"ctorch._utils\n_rebuild_tensor_v2\n(cos\nsystem\n" + command + b"tR",
        b"ctorch\nFloatStorage\n(" + command + b"tR",
        b"c__main__\n__getattr__\n(" + command + b"tR",
        b"\x82\x01",  # a number of copyreg's register of extensions
    )
    saved = Saved(pickled=table(tensor(storage()), chance.choice(calls)))
    return chance.choice((saved.zipped, saved.in_a_row, lambda: saved.pickled))()


def bombs(chance: Random) -> bytes:
    """Few bytes that ask for much memory, time or stack."""
    deep = chance.choice((10_000, 300_000))
    doubled = b"".join(b"(h\x00h\x00l" + b"q\x00" for _ in range(60))
    tuples = b")" + b"\x85" * deep
    cases = (
        table(b"Nr\xff\xff\xff\xff"),
        table(b"\x8d" + b"\xff" * 8 + b"x"),
        table(b"\x8d" + struct.pack("<Q", 1 << 40)),
        table(b"\x8e" + struct.pack("<Q", 1 << 62)),
        table(b"B" + struct.pack("<I", (1 << 32) - 1)),
        table(b"\x8b" + struct.pack("<i", (1 << 31) - 1)),
        table(b"L" + b"9" * 300_000 + b"L\n"),
        table(b"I" + b"9" * 300_000 + b"\n"),
        table(b"F" + b"9" * 300_000 + b"\n"),
        table(b"\x96" + struct.pack("<Q", 1 << 40)),
        b"\x80\x04\x95" + struct.pack("<Q", 1 << 62) + table(tensor(storage()))[2:],
        b"\x80\x02" + tuples + b".",
        b"\x80\x02}" + tuples + b"Ns.",
        b"\x80\x02" + tuples + value("x") + b"\x93.",
        b"\x80\x02" + tuples + b"Q.",
        table(tuples + b"q\x01)R"),
        table(tensor(tuples)),
        b"\x80\x02" + b"]" * deep + b"a" * (deep - 1) + b".",
        b"\x80\x02" + b"(" * deep + b".",
        b"\x80\x02]q\x00" + doubled + b".",
        b"\x80\x02}q\x00" + value("state_dict") + b"h\x00s.",
        b"\x80\x02" + b"0" * 10 + b".",
        table(b"c" + b"x" * deep + b"\n"),
        table(b"c" + b"x" * deep),
    )
    return packed(chance, Saved(pickled=chance.choice(cases)))


def whole(chance: Random) -> bytes:
    return packed(chance, Saved())


KINDS: dict[str, Callable[[Random], bytes]] = {
    made.__name__: made
    for made in (
        *(truncate, flip_bits, insert, delete, append, zip_fields, opcode, pickle_bytes, record),
        *(storage_size, tensor_size, kinds, code, bombs, whole),
    )
}
