"""A reader of pickles that runs nothing: plain values and the descriptions of tensors.

Python's own reader calls what a pickle names, and torch's restricted one trusts the sizes that it
states (before 2.10 as far as writing past the end of memory, CVE-2026-24747). This one follows
the stack machine of PEP 307 and 3154 as far as saved tensors need it. What it does not know it
refuses.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable
from typing import Any, BinaryIO, NamedTuple

import torch

from ..files.tensor_file import FormatError, is_count, shown

MAX_PICKLE = 16 << 20  # bytes; that of a checkpoint with its optimizer has less than one million
_LINE = 1 << 10

_KINDS = {
    "DoubleStorage": "float64",
    "FloatStorage": "float32",
    "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "int64",
    "IntStorage": "int32",
    "ShortStorage": "int16",
    "CharStorage": "int8",
    "ByteStorage": "uint8",
    "BoolStorage": "bool",
    "UntypedStorage": "uint8",  # counted in bytes
}
_MOST_WORK = 10_000_000  # values; a checkpoint of ten thousand tensors has some hundred thousand
_NO_CODE = frozenset(
    {
        ("__builtin__", "set"),
        ("builtins", "set"),
        ("_codecs", "encode"),
        ("torch", "device"),
        ("numpy", "dtype"),
        ("numpy.core.multiarray", "scalar"),
        ("numpy._core.multiarray", "scalar"),
        # a key of the callbacks' table in the checkpoints of the first Stable Diffusion
        ("pytorch_lightning.callbacks.model_checkpoint", "ModelCheckpoint"),
    }
)


class Global(NamedTuple):
    """A name of Python that a pickle gives; it is never looked up."""

    module: str
    name: str


class Storage(NamedTuple):
    """The numbers behind tensors: their dtype, their name in the file, and how many they are."""

    dtype: torch.dtype
    key: str
    numbers: int


class Stored(NamedTuple):
    """A tensor as a pickle describes it; offset, shape and stride in numbers, not yet checked."""

    storage: Storage
    dtype: torch.dtype
    offset: Any
    shape: Any
    stride: Any


class _Unused:
    """Stands for a value that no tensor needs."""


class _Mark:
    """Begins a sequence on the stack."""


_UNUSED, _MARK = _Unused(), _Mark()


class Window:
    """The bytes of an open file from `start`, at most `length`, as pickletools reads them."""

    def __init__(self, file: BinaryIO, start: int, length: int) -> None:
        self._file, self._end = file, start + length
        file.seek(start)

    def read(self, count: int) -> bytes:
        """Read up to `count` bytes."""
        return self._file.read(max(0, min(count, self._end - self._file.tell())))

    def readline(self) -> bytes:
        """Read up to the end of the line, or 1 KiB: names are shorter."""
        return self._file.readline(max(0, min(_LINE, self._end - self._file.tell())))

    def tell(self) -> int:
        """Where the next byte lies in the file."""
        return self._file.tell()


class Unpickled(NamedTuple):
    """What a pickle holds, and the storages that it refers to by their key."""

    value: Any
    storages: dict[str, Storage]


def unpickle(window: Window) -> Unpickled:
    """Read the next pickle: plain values, dicts with texts as keys, and `Stored`.

    Raises FormatError for what is damaged or names anything that isn't known to be harmless.
    """
    machine = _Machine()
    try:
        for opcode, argument, _ in pickletools.genops(window):  # pyright: ignore[reportArgumentType]
            if opcode.name == "STOP":
                return Unpickled(machine.pop(), machine.storages)
            machine.take(opcode.name, argument)
    except (ValueError, LookupError, TypeError, AttributeError, OverflowError) as error:
        raise FormatError(f"is a damaged pickle ({shown(str(error))})") from error
    raise FormatError("is a damaged pickle (it has no end)")


class _Machine:
    def __init__(self) -> None:
        self.storages: dict[str, Storage] = {}
        self._stack: list[Any] = []
        self._memo: dict[int, Any] = {}
        self._work = 0  # values that calls have walked through

    def take(self, name: str, argument: Any) -> None:
        """Do one opcode."""
        if name in _VALUES:
            self._stack.append(argument)
        elif name in _STEPS:
            _STEPS[name](self)
        elif name in _WITH_ARGUMENT:
            _WITH_ARGUMENT[name](self, argument)
        elif name not in _NOTHING:
            raise FormatError(f"is a pickle that holds more than tensors (opcode {name})")

    def push(self, value: Any) -> None:
        """Put a value on top."""
        self._stack.append(value)

    def pop(self) -> Any:
        """Take the topmost value."""
        return self._stack.pop()

    def put(self, number: int) -> None:
        """Remember the topmost value under a number."""
        self._memo[number] = self._stack[-1]

    def get(self, number: int) -> None:
        """Put a remembered value on top."""
        self._stack.append(self._memo[number])

    def memoize(self) -> None:
        """Remember the topmost value under the next number."""
        self.put(len(self._memo))

    def name(self, names: str) -> None:
        """Put a name of Python on top: module and name, with a space between."""
        self._stack.append(_known(*names.split(" ", 1)))

    def _marked(self) -> list[Any]:
        """Take the values above the last mark, and the mark."""
        found = []
        while not isinstance(value := self._stack.pop(), _Mark):
            found.append(value)
        return found[::-1]

    def tuple_of(self, count: int) -> None:
        """Make a tuple of the topmost values."""
        values = tuple(self.pop() for _ in range(count))
        self._stack.append(values[::-1])

    def marked_tuple(self) -> None:
        """Make a tuple of the values above the last mark."""
        self._stack.append(tuple(self._marked()))

    def append(self) -> None:
        """Add the topmost value to the list below it."""
        self._extend([self.pop()])

    def appends(self) -> None:
        """Add the values above the last mark to the list below it."""
        self._extend(self._marked())

    def _extend(self, values: list[Any]) -> None:
        if not isinstance(self._stack[-1], list):
            raise ValueError("values for what is no list")
        self._stack[-1].extend(values)

    def set_item(self) -> None:
        """Add key and value on top to the table below them."""
        value, key = self.pop(), self.pop()
        self._update([key, value])

    def set_items(self) -> None:
        """Add the keys and values above the last mark to the table below it."""
        self._update(self._marked())

    def _update(self, values: list[Any]) -> None:
        table = self._stack[-1]
        if not isinstance(table, dict):
            raise ValueError("items for what is no table")
        for key, value in zip(values[::2], values[1::2], strict=True):
            if isinstance(key, str):  # others name no tensor
                table[key] = value

    def build(self) -> None:
        """Drop the attributes that an object would be given."""
        self.pop()
        if not isinstance(self._stack[-1], (dict, _Unused)):
            raise ValueError("attributes for what has none")

    def stack_name(self) -> None:
        """Make a name of Python of the module and the name on top."""
        name, module = self.pop(), self.pop()
        self._stack.append(_known(module, name))

    def call(self) -> None:
        """Replace a known name and its arguments by what they describe."""
        values, call = self.pop(), self.pop()
        if not isinstance(call, Global) or not isinstance(values, tuple):
            raise ValueError("a call of what is no name")
        self._work += sum(len(value) for value in values if isinstance(value, (list, tuple, dict)))
        if self._work > _MOST_WORK:
            raise ValueError("more work than any checkpoint is")
        self._stack.append(_CALLS.get(call, _unused)(*values))

    def storage(self) -> None:
        """The reference to a storage: (storage, type, key, place, count, [view])."""
        values = self.pop()
        if not isinstance(values, tuple) or len(values) not in {5, 6} or values[0] != "storage":
            raise ValueError("a reference to what is no storage")
        kind, key, count = values[1], values[2], values[4]
        dtype = getattr(torch, _KINDS[kind.name])
        if not isinstance(key, str) or not is_count(count) or any(values[5:]):
            raise ValueError("a storage that cannot be")
        storage = Storage(dtype, key, count)
        if self.storages.setdefault(key, storage) != storage:
            raise ValueError("a storage of two kinds")
        self._stack.append(storage)


def _known(module: Any, name: Any) -> Global:
    """The name, where it stands for nothing but tensors and plain values."""
    # nothing else may be hashed: the hash of tuples in tuples overflows the C stack
    if not isinstance(module, str) or not isinstance(name, str):
        raise ValueError("a name that is no text")
    found = Global(module, name)
    of_torch = module in {"torch", "torch.storage"} and (name in _KINDS or name in _DTYPES)
    if of_torch or found in _CALLS or found in _NO_CODE:
        return found
    raise FormatError(
        f"is a pickle that holds more than tensors ({shown(f'{module}.{name}')}), maybe code; "
        "nothing in it was run. Give the same model as .safetensors"
    )


def _table(*values: Any) -> dict[str, Any]:
    pairs = values[0] if values and isinstance(values[0], (list, tuple)) else ()
    return {key: value for key, value in pairs if isinstance(key, str)}


def _tensor(storage: Any, offset: Any, shape: Any, stride: Any, *_: Any) -> Stored:
    if not isinstance(storage, Storage):
        raise ValueError("a tensor without a storage")
    return Stored(storage, storage.dtype, offset, shape, stride)


def _typed_tensor(*values: Any) -> Stored:
    """A tensor of a dtype that has no type of storage: it is the seventh value."""
    dtype = getattr(torch, _DTYPES[values[6].name])
    return _tensor(*values[:4])._replace(dtype=dtype)


def _same(value: Any, *_: Any) -> Any:
    """A parameter is its tensor."""
    return value


def _subclass(call: Any, _: Any, values: Any, *__: Any) -> Any:
    """A tensor with attributes: (function, type, its arguments, attributes)."""
    if not isinstance(call, Global) or call not in _TENSORS:
        raise ValueError("a tensor of a kind that is not read")
    return _TENSORS[call](*values)


def _unused(*_: Any) -> _Unused:
    return _UNUSED


_DTYPES = {name: name for name in (*_KINDS.values(), "float8_e4m3fn", "float8_e5m2")}
_TENSORS: dict[Global, Callable[..., Any]] = {
    Global("torch._utils", "_rebuild_tensor"): _tensor,
    Global("torch._utils", "_rebuild_tensor_v2"): _tensor,
    Global("torch._utils", "_rebuild_tensor_v3"): _typed_tensor,
}
_CALLS: dict[Global, Callable[..., Any]] = {
    **_TENSORS,
    Global("torch._utils", "_rebuild_parameter"): _same,
    Global("torch._utils", "_rebuild_parameter_with_state"): _same,
    Global("torch._tensor", "_rebuild_from_type_v2"): _subclass,
    Global("torch.nn.parameter", "Parameter"): _same,
    Global("torch", "Tensor"): _same,
    Global("torch", "Size"): _same,
    Global("collections", "OrderedDict"): _table,
}
_VALUES = frozenset(
    {
        *("INT", "BININT", "BININT1", "BININT2", "LONG1", "FLOAT", "BINFLOAT"),
        *("UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
        *("STRING", "BINSTRING", "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES"),
    }
)
_NOTHING = frozenset({"PROTO", "FRAME"})
_WITH_ARGUMENT: dict[str, Callable[[_Machine, Any], None]] = {
    "BINPUT": _Machine.put,
    "LONG_BINPUT": _Machine.put,
    "BINGET": _Machine.get,
    "LONG_BINGET": _Machine.get,
    "GLOBAL": _Machine.name,
}
_STEPS: dict[str, Callable[[_Machine], object]] = {
    "NONE": lambda machine: machine.push(None),
    "NEWTRUE": lambda machine: machine.push(True),
    "NEWFALSE": lambda machine: machine.push(False),
    "EMPTY_DICT": lambda machine: machine.push({}),
    "EMPTY_LIST": lambda machine: machine.push([]),
    "EMPTY_TUPLE": lambda machine: machine.push(()),
    "EMPTY_SET": lambda machine: machine.push(_UNUSED),
    "MARK": lambda machine: machine.push(_MARK),
    "MEMOIZE": _Machine.memoize,
    "POP": _Machine.pop,
    "TUPLE": _Machine.marked_tuple,
    "TUPLE1": lambda machine: machine.tuple_of(1),
    "TUPLE2": lambda machine: machine.tuple_of(2),
    "TUPLE3": lambda machine: machine.tuple_of(3),
    "APPEND": _Machine.append,
    "APPENDS": _Machine.appends,
    "SETITEM": _Machine.set_item,
    "SETITEMS": _Machine.set_items,
    "BUILD": _Machine.build,
    "STACK_GLOBAL": _Machine.stack_name,
    "REDUCE": _Machine.call,
    "NEWOBJ": _Machine.call,
    "BINPERSID": _Machine.storage,
}
