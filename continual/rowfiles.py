"""Rows of files: CSV in any dialect, JSON, JSON Lines and Parquet, whole or a few out of many."""

import csv
import gzip
import json
import re
import sys
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Protocol

from continual.errors import ContinualError

if TYPE_CHECKING:
    import numpy as np

Row = dict[str, Any]

SUFFIXES = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet")

LARGE = 50_000_000
"""Bytes from which a file's rows stay on the disk until they are wanted; packed ones count four times."""

_HEAD = 1 << 20
"""Bytes from which encoding and dialect of a file are read off."""

_DELIMITERS = (",", ";", "\t", "|")
_BOMS = (
    (b"\xef\xbb\xbf", "utf-8-sig"),
    (b"\xff\xfe\x00\x00", "utf-32"),
    (b"\x00\x00\xfe\xff", "utf-32"),
    (b"\xff\xfe", "utf-16"),
    (b"\xfe\xff", "utf-16"),
)


@dataclass(frozen=True)
class Reading:
    """What a task file says of its data files; None: read off each file."""

    delimiter: str | None = None
    encoding: str | None = None


class LargeRows(Protocol):
    """Rows that stay on the disk, each with a fixed 64-bit hash of what the file says."""

    @property
    def digests(self) -> "np.ndarray":
        """The hash of each row, uint64; the first use reads the file once."""

    def take(self, indices: Sequence[int]) -> Iterator[Row]:
        """Read the rows at ascending indices."""

    def head(self, count: int) -> list[Row]:
        """Read the first rows."""


def size_of(file: Path) -> int:
    """Return about how many bytes a file has when unpacked; 0 where there is none."""
    if not file.is_file():
        return 0
    return file.stat().st_size * (4 if file.suffix == ".gz" else 1)


READ_OFF = Reading()


def read_file(file: Path, reading: Reading = READ_OFF) -> list[Row]:
    """Read all rows of a file, packed with gzip or not.

    Raises:
        ContinualError: no such file, another format, or rows that cannot be read.
    """
    kind = _kind(file)
    try:
        if kind == ".parquet":
            import pyarrow.parquet

            rows: Any = pyarrow.parquet.read_table(file).to_pylist()
        else:
            with _open(file) as stream:
                data = stream.read()
            text, _ = _decoded(data, file, kind, reading)
            rows = _csv_rows(text, file, kind, reading) if _is_csv(kind) else _json_rows(text, file)
    except (OSError, EOFError, ValueError) as error:
        raise ContinualError(f"{file}: cannot be read: {_first_line(error)}") from None
    return checked(rows, str(file))


def open_rows(files: Sequence[Path], reading: Reading) -> LargeRows:
    """Open files whose rows are read only when they are wanted.

    Raises:
        ContinualError: no such file, another format, or a dialect that cannot be read.
    """
    parts = [_open_one(file, reading) for file in files]
    return parts[0] if len(parts) == 1 else JoinedRows(parts)


def checked(rows: Any, where: str) -> list[Row]:
    """Return the rows, if they are a list of mappings.

    Raises:
        ContinualError: they are not.
    """
    if not isinstance(rows, list):
        raise ContinualError(f"{where}: should hold a list of rows, each with named columns")
    for number, row in enumerate(rows, start=1):
        _checked_row(row, where, number)
    return rows


def _checked_row(row: Any, where: str, number: int) -> Row:
    if not isinstance(row, dict):
        raise ContinualError(
            f"{where}: should hold a list of rows, each with named columns; row {number} is {row!r:.60}"
        )
    return row


# ---------------------------------------------------------------- bytes and characters


def _kind(file: Path) -> str:
    if not file.is_file():
        raise ContinualError(f"{file}: no such file")
    kind = Path(file.name.removesuffix(".gz")).suffix.lower()
    if kind in (".xlsx", ".xls", ".ods"):
        raise ContinualError(f"{file}: is a workbook: save the sheet as CSV (UTF-8)")
    if kind not in SUFFIXES:
        raise ContinualError(f"{file}: should end in {', '.join(SUFFIXES)}, with .gz or without")
    return kind


def _is_csv(kind: str) -> bool:
    return kind in (".csv", ".tsv")


def _open(file: Path) -> IO[bytes]:
    return gzip.open(file, "rb") if file.suffix == ".gz" else file.open("rb")  # type: ignore[return-value]


