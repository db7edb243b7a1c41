"""Reads MovieLens, in any of the layouts in which it is handed round, as one stream of ratings in time order.

| layout  | files                                   | where it comes from                  |
|---------|-----------------------------------------|--------------------------------------|
| recbole | *.inter, *.item, *.user                 | inside the wheel of ``recbole``      |
| ml-100k | u.data, u.item, u.user                  | grouplens.org, ml-100k.zip           |
| ml-1m   | ratings.dat, movies.dat, users.dat      | grouplens.org, ml-1m.zip             |
| ml-25m  | ratings.csv, movies.csv (no users)      | grouplens.org, ml-20m, ml-25m, ...   |

Each may be a folder or a zip file (a wheel is one), at any depth inside.
"""

import io
import re
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv

# In the order of the flags of u.item, and of the codes of users.dat.
GENRES_100K = (
    "unknown|Action|Adventure|Animation|Children's|Comedy|Crime|Documentary|Drama|Fantasy|Film-Noir|Horror|Musical|"
    "Mystery|Romance|Sci-Fi|Thriller|War|Western"
)
OCCUPATIONS_1M = (
    "other|educator|artist|clerical|student|service|doctor|executive|farmer|homemaker|student_k12|lawyer|programmer|"
    "retired|sales|scientist|self_employed|engineer|tradesman|unemployed|writer"
)
NO_GENRE = {"", "unknown", "(no genres listed)"}

USER_SCHEMA = pa.schema(
    [
        ("user_id", pa.string()),
        ("age", pa.int64()),
        ("gender", pa.string()),
        ("occupation", pa.string()),
        ("zip", pa.string()),
    ]
)
ITEM_SCHEMA = pa.schema([("item_id", pa.string()), ("genres", pa.list_(pa.string())), ("year", pa.int64())])

Features = dict[str, object]


@dataclass(frozen=True)
class Ratings:
    """Ratings in time order (ties in the order of the file), with what is known of the users and items they name.

    Attributes:
        layout: name of the layout they were read from.
        user: int32[N], row of ``users``.
        item: int32[N], row of ``items``.
        rating: float32[N], stars.
        timestamp: int64[N], seconds since the epoch, rising.
        users: columns of USER_SCHEMA; what is unknown is null.
        items: columns of ITEM_SCHEMA.
    """

    layout: str
    user: np.ndarray
    item: np.ndarray
    rating: np.ndarray
    timestamp: np.ndarray
    users: pa.Table
    items: pa.Table

    def __len__(self) -> int:
        return len(self.timestamp)

    def head(self, count: int) -> "Ratings":
        """The first ``count`` ratings."""
        user, item, rating, timestamp = (
            column[:count] for column in (self.user, self.item, self.rating, self.timestamp)
        )
        return replace(self, user=user, item=item, rating=rating, timestamp=timestamp)

    def table(self) -> pa.Table:
        """One row per rating with every column: user_id ... zip, item_id, genres, year, rating, timestamp."""
        joined = self.users.take(self.user)
        for name in ITEM_SCHEMA.names:
            joined = joined.append_column(name, self.items[name].take(pa.array(self.item)))
        joined = joined.append_column("rating", pa.array(self.rating))
        return joined.append_column("timestamp", pa.array(self.timestamp))


def read(path: str | Path) -> Ratings:
    """The ratings in a folder or zip file of any known layout.

    Raises:
        ValueError: nothing there, no known layout, or a line that cannot be understood (file and reason are named).
    """
    files = _Files(Path(path))
    for layout, (needed, reader) in _LAYOUTS.items():
        found = {pattern: files.find(pattern) for pattern in needed}
        if all(found.values()):
            return reader(layout, {pattern: files.read(name) for pattern, name in found.items() if name})
    known = "; ".join(f"{layout}: {', '.join(needed)}" for layout, (needed, _) in _LAYOUTS.items())
    raise ValueError(f"no MovieLens data in {path} (looked for {known}; found {files.some()})")


