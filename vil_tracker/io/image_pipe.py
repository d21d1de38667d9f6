"""Cuts a byte stream of concatenated JPEG and PNG files into single files."""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator

from vil_tracker.errors import UserError

log = logging.getLogger(__name__)

_PNG = b"\x89PNG\r\n\x1a\n"
_JPEG = b"\xff\xd8"
_MAX_BYTES = 256 * 2**20  # no image is larger; keeps a stream without an end marker from filling the memory
_STANDALONE = {0x01, *range(0xD0, 0xD8)}  # JPEG markers without a length: TEM and RST0-7


class _EndOfStream(Exception):
    """The stream has no more bytes."""


class _Bytes:
    """Reads exact numbers of bytes and remembers those of the current image."""

    def __init__(self, stream: io.RawIOBase) -> None:
        self._stream = stream
        self._buffer = bytearray()
        self.position = 0  # of the next byte in the buffer, which begins with the current image

    def take(self, count: int) -> bytes:
        self._fill(self.position + count)
        data = bytes(self._buffer[self.position : self.position + count])
        self.position += count
        return data

    def skip_past(self, byte: int) -> None:
        while True:
            found = self._buffer.find(byte, self.position)
            if found >= 0:
                self.position = found + 1
                return
            self.position = len(self._buffer)
            self._fill(self.position + 1)

    def cut(self) -> bytes:
        """Hand out the current image and begin the next one."""
        data = bytes(self._buffer[: self.position])
        del self._buffer[: self.position]
        self.position = 0
        return data

    def _fill(self, size: int) -> None:
        if size > _MAX_BYTES:
            raise UserError(f"an image on standard input is over {_MAX_BYTES // 2**20} MiB: pipe JPEG or PNG into it")
        while len(self._buffer) < size:
            chunk = self._stream.read(1 << 16)
            if not chunk:
                raise _EndOfStream
            self._buffer += chunk


def split_images(stream: io.RawIOBase) -> Iterator[bytes]:
    """Give the JPEG and PNG files that a stream holds, one after another; UserError where something else begins.

    The structure of each file is followed (segments, chunks), so that an end marker inside a thumbnail or a colour
    profile does not cut a file short. A last image that is cut off ends the iteration with a warning.
    """
    data = _Bytes(stream)
    count = 0
    while True:
        try:
            first = data.take(1)
            if first in b"\0\r\n ":  # some writers pad between images
                data.cut()
                continue
            head = first + data.take(1)
            if head == _JPEG:
                _pass_jpeg(data)
            elif head == _PNG[:2] and data.take(6) == _PNG[2:]:
                _pass_png(data)
            else:
                raise UserError(f"image {count} on standard input is neither JPEG nor PNG: pipe one of these into it")
        except _EndOfStream:
            if data.position:
                log.warning("standard input ended in the middle of image %d, which is left out", count)
            return
        yield data.cut()
        count += 1


def _pass_png(data: _Bytes) -> None:
    while True:
        length = int.from_bytes(data.take(4), "big")
        kind = data.take(4)
        data.take(length + 4)  # content and checksum
        if kind == b"IEND":
            return


def _pass_jpeg(data: _Bytes) -> None:
    while True:
        data.skip_past(0xFF)
        marker = data.take(1)[0]
        while marker == 0xFF:  # fill bytes
            marker = data.take(1)[0]
        if marker == 0xD9:
            return
        if marker == 0x00 or marker in _STANDALONE:
            continue  # inside entropy-coded data, where every 0xFF is followed by one of these
        # A segment; its length counts itself.
        data.take(max(int.from_bytes(data.take(2), "big") - 2, 0))