def _encoding(head: bytes, file: Path, reading: Reading) -> str:
    """The encoding that is given, or that a byte order mark or the zeros of UTF-16 show."""
    for mark, name in _BOMS:
        if head.startswith(mark):
            return name
    if reading.encoding is not None:
        try:
            "".encode(reading.encoding)
        except LookupError:
            known = "utf-8, utf-16, cp1252, cp1251, gb18030, shift_jis …"
            raise ContinualError(
                f"dataset_kwargs.encoding: unknown encoding '{reading.encoding}'; known: {known}"
            ) from None
        return reading.encoding
    even, odd = head[0:1000:2].count(0), head[1:1000:2].count(0)
    if even + odd:
        return "utf-16-le" if odd > even else "utf-16-be"
    return "utf-8"


def _decoded(data: bytes, file: Path, kind: str, reading: Reading) -> tuple[str, str]:
    """The text of a file or of its beginning, and its encoding."""
    encoding = _encoding(data[:_HEAD], file, reading)
    try:
        return data.decode(encoding).removeprefix("\ufeff"), encoding
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        if encoding == "utf-8" and reading.encoding is None and _is_csv(kind):
            return _western(data, file, line), "cp1252"
        raise ContinualError(f"{file}:{line}: is not {encoding}: {error.reason}; {_ENCODING_HINT}") from None


_ENCODING_HINT = "give dataset_kwargs: {encoding: …}, e.g. cp1252, cp1251, gb18030 or shift_jis"


def _western(data: bytes, file: Path, line: int) -> str:
    """Read as the Windows code page of Western Europe, where that is what the bytes look like.

    In its languages most letters are ASCII; in Cyrillic or Chinese code pages hardly any are.
    """
    wide = len(re.findall(rb"[\x80-\xff]", data))
    letters = len(re.findall(rb"[A-Za-z]", data))
    try:
        text = data.decode("cp1252")
    except UnicodeDecodeError:
        text = ""
    if not text or wide > 0.3 * (wide + letters):
        raise ContinualError(f"{file}:{line}: is not UTF-8 text; {_ENCODING_HINT}")
    seen = "".join(dict.fromkeys(re.findall(r"[^\x00-\x7f]", text)))[:8]
    warnings.warn(
        f"{file} is not UTF-8 and was read as cp1252, the encoding of Western Windows ({' '.join(seen)}); "
        "if these letters are wrong, give dataset_kwargs: {encoding: …}",
        stacklevel=2,
    )
    return text


# ---------------------------------------------------------------- CSV


@dataclass(frozen=True)
class Dialect:
    """How the cells of a CSV file are told apart."""

    delimiter: str
    quoting: str = "doubled"
    """``doubled``: a quote in a cell is written twice; ``backslash``; ``none``: quotes are letters."""

    @cached_property
    def row(self) -> re.Pattern[bytes]:
        """A line that is a row by itself: its cells are bare, or in quotes that are doubled."""
        cell = rb'(?:"(?:[^"]++|"")*+"|[^"\r\n' + re.escape(self.delimiter.encode()) + rb"]*+)"
        if self.quoting != "doubled":
            cell = rb'[^"]*+'
        return re.compile(cell + b"(?:" + re.escape(self.delimiter.encode()) + cell + rb")*+\r?\n?")

    def reader(self, lines: Iterable[str]) -> Iterator[list[str]]:
        """Return the standard library's reader: strict, for cells of any length."""
        csv.field_size_limit(min(sys.maxsize, 2**31 - 1))
        if self.quoting == "none":
            return csv.reader(lines, delimiter=self.delimiter, quoting=csv.QUOTE_NONE, strict=True)
        backslash = self.quoting == "backslash"
        return csv.reader(
            lines,
            delimiter=self.delimiter,
            doublequote=not backslash,
            escapechar="\\" if backslash else None,
            strict=True,
        )


# str.splitlines also breaks at letters such as U+2028, which a cell may hold.
_LINES = re.compile(r"[^\r\n]*(?:\r\n|\r|\n)|[^\r\n]+")


def _csv_rows(text: str, file: Path, kind: str, reading: Reading) -> list[Row]:
    dialect, whole = _sniffed(text[:_HEAD], kind, reading), len(text) <= _HEAD
    records = _parsed(text, dialect)
    if not isinstance(records, list) and not whole:
        # Quotes of another kind came only later in the file.
        records = _parsed(text, _sniffed(text, kind, reading))
    if isinstance(records, _Broken):
        raise ContinualError(
            f"{file}: row {records.row}: {records.reason}: a cell that holds a quote, a line break or "
            f"the delimiter ({dialect.delimiter!r}) must stand in quotes, its own quotes doubled"
        )
    if not records:
        return []
    names = _names(records[0], file)
    return [_csv_row(names, record, file, n, dialect) for n, record in enumerate(records[1:], start=1)]


