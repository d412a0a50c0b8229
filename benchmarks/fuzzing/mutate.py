"""Damages a tree: the bytes of a file, its structure where it has one, or what stands in the file system."""

from __future__ import annotations

import hashlib
import io
import json
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from fnmatch import fnmatch
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

from .corpus import Special, Tree, corpus
from .hostile import BYTES, NAMES, RAW, TARGETS, VALUES, WORDS, YAML, odd_columns

_MARK = re.compile(r'"@raw(\d+)@"')


def mutated(rng: Random, tree: Mapping[str, bytes | Special], targets: str, spare: Sequence[bytes]) -> Tree:
    """`tree` after one to four mutations of the files whose paths match `targets`, patterns with spaces between them.
    `spare` are contents of other files, to splice in."""
    changed: Tree = dict(tree)
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        names = [name for name in changed if any(fnmatch(name, pattern) for pattern in targets.split())]
        if not names:
            break
        name = rng.choice(names)
        content = changed[name]
        if isinstance(content, Special) or rng.random() < 0.1:
            _file_system(rng, changed, name)
        else:
            changed[name] = _contents(rng, name, content, spare)
    return changed


def _contents(rng: Random, name: str, data: bytes, spare: Sequence[bytes]) -> bytes:
    structured = _STRUCTURED.get(Path(name).suffix)
    if structured is not None and rng.random() < 0.75:
        with suppress(Exception):  # damaged before, or not what its name says: only bytes are left to change
            return structured(rng, data)
    for _ in range(rng.choice((1, 1, 2, 5))):
        data = _bytes(rng, data, spare)
    return data


def _bytes(rng: Random, data: bytes, spare: Sequence[bytes]) -> bytes:
    """One change of bytes, more often near the ends than elsewhere: there stand headers and tables."""
    size = len(data)
    near = min(size, rng.choice((8, 64, 1024, size or 1)))
    at = rng.randrange(near + 1) if rng.random() < 0.4 else size - rng.randrange(near + 1)
    end = min(size, at + rng.choice((1, 1, 4, 8, 100, 5000)))
    head, middle, tail = data[:at], data[at:end], data[end:]
    match rng.randrange(7):
        case 0:
            return rng.choice((head, head + tail, head + rng.choice(BYTES), head + rng.randbytes(end - at) + tail))
        case 1:
            return head + middle * rng.choice((2, 3, 50)) + tail
        case 2:
            return head + rng.choice(BYTES) + rng.choice((middle + tail, tail))
        case 3:
            other = rng.choice(spare)
            return head + other[rng.randrange(len(other) + 1) :][: rng.choice((100, 10**6))]
        case 4 if rng.random() < 0.2:
            return rng.choice((b"", b"\xef\xbb\xbf" + data, data.replace(b"\n", b"\r\n"), _utf16(data)))
        case _:
            flipped = bytearray(data)
            for _ in range(rng.choice((1, 1, 3, 20)) if data else 0):
                flipped[min(size - 1, max(0, at + rng.randrange(-8, 9)))] ^= 1 << rng.randrange(8)
            return bytes(flipped)


def _utf16(data: bytes) -> bytes:
    return data.decode("utf-8", "replace").encode("utf-16")


_LARGEST = 2**24
"""Bytes that JSON may grow to: to write more would be measured as a hang of what reads it."""


