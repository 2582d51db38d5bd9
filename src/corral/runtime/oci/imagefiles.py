"""CRIU's image files, as far as they have to be changed between a dump and a restore.

Messages are declared with the few fields that matter; protobuf keeps the others as they are. Must not decide anything.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

REGULAR: Final = 1
UNIX_SOCKET: Final = 5

_PACKAGE: Final = "corral_criu"
_UINT32, _UINT64, _INT32, _SINT32, _BOOL, _STRING, _MESSAGE = 13, 4, 5, 17, 8, 9, 11
_OPTIONAL, _REPEATED = 1, 3
#: Field name: number, type, and the message or label where it has one. CRIU's own names and numbers.
_MESSAGES: Final[Mapping[str, Mapping[str, tuple[int, int, str]]]] = {
    "owner": {
        "uid": (1, _UINT32, ""), "euid": (2, _UINT32, ""), "signum": (3, _UINT32, ""),
        "pid_type": (4, _UINT32, ""), "pid": (5, _UINT32, ""),
    },
    "regular": {
        "id": (1, _UINT32, ""), "flags": (2, _UINT32, ""), "pos": (3, _UINT64, ""), "fown": (5, _MESSAGE, "owner"),
        "name": (6, _STRING, ""), "mnt_id": (7, _SINT32, ""), "ext": (9, _BOOL, ""), "mode": (10, _UINT32, ""),
    },
    "unix_socket": {"id": (1, _UINT32, ""), "ino": (2, _UINT32, "")},
    "file": {
        "type": (1, _INT32, ""), "id": (2, _UINT32, ""), "reg": (3, _MESSAGE, "regular"),
        "usk": (16, _MESSAGE, "unix_socket"),
    },
    "fdinfo": {"id": (1, _UINT32, ""), "type": (3, _INT32, "")},
    "memory": {"dumpable": (15, _INT32, "")},
    "names": {"nodename": (1, _STRING, "")},
    "extent": {"first": (1, _UINT32, ""), "lower_first": (2, _UINT32, ""), "count": (3, _UINT32, "")},
    "id_maps": {"uid_map": (1, _MESSAGE, "extent*"), "gid_map": (2, _MESSAGE, "extent*")},
}  # fmt: skip


def _declare() -> Mapping[str, Any]:
    file = descriptor_pb2.FileDescriptorProto(name="corral_criu.proto", package=_PACKAGE, syntax="proto2")
    for name, fields in _MESSAGES.items():
        message = file.message_type.add(name=name)
        for field, (number, kind, of) in fields.items():
            made = message.field.add(name=field, number=number)
            made.type = kind  # type: ignore[assignment]
            made.label = _REPEATED if of.endswith("*") else _OPTIONAL  # type: ignore[assignment]
            if of:
                made.type_name = f".{_PACKAGE}.{of.rstrip('*')}"
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    found = {name: pool.FindMessageTypeByName(f"{_PACKAGE}.{name}") for name in _MESSAGES}
    return {name: message_factory.GetMessageClass(descriptor) for name, descriptor in found.items()}


_CLASSES: Final = _declare()


def change(path: Path, kind: str, work: Callable[[Any], None]) -> None:
    """Let `work` change each message of an image. Raises ValueError when it is none."""
    data = path.read_bytes()
    head, at, made = data[:8], 8, [data[:8]]
    if len(head) < 8:
        message = f"cannot read {path.name}: it is cut short"
        raise ValueError(message)
    while at < len(data):
        if at + 4 > len(data):
            message = f"cannot read {path.name}: it is cut short"
            raise ValueError(message)
        (size,) = struct.unpack_from("<I", data, at)
        entry = _CLASSES[kind].FromString(data[at + 4 : at + 4 + size])
        work(entry)
        text = entry.SerializeToString()
        made += [struct.pack("<I", len(text)), text]
        at += 4 + size
    partial = path.with_suffix(".new")
    partial.write_bytes(b"".join(made))
    partial.rename(path)


def name_files(images: Path, socket: int, listener: str, names: Mapping[str, str], guest: str) -> None:
    """Have a restore take the descriptors that it is given for the socket with this inode, and for the files `names`.

    CRIU cannot bind the guest's socket again, whose path is the host's, and opens a file that it is given once more,
    with flags that its path does not allow. A file that is known by a name is given as it is.
    `guest` is the path of the guest's program in the box: its mode is not the one that it had.
    """
    known: set[int] = set()

    def one(entry: Any) -> None:
        if entry.type == UNIX_SOCKET and entry.usk.ino == socket:
            number = entry.id
            known.add(number)
            entry.ClearField("usk")
            entry.type = REGULAR
            _be_given(entry.reg, number, listener)
        elif entry.type == REGULAR and entry.reg.name in names:
            entry.reg.name = f"/{names[entry.reg.name]}"
            entry.reg.ClearField("ext")
        elif entry.type == REGULAR and entry.reg.name == guest:
            entry.reg.mode = 0o100755

    change(images / "files.img", "file", one)

    def also(entry: Any) -> None:
        if entry.id in known:
            entry.type = REGULAR

    for path in images.glob("fdinfo-*.img"):
        change(path, "fdinfo", also)


def _be_given(regular: Any, number: int, name: str) -> None:
    regular.id, regular.flags, regular.pos, regular.mnt_id = number, 2, 0, -1
    regular.name, regular.mode = f"/{name}", 0o100600
    for field in ("uid", "euid", "signum", "pid_type", "pid"):
        setattr(regular.fown, field, 0)


def close_to_tracing(images: Path) -> None:
    """Have process 1 made again as one that cannot be traced from the first moment on."""

    def one(entry: Any) -> None:
        entry.dumpable = 0

    change(images / "mm-1.img", "memory", one)


def name_host(images: Path, hostname: str) -> None:
    """Give the box this host name."""

    def one(entry: Any) -> None:
        entry.nodename = hostname

    for path in images.glob("utsns-*.img"):
        change(path, "names", one)


def shift_ids(images: Path, id_base: int) -> None:
    """Map the ids of the box to another range of the host's."""

    def one(entry: Any) -> None:
        for extent in (*entry.uid_map, *entry.gid_map):
            extent.lower_first = id_base

    for path in images.glob("userns-*.img"):
        change(path, "id_maps", one)