@dataclass(frozen=True)
class _Broken:
    row: int
    reason: str


def _parsed(text: str, dialect: Dialect) -> list[list[str]] | _Broken:
    records: list[list[str]] = []
    try:
        for record in dialect.reader(_LINES.findall(text)):
            if record:
                records.append(record)
    except csv.Error as error:
        return _Broken(max(len(records), 1), str(error))
    return records


def _sniffed(head: str, kind: str, reading: Reading) -> Dialect:
    """The dialect whose rows are as wide as their header.

    `csv.Sniffer` guesses letters as delimiters and looks at no row as a whole.
    """
    if len(head) >= _HEAD:
        head = head[: head.rfind("\n") + 1]
    if reading.delimiter is not None:
        delimiters: Sequence[str] = (reading.delimiter,)
    else:
        delimiters = ("\t", ",", ";", "|") if kind == ".tsv" else _DELIMITERS
    best, best_fit = Dialect(delimiters[0]), 0.0
    for delimiter in delimiters:
        for quoting in ("doubled", "backslash", "none"):
            if quoting == "backslash" and '\\"' not in head:
                continue
            fit = _fit(head, Dialect(delimiter, quoting))
            if fit > best_fit and (quoting != "none" or fit == 1):
                best, best_fit = Dialect(delimiter, quoting), fit
    return best


def _fit(head: str, dialect: Dialect) -> float:
    """The share of rows that are as wide as the header; 0 for one column, or where quotes do not fit."""
    records = _parsed(head, dialect)
    if isinstance(records, _Broken) or not records or len(records[0]) < 2:
        return 0.0
    if dialect.quoting == "none":
        cells = [cell for record in records for cell in record]
        if sum(cell[:1] == cell[-1:] == '"' for cell in cells) > 0.1 * len(cells):
            return 0.0
    width = len(records[0])
    rows = records[1:] or records
    return sum(len(record) == width for record in rows) / len(rows)


def _names(header: Sequence[str], file: Path) -> list[str]:
    names = [name.strip() or f"column_{number}" for number, name in enumerate(header, start=1)]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ContinualError(f"{file}: the header names the column '{twice}' twice")
    return names


def _csv_row(names: Sequence[str], record: Sequence[str], file: Path, number: int, dialect: Dialect) -> Row:
    if len(record) > len(names):
        raise ContinualError(
            f"{file}: row {number} has {len(record)} cells, the header {len(names)}: a cell that holds the "
            f"delimiter ({dialect.delimiter!r}) must stand in quotes; another delimiter is given by "
            "dataset_kwargs: {delimiter: …}"
        )
    row: Row = dict.fromkeys(names)
    row.update(zip(names, record, strict=False))
    return row


# ---------------------------------------------------------------- JSON


_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


def _json_rows(text: str, file: Path) -> list[Row]:
    if text.lstrip().startswith("["):
        try:
            rows = json.loads(text)
        except json.JSONDecodeError as error:
            raise ContinualError(f"{file}:{error.lineno}: not valid JSON: {error.msg}") from None
    else:
        rows = []
        # Not splitlines(): it also breaks at U+2028 and others, which JSON strings may hold.
        for number, line in enumerate(text.split("\n"), start=1):
            if line.strip():
                rows.append(_json_line(line, file, number))
    return _whole(rows, file) if _SURROGATE.search(text) else rows


def _json_line(line: str, file: Path, number: int) -> Any:
    try:
        return json.loads(line)
    except json.JSONDecodeError as error:
        raise ContinualError(f"{file}:{number}: not valid JSON: {error.msg}") from None


def _whole(rows: list[Any], file: Path) -> list[Any]:
    """Replace halves of characters (lone surrogates), which are no text, and say in how many rows."""
    mended = [_mended(row) for row in rows]
    # A half is not equal to what stands in for it.
    count = sum(before != after for before, after in zip(rows, mended, strict=True))
    if count:
        warnings.warn(
            f"{file}: {count:,} row{'s hold' if count > 1 else ' holds'} half a character (a lone surrogate), "
            "read as \ufffd",
            stacklevel=2,
        )
    return mended


def _mended(value: Any) -> Any:
    if isinstance(value, str):
        return re.sub("[\ud800-\udfff]", "\ufffd", value)
    if isinstance(value, list):
        return [_mended(one) for one in value]
    if isinstance(value, dict):
        return {_mended(key): _mended(one) for key, one in value.items()}
    return value


# ---------------------------------------------------------------- large files