def _json(rng: Random, data: bytes) -> bytes:
    value, most = [json.loads(data)], max(2, min(300, _LARGEST // max(1, len(data))))
    for _ in range(rng.choice((1, 1, 2, 3))):
        most = 2 if _change_node(rng, value, most) else most
    if "checksum" in (value[0] if isinstance(value[0], dict) else ()) and rng.random() < 0.7:
        value[0].pop("checksum")
        text = json.dumps(value[0], sort_keys=True, separators=(",", ":"))
        value[0]["checksum"] = hashlib.sha256(text.encode()).hexdigest()
    return _with_raw(json.dumps(value[0], ensure_ascii=rng.random() < 0.5))


def _with_raw(text: str) -> bytes:
    """`text` with tokens in it that no JSON writer would write."""
    return _MARK.sub(lambda mark: RAW[int(mark[1])], text).encode("utf-8", "surrogatepass")


def _hostile(rng: Random, like: Any) -> Any:
    """A value, often of the same type: others are refused before they do anything."""
    if rng.random() < 0.15:
        return f"@raw{rng.randrange(len(RAW))}@"
    return rng.choice([value for value in VALUES if type(value) is type(like)] if rng.random() < 0.5 else VALUES)


def _change_node(rng: Random, root: list[Any], most: int) -> bool:
    """Change one value, key or length somewhere in `root`; whether a value is in it `most` times now, and not twice."""
    parent: Any = root
    key: Any = 0
    while isinstance(parent[key], (dict, list)) and parent[key] and rng.random() < 0.85:
        parent = parent[key]
        key = rng.choice(list(parent)) if isinstance(parent, dict) else rng.randrange(len(parent))
    match rng.randrange(8):
        case 0 if parent is not root:
            del parent[key]
        case 1 if isinstance(parent, dict):
            parent[str(rng.choice((*WORDS, *parent)))] = parent.pop(key)
        case 2:
            times = rng.choice((0, 1, 2, most))
            parent[key] = [parent[key]] * times
            return times > 2
        case 3:
            parent[key] = {rng.choice(WORDS): parent[key]}
        case 4:
            parent[key] = parent[rng.choice(list(parent)) if isinstance(parent, dict) else rng.randrange(len(parent))]
        case 5 if isinstance(parent[key], (int, float)):
            parent[key] = rng.choice((-parent[key], parent[key] * 10**6, str(parent[key]), parent[key] + 0.5))
        case _:
            parent[key] = _hostile(rng, parent[key])
    return False


def _lines(rng: Random, data: bytes) -> bytes:
    """JSON lines: a line, or one key of each of them."""
    lines = data.splitlines()
    at = rng.randrange(len(lines))
    if rng.random() < 0.4:
        return _rows(rng, lines, lambda line: _json(rng, line))
    key, old = rng.choice(list(json.loads(lines[at]).items()))
    value = _hostile(rng, old)
    every = rng.choice((1, 1, 2, 7))
    for number in range(rng.randrange(len(lines)), len(lines), every):
        row = json.loads(lines[number])
        row[key] = value
        lines[number] = _with_raw(json.dumps(row))
    return b"\n".join(lines)


def _rows(rng: Random, lines: list[bytes], change: Callable[[bytes], bytes]) -> bytes:
    at = rng.randrange(len(lines))
    match rng.randrange(6):
        case 0:
            del lines[at : at + rng.choice((1, 5, 1000))]
        case 1:
            lines[at:at] = lines[max(0, at - 5) : at] * rng.choice((1, 1, 40))
        case 2:
            rng.shuffle(lines)
        case 3:
            lines.insert(at, rng.choice(BYTES))
        case _:
            lines[at] = change(lines[at])
    return b"\n".join(lines)


def _cells(rng: Random, data: bytes) -> bytes:
    """CSV: a line, a cell, or a whole column."""
    lines = data.splitlines()
    tab = b"\t" if b"\t" in lines[0] else b","
    column, word = rng.randrange(lines[0].count(tab) + 1), rng.choice(WORDS).encode("utf-8", "surrogatepass")

    def change(line: bytes) -> bytes:
        cells = line.split(tab)
        cells[min(column, len(cells) - 1)] = word
        return tab.join(cells)

    if rng.random() < 0.5:
        return _rows(rng, lines, change)
    first = rng.choice((0, 1, 1, len(lines) // 2))
    return b"\n".join((*lines[:first], *map(change, lines[first:])))


def _yaml(rng: Random, data: bytes) -> bytes:
    lines = data.decode().split("\n")
    at = rng.randrange(len(lines))
    key, colon, _ = lines[at].partition(":")
    match rng.randrange(4):
        case 0 if colon:
            lines[at] = f"{key}: {rng.choice((*YAML, *WORDS))}"
        case 1:
            lines.insert(at, rng.choice(YAML))
        case 2:
            lines[at] = re.sub(r"[\w.]+", lambda word: rng.choice((word[0], word[0], *WORDS)), lines[at])
        case _:
            del lines[at : at + rng.choice((1, 3))]
    return "\n".join(lines).encode("utf-8", "surrogatepass")


def _parquet(rng: Random, data: bytes) -> bytes:
    """Mostly the footer, which is a table of sizes and places; sometimes a sound file with odd columns."""
    if rng.random() < 0.35:
        return _odd_parquet(rng, data)
    if data[-4:] != b"PAR1":
        raise ValueError("damaged before")
    footer = int.from_bytes(data[-8:-4], "little")
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 8))):
        anywhere = rng.random() < 0.2
        at = rng.randrange(len(data)) if anywhere else len(data) - 8 - rng.randrange(min(footer, len(data) - 8) + 1)
        changed[at] = rng.choice((changed[at] ^ (1 << rng.randrange(8)), 0, 0x7F, 0x80, 0xFF, rng.randrange(256)))
    return bytes(changed)


@cache
def _sound_parquet() -> frozenset[bytes]:
    files = [file for tree in corpus().values() for file in tree.items()]
    return frozenset(data for name, data in files if name.endswith(".parquet") and isinstance(data, bytes))


def _odd_parquet(rng: Random, data: bytes) -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    if data not in _sound_parquet():  # a damaged file may end this process
        raise ValueError("damaged before")
    table = pq.read_table(io.BytesIO(data))
    for _ in range(rng.choice((1, 1, 2))):
        column = rng.choice(odd_columns())(table.num_rows)
        name = rng.choice((*table.schema.names, *WORDS))
        if name in table.schema.names and rng.random() < 0.8:
            table = table.set_column(table.schema.names.index(name), name, column)
        else:
            table = table.append_column(name, column)
    out = io.BytesIO()
    codec = rng.choice(("none", "snappy", "gzip", "zstd", "lz4"))
    try:
        size = rng.choice((1, 7, 100000))
        pq.write_table(table, out, compression=codec, row_group_size=size, use_dictionary=rng.random() < 0.5)
    except (pa.ArrowException, UnicodeEncodeError):
        return data[: len(data) // 2]
    return out.getvalue()


_STRUCTURED: dict[str, Callable[[Random, bytes], bytes]] = {
    ".json": _json,
    ".jsonl": _lines,
    ".csv": _cells,
    ".tsv": _cells,
    ".yaml": _yaml,
    ".parquet": _parquet,
}


def _file_system(rng: Random, tree: Tree, name: str) -> None:
    folder = name.rpartition("/")[0]
    match rng.randrange(9):
        case 0:
            del tree[name]
        case 1:
            tree[name] = Special("fifo")
        case 2:
            tree[name] = Special("folder")
        case 3:
            tree[name] = Special("sparse", str(rng.choice((1, 2**20, 2**26 + 1, 100_000_000))))
        case 4:
            tree[name] = tree[rng.choice(list(tree))]
        case 5:
            tree[f"{folder}/{rng.choice(NAMES)}".lstrip("/")] = tree[name]
        case 6 if folder:  # the folder leads elsewhere
            for inner in [inner for inner in tree if inner.startswith(f"{folder}/")]:
                del tree[inner]
            tree[folder] = Special("link", rng.choice(TARGETS))
        case _:
            tree[name] = Special("link", rng.choice((*TARGETS, Path(name).name, rng.choice(list(tree)))))
