"""Archives that want more than to be unpacked, each made with the standard library's own writers."""

from __future__ import annotations

import gzip
import io
import lzma
import struct
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

ZEROS = b"\0" * (1 << 20)


def zip_of(path: Path, entries: list[tuple[str | zipfile.ZipInfo, bytes]], level: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", level) as archive:
        for name, data in entries:
            archive.writestr(name, data, compress_type=level)
    return path


def tar_of(path: Path, entries: list[tuple[tarfile.TarInfo, bytes]], mode: str = "w") -> Path:
    with tarfile.open(path, mode) as archive:
        for info, data in entries:
            info.size = info.size or len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def entry(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    return info


def unix_zip_entry(name: str, mode: int) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    info.create_system, info.external_attr = 3, mode << 16
    return info


def encrypted_zip(path: Path) -> Path:
    zip_of(path, [("a.txt", b"text")])
    data = bytearray(path.read_bytes())
    for magic, offset in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        data[data.find(magic) + offset] |= 1
    path.write_bytes(data)
    return path


def lying_zip(path: Path) -> Path:
    """Its directory says 10 bytes; 12 MB come out."""
    zip_of(path, [("a.bin", ZEROS * 12)])
    data = bytearray(path.read_bytes())
    for magic, offset in ((b"PK\3\4", 22), (b"PK\1\2", 24)):
        data[data.find(magic) + offset :][:4] = b""
        place = data.find(magic) + offset
        data[place : place + 4] = struct.pack("<I", 10)
    path.write_bytes(data)
    return path


def overlapping_zip(path: Path) -> Path:
    """Many directory entries share one compressed kernel (Fifield 2019)."""
    zip_of(path, [("000.bin", ZEROS)])
    data = path.read_bytes()
    start, end = data.find(b"PK\1\2"), data.find(b"PK\5\6")
    record = data[start:end]
    records = b"".join(record.replace(b"000.bin", f"{i:03d}.bin".encode()) for i in range(50))
    tail = bytearray(data[end:])
    tail[8:20] = struct.pack("<HHII", 50, 50, len(records), start)
    path.write_bytes(data[:start] + records + tail)
    return path


def bomb_of(opener: Callable, path: Path) -> Path:
    with opener(path, "wb") as stream, tarfile.open(fileobj=stream, mode="w|") as archive:
        info = entry("a.bin")
        info.size = 12 << 20
        archive.addfile(info, _Zeros(info.size))
    return path


class _Zeros(io.RawIOBase):
    def __init__(self, size: int) -> None:
        self._left = size

    def read(self, size: int = -1) -> bytes:
        count = min(size, self._left)
        self._left -= count
        return b"\0" * count


def header_bomb(path: Path) -> Path:
    """An extended header of 3 MB, which tarfile would hold in memory."""
    info = entry("a.txt")
    info.pax_headers = {"comment": "x" * (3 << 20)}
    with tarfile.open(path, "w:gz", format=tarfile.PAX_FORMAT) as archive:
        archive.addfile(info, io.BytesIO(b""))
    return path


def many_entries(path: Path) -> Path:
    with tarfile.open(path, "w:gz") as archive:
        for number in range(600):
            archive.addfile(entry(f"{number}"))
    return path


def sparse(path: Path) -> Path:
    """A file of 8 GiB that is one hole (GNU format)."""
    header = bytearray(entry("a.bin", tarfile.GNUTYPE_SPARSE).tobuf(tarfile.GNU_FORMAT))
    header[483:495] = b"%011o\0" % (8 << 30)
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    path.write_bytes(bytes(header) + b"\0" * 1024)
    return path


def cut(path: Path, whole: Path, share: float) -> Path:
    path.write_bytes(whole.read_bytes()[: int(whole.stat().st_size * share)])
    return path


def _good_tar(path: Path, mode: str = "w") -> Path:
    return tar_of(path, [(entry(f"{i}.txt"), bytes(range(256)) * 20) for i in range(5)], mode)


def _tampered_zip(path: Path) -> Path:
    zip_of(path, [("a.txt", b"0123456789" * 50)], zipfile.ZIP_STORED)
    data = bytearray(path.read_bytes())
    data[100] ^= 0xFF
    path.write_bytes(data)
    return path


#: Name of the archive -> how to make it at a path, and a part of the message that it must cause.
HOSTILE: dict[str, tuple[Callable[[Path], Path], str]] = {
    "climbs.zip": (lambda p: zip_of(p, [("../evil.txt", b"x")]), "outside its folder"),
    "climbs_late.zip": (lambda p: zip_of(p, [("ok.txt", b"x"), ("a/b/../../../evil.txt", b"x")]), "outside its folder"),
    "climbs_backslash.zip": (lambda p: zip_of(p, [("..\\evil.txt", b"x")]), "outside its folder"),
    "absolute.zip": (lambda p: zip_of(p, [("/tmp/evil.txt", b"x")]), "outside its folder"),
    "drive.zip": (lambda p: zip_of(p, [("C:/evil.txt", b"x")]), "outside its folder"),
    "network_share.zip": (lambda p: zip_of(p, [("\\\\host\\share\\evil.txt", b"x")]), "outside its folder"),
    "control.zip": (lambda p: zip_of(p, [("a\x1b[2Jb.txt", b"x")]), "no file should have"),
    "deep.zip": (lambda p: zip_of(p, [("a/" * 200 + "b", b"x")]), "no file should have"),
    "symlink.zip": (lambda p: zip_of(p, [(unix_zip_entry("a", 0o120777), b"/etc")]), "link or a device"),
    "device.zip": (lambda p: zip_of(p, [(unix_zip_entry("a", 0o060666), b"")]), "link or a device"),
    "twice.zip": (lambda p: zip_of(p, [("a.txt", b"1"), ("./a.txt", b"2")]), "twice"),
    "file_and_folder.zip": (lambda p: zip_of(p, [("a", b"1"), ("a/b", b"2")]), "twice"),
    "encrypted.zip": (encrypted_zip, "cannot be unpacked"),
    "bomb.zip": (lambda p: zip_of(p, [("a.bin", ZEROS * 12)]), "decompression bombs"),
    "lying.zip": (lying_zip, "archive"),
    "overlapping.zip": (overlapping_zip, "decompression bombs"),
    "wrong_checksum.zip": (_tampered_zip, "damaged"),
    "empty.zip": (lambda p: zip_of(p, []), "holds no file"),
    "climbs.tar": (lambda p: tar_of(p, [(entry("../evil.txt"), b"x")]), "outside its folder"),
    "absolute.tar": (lambda p: tar_of(p, [(entry("/tmp/evil.txt"), b"x")]), "outside its folder"),
    "symlink.tar": (
        lambda p: tar_of(p, [(entry("a", tarfile.SYMTYPE, "/tmp"), b""), (entry("a/evil.txt"), b"x")]),
        "link or a device",
    ),
    "symlink_inside.tar": (lambda p: tar_of(p, [(entry("a", tarfile.SYMTYPE, "b"), b"")]), "link or a device"),
    "hardlink.tar": (lambda p: tar_of(p, [(entry("a", tarfile.LNKTYPE, "/etc/passwd"), b"")]), "link or a device"),
    "pipe.tar": (lambda p: tar_of(p, [(entry("a", tarfile.FIFOTYPE), b"")]), "link or a device"),
    "device.tar": (lambda p: tar_of(p, [(entry("a", tarfile.BLKTYPE), b"")]), "link or a device"),
    "sparse.tar": (sparse, "link or a device"),
    "bomb.tar.gz": (lambda p: bomb_of(gzip.open, p), "decompression bombs"),
    "bomb.tar.xz": (lambda p: bomb_of(lzma.open, p), "decompression bombs"),
    "header_bomb.tar.gz": (header_bomb, "damaged"),
    "many.tar.gz": (many_entries, "entries"),
    "cut.tar": (lambda p: cut(p, _good_tar(p.with_name("whole")), 0.3), "damaged"),
    "cut_between_headers.tar": (lambda p: cut(p, _good_tar(p.with_name("whole"), "w"), 5632 / 30720), "damaged"),
    "cut.tar.gz": (lambda p: cut(p, _good_tar(p.with_name("whole"), "w:gz"), 0.8), "damaged"),
    "not_an_archive.zip": (lambda p: p.write_bytes(bytes(range(256)) * 40) and p or p, "no zip or tar archive"),
}
