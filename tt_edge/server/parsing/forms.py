"""Forms with a file (``multipart/form-data``), parsed in a process of their own."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field

from python_multipart import FormParser
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import Field, File, parse_options_header

from tt_edge.server.errors import ApiError

# It would log a line for each malformed form, as often as a client sends one.
logging.getLogger("python_multipart").setLevel(logging.CRITICAL)

#: Most fields of a form, and most bytes of one that is no file.
MAX_FIELDS, MAX_FIELD_BYTES = 64, 64 << 10


@dataclass
class Form:
    """Fields by name, each with its values in order, and the content of files by name."""

    fields: dict[str, list[str]] = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict)
    is_whole: bool = False

    def add_field(self, found: Field) -> None:
        """Raises ``ApiError`` for a field too many, too large, or that is no UTF-8."""
        name, value = _text(found.field_name, "the name of a field"), found.value or b""
        if sum(map(len, self.fields.values())) >= MAX_FIELDS:
            raise ApiError(400, f"the form has more than {MAX_FIELDS} fields; send fewer")
        if name == "file":
            raise ApiError(400, "file is sent without a filename; send it as a file, with one", param=name)
        if len(value) > MAX_FIELD_BYTES:
            raise ApiError(400, f"{name[:80]} has more than {MAX_FIELD_BYTES} bytes; send less", param=name[:80])
        self.fields.setdefault(name, []).append(_text(value, name[:80]))

    def end(self) -> None:
        """Called when the last boundary was there."""
        self.is_whole = True

    def add_file(self, found: File) -> None:
        """Raises ``ApiError`` for a second file of one name."""
        name = _text(found.field_name, "the name of a field")
        if name in self.files or len(self.files) >= MAX_FIELDS:
            raise ApiError(400, f"the form has several files {name[:80]}; send one", param=name[:80])
        found.file_object.seek(0)
        self.files[name] = found.file_object.read()


def parse_form(content: bytes, content_type: str) -> Form:
    """``content`` as a form. Raises ``ApiError`` for one that is malformed or cut off."""
    kind, options = parse_options_header(content_type)
    boundary = options.get(b"boundary")
    if kind != b"multipart/form-data" or not boundary or len(boundary) > 200:
        raise ApiError(400, "the content type has no boundary; send the form as multipart/form-data with its boundary")
    form = Form()
    try:
        parser = FormParser(
            "multipart/form-data",
            form.add_field,
            form.add_file,
            form.end,
            boundary=boundary,
            config={"MAX_BODY_SIZE": float("inf"), "MAX_MEMORY_FILE_SIZE": len(content) + 1},
        )
        parser.write(content)
        parser.finalize()
    except (FormParserError, ValueError, LookupError) as error:
        raise ApiError(400, f"the form is malformed ({str(error)[:200]}); send it again") from None
    if not form.is_whole:
        raise ApiError(400, "the form is cut off; send all of it")
    return form


def _text(value: bytes | None, what: str) -> str:
    try:
        return (value or b"").decode()
    except UnicodeDecodeError:
        raise ApiError(400, f"{what} is not UTF-8; send it as that") from None