class _Files:
    """The files of a folder or of a zip file, found by the end of their names."""

    def __init__(self, path: Path) -> None:
        if not path.exists():
            raise ValueError(f"no such folder or zip file: {path}")
        self._folder = path if path.is_dir() else None
        self._zip = None
        if self._folder is not None:
            self._names = sorted(str(p.relative_to(path).as_posix()) for p in path.rglob("*") if p.is_file())
        elif zipfile.is_zipfile(path):
            self._zip = zipfile.ZipFile(path)
            self._names = sorted(name for name in self._zip.namelist() if not name.endswith("/"))
        else:
            raise ValueError(f"neither a folder nor a zip file: {path}")

    def find(self, pattern: str) -> str | None:
        """The least deep file whose last part matches ("u.data", "*.inter")."""
        matches = [name for name in self._names if PurePosixPath(name).match(pattern)]
        return min(matches, key=lambda name: (name.count("/"), name), default=None)

    def read(self, name: str) -> "_File":
        content = self._zip.read(name) if self._zip else (self._folder or Path()).joinpath(name).read_bytes()
        return _File(name, content)

    def some(self) -> str:
        return ", ".join(self._names[:5]) + (", ..." if len(self._names) > 5 else "") or "nothing"


@dataclass(frozen=True)
class _File:
    name: str
    content: bytes

    def rows(self, delimiter: str, fields: int) -> Iterator[list[str]]:
        """The lines, split. The early files are in Latin-1, the later ones in UTF-8."""
        try:
            text = self.content.decode()
        except UnicodeDecodeError:
            text = self.content.decode("latin-1")
        for number, line in enumerate(text.splitlines(), 1):
            if not line:
                continue
            row = line.split(delimiter)
            if len(row) < fields:
                raise ValueError(f"{self.name}:{number}: {len(row)} fields, expected {fields}: {line[:80]!r}")
            yield row

    def numbers(self, delimiter: str, names: list[str], skip_rows: int = 0) -> pa.Table:
        """Ratings in bulk: columns user_id, item_id (strings), rating, timestamp; the rest is dropped."""
        types = {"user_id": pa.string(), "item_id": pa.string(), "rating": pa.float32(), "timestamp": pa.float64()}
        try:
            return pacsv.read_csv(
                io.BytesIO(self.content),
                read_options=pacsv.ReadOptions(column_names=names, skip_rows=skip_rows),
                parse_options=pacsv.ParseOptions(delimiter=delimiter, quote_char=False),
                convert_options=pacsv.ConvertOptions(column_types=types, include_columns=list(types)),
            )
        except pa.ArrowInvalid as error:
            raise ValueError(f"{self.name}: {error}") from None


def _recbole(layout: str, files: Mapping[str, _File]) -> Ratings:
    def rows(file: _File) -> Iterator[dict[str, str]]:
        lines = file.rows("\t", 1)
        header = [field.partition(":")[0] for field in next(lines)]
        for row in lines:
            yield dict(zip(header, row, strict=False))

    inter = files["*.inter"]
    header = [field.partition(":")[0] for field in inter.content.partition(b"\n")[0].decode().strip().split("\t")]
    items = {
        row["item_id"]: _item(row["item_id"], row.get("class", row.get("genre", "")).split(" "), row["release_year"])
        for row in rows(files["*.item"])
    }
    users = {
        row["user_id"]: _user(row["user_id"], row["age"], row["gender"], row["occupation"], row["zip_code"])
        for row in rows(files["*.user"])
    }
    return _assemble(layout, inter, inter.numbers("\t", header, skip_rows=1), users, items)


def _ml_100k(layout: str, files: Mapping[str, _File]) -> Ratings:
    data = files["u.data"]
    users = {row[0]: _user(row[0], row[1], row[2], row[3], row[4]) for row in files["u.user"].rows("|", 5)}
    items, flags = {}, GENRES_100K.split("|")
    for row in files["u.item"].rows("|", 5 + len(flags)):
        genres = [genre for genre, flag in zip(flags, row[5:], strict=False) if flag == "1"]
        items[row[0]] = _item(row[0], genres, row[2][-4:] or row[1])
    return _assemble(layout, data, data.numbers("\t", ["user_id", "item_id", "rating", "timestamp"]), users, items)


