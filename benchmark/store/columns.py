"""Tables of many records in one Parquet file: their rows below each other, in the smallest types that keep each value.

It knows Arrow tables and no records. What a table was before (its columns, their types, pandas' notes) is a text beside
it, from which `restored` makes the same table again; `digest` says whether two tables are the same.
"""

from __future__ import annotations

import hashlib
import inspect
import io
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

__all__ = ["CELL", "described", "digest", "joined", "restored", "rewritten", "write"]

#: The column that says whose each row is.
CELL = "cell_id"
#: Rows that are read together: enough that all records of a comparison share their pages.
ROWS = 1 << 23
_PAGE = 1 << 30  # bytes: a column is one page, so that what comes again in another record costs nothing
_LEVEL = 19
_SAMPLE = 1 << 18  # rows from which the encoding of a column is chosen
_TYPES = {
    str(each): each
    for each in (
        pa.null(), pa.bool_(), pa.string(), pa.large_string(), pa.float32(), pa.float64(),
        pa.int8(), pa.int16(), pa.int32(), pa.int64(), pa.uint8(), pa.uint16(), pa.uint32(), pa.uint64(),
    )
}  # fmt: skip
_INTEGERS = (pa.int8(), pa.uint8(), pa.int16(), pa.uint16(), pa.int32(), pa.uint32(), pa.int64(), pa.uint64())


def described(table: pa.Table) -> str | None:
    """Return a table's columns, types and notes as text; None for a table that cannot be made again from them.

    The number of rows, which pandas notes, is left out: tables of one kind have one text.
    """
    if any(str(field.type) not in _TYPES for field in table.schema) or CELL in table.column_names:
        return None
    notes = {key.decode(): value.decode() for key, value in (table.schema.metadata or {}).items()}
    notes = {key: value.replace(f'"stop": {len(table)},', '"stop": "rows",') for key, value in notes.items()}
    text = json.dumps([[[field.name, str(field.type)] for field in table.schema], notes])
    return text if _schema(text, len(table)).equals(table.schema, check_metadata=True) else None


def _schema(text: str, rows: int) -> pa.Schema:
    columns, notes = json.loads(text)
    notes = {key: value.replace('"stop": "rows",', f'"stop": {rows},') for key, value in notes.items()}
    return pa.schema([pa.field(name, _TYPES[kind]) for name, kind in columns], metadata=notes or None)


def digest(table: pa.Table) -> str:
    """Return a hash of a table's names, types, missing places and values, bit by bit; 32 hexadecimal digits."""
    found = hashlib.blake2b(digest_size=16)
    for name, column in zip(table.column_names, table.columns, strict=True):
        array = column.combine_chunks() if column.num_chunks != 1 else column.chunk(0)
        found.update(json.dumps([name, str(array.type), len(array)]).encode())
        if array.type == pa.null():
            continue
        found.update(np.packbits(array.is_valid().to_numpy(zero_copy_only=False)).tobytes())
        if pa.types.is_string(array.type) or pa.types.is_large_string(array.type):
            texts = array.fill_null("")
            found.update(pc.binary_length(texts).to_numpy(zero_copy_only=False).astype("<i8").tobytes())
            found.update("".join(texts.to_pylist()).encode())
        else:
            found.update(_values(array).tobytes())
    return found.hexdigest()


def _values(array: pa.Array) -> np.ndarray:
    """Return an array's numbers, 0 where they are missing."""
    return array.fill_null(False if array.type == pa.bool_() else 0).to_numpy(zero_copy_only=False)


def joined(tables: Mapping[str, pa.Table]) -> pa.Table:
    """Return the rows of tables below each other, with the key of each in `CELL`.

    A column that a table lacks, or that is empty there, is missing in its rows. Columns of one name that hold numbers
    here and texts there become two.
    """
    columns: dict[str, dict[str, pa.Array]] = {}
    for key, table in tables.items():
        for field in table.schema:
            if field.type != pa.null():
                name = _stored_name(field)
                columns.setdefault(name, {})[key] = table[field.name].combine_chunks()
    keys = list(tables)
    counts = [len(table) for table in tables.values()]
    owner = pa.DictionaryArray.from_arrays(pa.array(np.repeat(np.arange(len(keys)), counts), pa.int32()), keys)
    arrays = [owner]
    for parts in columns.values():
        stored = _smallest(list(parts.values()))
        whole = [
            parts[key].cast(stored) if key in parts else pa.nulls(count, stored)
            for key, count in zip(keys, counts, strict=True)
        ]
        arrays.append(pa.chunked_array(whole, stored))
    return pa.table(arrays, names=[CELL, *columns])


def _stored_name(field: pa.Field) -> str:
    return field.name if _family(field.type) == "number" else f"{field.name} ({_family(field.type)})"


