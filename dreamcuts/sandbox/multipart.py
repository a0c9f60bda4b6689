"""Reads multipart/form-data, as far as uploads need it."""

from __future__ import annotations

from dataclasses import dataclass
from email.message import Message


@dataclass(frozen=True, slots=True)
class Part:
    """One part of a form. `content_type` and `filename` are empty for plain fields."""

    name: str
    filename: str
    content_type: str
    data: bytes


def parse_multipart(body: bytes, content_type: str) -> list[Part]:
    """The parts of a form. Raises ValueError when the body is not the form that the header promises."""
    boundary = _header(content_type).get_param("boundary")
    if not isinstance(boundary, str) or not boundary:
        raise ValueError("no boundary in the content type")
    mark = b"\r\n--" + boundary.encode()
    pieces = (b"\r\n" + body).split(mark)
    if len(pieces) < 2 or not pieces[-1].startswith(b"--"):
        raise ValueError("the form ends too early")
    return [_part(piece) for piece in pieces[1:-1]]


def _part(piece: bytes) -> Part:
    head, found, data = piece.partition(b"\r\n\r\n")
    if not found:
        raise ValueError("a part has no end of its headers")
    fields: dict[str, str] = {}
    for line in head.decode("utf-8", "replace").splitlines():
        name, colon, value = line.partition(":")
        if colon:
            fields[name.strip().lower()] = value.strip()
    disposition = _header(fields.get("content-disposition", ""))
    return Part(
        name=str(disposition.get_param("name", "")),
        filename=str(disposition.get_param("filename", "")),
        content_type=fields.get("content-type", ""),
        data=data,
    )


def _header(value: str) -> Message:
    message = Message()
    message["content-type"] = value
    return message