class TextRows:
    """The rows of a large CSV or JSON Lines file, found by where they begin."""

    def __init__(self, file: Path, kind: str, reading: Reading) -> None:
        self.file = file
        with _open(file) as stream:
            head = stream.read(_HEAD)
        head = head[: head.rfind(b"\n") + 1]
        text, self.encoding = _decoded(head, file, kind, reading)
        self.dialect = _sniffed(text, kind, reading) if _is_csv(kind) else None
        self._names: list[str] = []
        if self.dialect is not None:
            header = next(iter(self.dialect.reader(_LINES.findall(text))), [])
            self._names = _names(header, file)

    @property
    def digests(self) -> "np.ndarray":
        return self._scanned[1]

    def take(self, indices: Sequence[int]) -> Iterator[Row]:
        offsets = self._scanned[0]
        with _open(self.file) as stream:
            for index in indices:
                start, end = int(offsets[index]), int(offsets[index + 1])
                stream.seek(start)
                yield self._row(stream.read(end - start), index + 1)

    def head(self, count: int) -> list[Row]:
        rows = []
        for number, (_, record) in enumerate(self._records(), start=1):
            if number > count:
                break
            rows.append(self._row(record, number))
        return rows

    @cached_property
    def _scanned(self) -> "tuple[np.ndarray, np.ndarray]":
        """Where each row begins and the last one ends, and the hash of each row."""
        import array

        import numpy as np
        import xxhash

        digest = xxhash.xxh3_64_intdigest
        offsets, digests, end = array.array("q"), array.array("Q"), 0
        for start, record in self._records():
            offsets.append(start)
            digests.append(digest(record.rstrip(b"\r\n")))
            end = start + len(record)
        offsets.append(end)
        return np.frombuffer(offsets, dtype=np.int64), np.frombuffer(digests, dtype=np.uint64)

    def _records(self) -> Iterator[tuple[int, bytes]]:
        """Where each row begins, and its bytes."""
        try:
            with _open(self.file) as stream:
                yield from self._csv_records(stream) if self.dialect else self._lines(stream)
        except (OSError, EOFError) as error:
            raise ContinualError(f"{self.file}: cannot be read: {_first_line(error)}") from None

    def _lines(self, stream: Iterable[bytes]) -> Iterator[tuple[int, bytes]]:
        start = 0
        for line in stream:
            if not line.isspace():
                yield start, line
            start += len(line)

    def _csv_records(self, stream: Iterable[bytes]) -> Iterator[tuple[int, bytes]]:
        assert self.dialect is not None
        start, number, lines = 0, 0, iter(stream)
        quoted = _QuotedRows(self.dialect, self.encoding, lines)
        quotes, is_row = self.dialect.quoting != "none", self.dialect.row.fullmatch
        for line in lines:
            # Most lines are rows, by a look that costs a fifth of reading their cells.
            try:
                record = quoted.row_from(line) if quotes and b'"' in line and not is_row(line) else line
            except (csv.Error, UnicodeDecodeError) as error:
                raise ContinualError(f"{self.file}: row {max(number, 1)}: {error}") from None
            if record.strip(b"\r\n"):
                if number:
                    yield start, record
                number += 1
            start += len(record)

    def _row(self, record: bytes, number: int) -> Row:
        try:
            text = record.decode(self.encoding).removeprefix("\ufeff")
        except UnicodeDecodeError as error:
            raise ContinualError(
                f"{self.file}: row {number}: is not {self.encoding}: {error.reason}; {_ENCODING_HINT}"
            ) from None
        if self.dialect is not None:
            try:
                (cells,) = filter(None, self.dialect.reader(_LINES.findall(text)))
            except (csv.Error, ValueError) as error:
                raise ContinualError(f"{self.file}: row {number}: {_first_line(error)}") from None
            return _csv_row(self._names, cells, self.file, number, self.dialect)
        row = _json_line(text, self.file, number)
        row = _whole([row], self.file)[0] if _SURROGATE.search(text) else row
        return _checked_row(row, str(self.file), number)


class _QuotedRows:
    """Joins the lines of a stream that belong to one row of CSV, since a cell may hold line breaks."""

    def __init__(self, dialect: Dialect, encoding: str, lines: Iterator[bytes]) -> None:
        self.encoding, self.lines = encoding, lines
        self.first: bytes | None = None
        self.taken: list[bytes] = []
        self.reader = dialect.reader(self._texts())

    def row_from(self, line: bytes) -> bytes:
        """Return the row that begins with a line; what more it takes is taken from the stream."""
        self.first, self.taken = line, []
        next(self.reader)
        return b"".join(self.taken)

    def _texts(self) -> Iterator[str]:
        while True:
            line = next(self.lines, None) if self.first is None else self.first
            self.first = None
            if line is None:
                return
            self.taken.append(line)
            yield line.decode(self.encoding)