def _ml_1m(layout: str, files: Mapping[str, _File]) -> Ratings:
    ratings = files["ratings.dat"]
    users = {
        row[0]: _user(row[0], row[2], row[1], _occupation(row[3]), row[4]) for row in files["users.dat"].rows("::", 5)
    }
    items = {row[0]: _item(row[0], row[2].split("|"), row[1]) for row in files["movies.dat"].rows("::", 3)}
    # "a::b" read with the delimiter ":" is a, nothing, b.
    names = ["user_id", "_1", "item_id", "_2", "rating", "_3", "timestamp"]
    return _assemble(layout, ratings, ratings.numbers(":", names), users, items)


def _ml_25m(layout: str, files: Mapping[str, _File]) -> Ratings:
    ratings = files["ratings.csv"]
    items = {}
    for row in files["movies.csv"].rows(",", 3):
        if row[0] != "movieId":
            # The title may hold commas (and is quoted then): the genres are what follows the last one.
            items[row[0]] = _item(row[0], row[-1].split("|"), ",".join(row[1:-1]))
    table = ratings.numbers(",", ["user_id", "item_id", "rating", "timestamp"], skip_rows=1)
    return _assemble(layout, ratings, table, {}, items)


_LAYOUTS: dict[str, tuple[tuple[str, ...], Callable[[str, Mapping[str, _File]], Ratings]]] = {
    "recbole": (("*.inter", "*.item", "*.user"), _recbole),
    "ml-100k": (("u.data", "u.item", "u.user"), _ml_100k),
    "ml-1m": (("ratings.dat", "movies.dat", "users.dat"), _ml_1m),
    "ml-25m": (("ratings.csv", "movies.csv"), _ml_25m),
}


def _assemble(
    layout: str, source: _File, ratings: pa.Table, users: dict[str, Features], items: dict[str, Features]
) -> Ratings:
    if not len(ratings):
        raise ValueError(f"{source.name}: no ratings in it")
    nulls = [name for name in ratings.column_names if ratings[name].null_count]
    if nulls:
        raise ValueError(f"{source.name}: a rating lacks its {nulls[0]}")
    order = np.argsort(ratings["timestamp"].to_numpy(), kind="stable")
    ratings = ratings.take(order)
    user, user_ids = _codes(ratings["user_id"])
    item, item_ids = _codes(ratings["item_id"])
    return Ratings(
        layout,
        user,
        item,
        ratings["rating"].to_numpy(),
        ratings["timestamp"].to_numpy().astype(np.int64),
        pa.Table.from_pylist([users.get(user, {"user_id": user}) for user in user_ids], USER_SCHEMA),
        pa.Table.from_pylist([items.get(item, {"item_id": item, "genres": []}) for item in item_ids], ITEM_SCHEMA),
    )


def _codes(ids: pa.ChunkedArray) -> tuple[np.ndarray, list[str]]:
    """Ids as rows of the list of distinct ids, in the order in which they first appear."""
    encoded = pc.dictionary_encode(ids).combine_chunks()
    if isinstance(encoded, pa.ChunkedArray):
        encoded = encoded.unify_dictionaries().combine_chunks()
    return encoded.indices.to_numpy(zero_copy_only=False).astype(np.int32), encoded.dictionary.to_pylist()


def _user(user_id: str, age: str, gender: str, occupation: str | None, zip_code: str) -> Features:
    return {
        "user_id": user_id,
        "age": int(age) if age.isdigit() else None,
        "gender": gender or None,
        "occupation": occupation or None,
        "zip": zip_code or None,
    }


def _item(item_id: str, genres: list[str], year: str) -> Features:
    """``year``: anything whose last four digits in a row, in brackets or alone, are the year: "1995", "Heat (1995)"."""
    found = re.findall(r"\((\d{4})\)|^(\d{4})$", year.strip().strip('"').strip())
    return {
        "item_id": item_id,
        "genres": [genre for genre in genres if genre not in NO_GENRE],
        "year": int("".join(found[-1])) if found else None,
    }


def _occupation(code: str) -> str | None:
    names = OCCUPATIONS_1M.split("|")
    return names[int(code)] if code.isdigit() and int(code) < len(names) else None