def _family(kind: pa.DataType) -> str:
    if pa.types.is_boolean(kind):
        return "truth"
    return "text" if pa.types.is_string(kind) or pa.types.is_large_string(kind) else "number"


def _smallest(parts: Sequence[pa.Array]) -> pa.DataType:
    """Return the smallest type that holds all values of some arrays to the last bit."""
    family = _family(parts[0].type)
    if family != "number":
        return pa.bool_() if family == "truth" else pa.large_string()
    floats = [part for part in parts if pa.types.is_floating(part.type)]
    if not floats:
        low = min((pc.min(part).as_py() for part in parts if len(part) > part.null_count), default=0)
        high = max((pc.max(part).as_py() for part in parts if len(part) > part.null_count), default=0)
        return next(kind for kind in _INTEGERS if _low(kind) <= low and high <= _high(kind))
    return pa.float32() if all(map(_is_single, floats)) and len(floats) == len(parts) else pa.float64()


def _low(kind: pa.DataType) -> int:
    return 0 if pa.types.is_unsigned_integer(kind) else -(1 << (kind.bit_width - 1))


def _high(kind: pa.DataType) -> int:
    return (1 << (kind.bit_width if pa.types.is_unsigned_integer(kind) else kind.bit_width - 1)) - 1


def _is_single(part: pa.Array) -> bool:
    """Whether single precision keeps each number, the bits of those that are none included."""
    values = _values(part)
    with np.errstate(over="ignore"):
        return values.astype(np.float32).astype(values.dtype).tobytes() == values.tobytes()


def restored(rows: pa.Table, text: str) -> pa.Table:
    """Return a table as it was before `joined`, from its rows there and what `described` said of it."""
    schema = _schema(text, len(rows))
    arrays = []
    for field in schema:
        if field.type == pa.null():
            arrays.append(pa.nulls(len(rows)))
        else:
            arrays.append(rows[_stored_name(field)].cast(field.type))
    return pa.table(arrays, schema=schema)


def write(table: pa.Table, path: Path) -> None:
    """Write a joined table; each column in the encoding that takes the least space in its first rows."""
    encodings = {name: _encoding(table.select([name]).slice(0, _SAMPLE)) for name in table.column_names}
    given: dict[str, Any] = {"max_rows_per_page": ROWS} if "max_rows_per_page" in _PARAMETERS else {}
    pq.write_table(
        table, path, row_group_size=ROWS, write_statistics=False,
        **_options(encodings, dictionary=[name for name, each in encodings.items() if each is None]), **given,
    )  # fmt: skip


_PARAMETERS = inspect.signature(pq.write_table).parameters  # older versions limit a page's bytes alone


def _options(encodings: Mapping[str, str | None], dictionary: Iterable[str]) -> dict[str, Any]:
    chosen = {name: each for name, each in encodings.items() if each is not None}
    return {
        "compression": "zstd", "compression_level": _LEVEL, "data_page_size": _PAGE, "dictionary_pagesize_limit": _PAGE,
        "use_dictionary": list(dictionary) or False, "column_encoding": chosen or None,
    }  # fmt: skip


def _encoding(column: pa.Table) -> str | None:
    """Return a column's encoding; None for a dictionary."""
    kind = column.schema[0].type
    if pa.types.is_dictionary(kind) or pa.types.is_boolean(kind):
        return None if pa.types.is_dictionary(kind) else "PLAIN"
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        choices: tuple[str | None, ...] = (None, "PLAIN")
    elif pa.types.is_floating(kind):
        choices = ("BYTE_STREAM_SPLIT", "PLAIN", None)
    elif kind.bit_width < 32:
        choices = ("PLAIN", "DELTA_BINARY_PACKED", None)
    else:
        choices = ("BYTE_STREAM_SPLIT", "DELTA_BINARY_PACKED", "PLAIN", None)
    return min(choices, key=lambda each: _size(column, each))


def _size(column: pa.Table, encoding: str | None) -> float:
    buffer = io.BytesIO()
    name = column.column_names[0]
    try:
        pq.write_table(column, buffer, **_options({name: encoding}, [name] if encoding is None else []))
    except (pa.ArrowException, OSError):  # an encoding that this version does not write
        return math.inf
    return buffer.tell()


def rewritten(table: pa.Table, path: Path | BinaryIO) -> None:
    """Write one record's table as `benchmark.store.record.write_table` does."""
    numbers = [field.name for field in table.schema if _family(field.type) == "number" and field.type != pa.null()]
    pq.write_table(
        table, path, compression="zstd", compression_level=_LEVEL, use_dictionary=False,
        column_encoding=dict.fromkeys(numbers, "BYTE_STREAM_SPLIT") or None,
    )  # fmt: skip