class ArrowRows:
    """The rows of Arrow tables that are read batch by batch, from Parquet or a Hub data set."""

    def __init__(self, batches: "Batches") -> None:
        self._batches = batches

    @cached_property
    def digests(self) -> "np.ndarray":
        import numpy as np

        parts = [_row_digests(batch) for batch in self._batches()]
        return np.concatenate(parts) if parts else np.zeros(0, dtype=np.uint64)

    def take(self, indices: Sequence[int]) -> Iterator[Row]:
        wanted, start = iter(indices), 0
        index = next(wanted, None)
        for batch in self._batches():
            here = []
            while index is not None and index < start + batch.num_rows:
                here.append(index - start)
                index = next(wanted, None)
            if here:
                yield from batch.take(here).to_pylist()
            if index is None:
                return
            start += batch.num_rows

    def head(self, count: int) -> list[Row]:
        rows: list[Row] = []
        for batch in self._batches():
            rows += batch.slice(0, count - len(rows)).to_pylist()
            if len(rows) == count:
                break
        return rows


class Batches(Protocol):
    """Opens the record batches of a table, from the first, at each call."""

    def __call__(self) -> Iterator[Any]: ...


class JoinedRows:
    """The rows of several sources, one after another."""

    def __init__(self, parts: Sequence[LargeRows]) -> None:
        self.parts = parts

    @cached_property
    def digests(self) -> "np.ndarray":
        import numpy as np

        return np.concatenate([part.digests for part in self.parts])

    def take(self, indices: Sequence[int]) -> Iterator[Row]:
        start = 0
        for part in self.parts:
            end = start + len(part.digests)
            yield from part.take([index - start for index in indices if start <= index < end])
            start = end

    def head(self, count: int) -> list[Row]:
        rows: list[Row] = []
        for part in self.parts:
            rows += part.head(count - len(rows)) if len(rows) < count else []
        return rows


class ListedRows:
    """Rows that had to be read whole, in the place of those that stay on the disk."""

    def __init__(self, rows: list[Row]) -> None:
        self.rows = rows

    @cached_property
    def digests(self) -> "np.ndarray":
        import numpy as np
        import xxhash

        texts = (json.dumps(row, default=str, ensure_ascii=True).encode() for row in self.rows)
        return np.array([xxhash.xxh3_64_intdigest(text) for text in texts], dtype=np.uint64)

    def take(self, indices: Sequence[int]) -> Iterator[Row]:
        return (self.rows[index] for index in indices)

    def head(self, count: int) -> list[Row]:
        return self.rows[:count]


def _open_one(file: Path, reading: Reading) -> LargeRows:
    kind = _kind(file)
    if kind == ".parquet":
        return ArrowRows(_parquet_batches(file))
    with _open(file) as stream:
        head = stream.read(_HEAD)
    wide = _encoding(head, file, reading).startswith(("utf-16", "utf-32"))
    # Neither a JSON list, nor text of two bytes a letter, nor old Macintosh lines can be cut at b"\n".
    listed = not _is_csv(kind) and head.lstrip(b"\xef\xbb\xbf \t\r\n")[:1] == b"["
    if wide or listed or re.search(rb"\r(?!\n)|\A[^\n]*\Z", head):
        return ListedRows(read_file(file, reading))
    return TextRows(file, kind, reading)


def _parquet_batches(file: Path) -> Batches:
    def batches() -> Iterator[Any]:
        import pyarrow
        import pyarrow.parquet

        try:
            with pyarrow.parquet.ParquetFile(file) as parquet:
                yield from parquet.iter_batches(batch_size=10_000)
        except (OSError, pyarrow.ArrowInvalid) as error:
            raise ContinualError(f"{file}: cannot be read: {_first_line(error)}") from None

    return batches


def _row_digests(batch: Any) -> "np.ndarray":
    """A hash of each row of a record batch: of its cells, in the order of the columns."""
    import numpy as np
    import xxhash

    digest = xxhash.xxh3_64_intdigest
    total = np.zeros(batch.num_rows, dtype=np.uint64)
    for column in batch.columns:
        cells = (v.encode() if isinstance(v, str) else repr(v).encode() for v in column.to_pylist())
        hashes = np.fromiter(map(digest, cells), dtype=np.uint64, count=batch.num_rows)
        total = total * np.uint64(0x9E3779B97F4A7C15) + hashes
    return total


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
