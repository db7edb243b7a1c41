"""Every layout of the same four ratings reads as the same stream."""

import json
import zipfile
from pathlib import Path

import numpy as np
import pytest

from examples.movielens.catalogue import Catalogue, Questions
from examples.movielens.dataset import Ratings, read
from monobeam.models.config import parse
from tests.examples.layouts import LAYOUTS, ML_100K, write

CONFIG = """
slots = [{ feature = "user_id" }, { features = ["item_id", "genres"] }]
labels = [{ name = "like", action = "like" }]
join = { window = "1s" }
model = { name = "m", label = "like" }
"""


@pytest.fixture(params=sorted(LAYOUTS))
def layout(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def check(ratings: Ratings, layout: str) -> None:
    table = ratings.table()
    assert ratings.layout == layout
    assert table["user_id"].to_pylist() == ["7", "7", "9", "9"]
    assert table["item_id"].to_pylist() == ["1", "2", "1", "2"]
    assert table["rating"].to_pylist() == [5, 3, 4, 1]
    assert table["timestamp"].to_pylist() == [1000, 2000, 2000, 7200]
    assert table["genres"].to_pylist() == [["Animation", "Children's"], [], ["Animation", "Children's"], []]
    assert table["year"].to_pylist() == [1995, None, 1995, None]
    if layout == "ml-25m":  # says nothing about users
        assert table["age"].null_count == table["gender"].null_count == 4
    else:
        assert table["age"].to_pylist() == ([25, 25, 1, 1] if layout == "ml-1m" else [24, 24, 9, 9])
        assert table["gender"].to_pylist() == ["M", "M", "F", "F"]
        assert table["occupation"].to_pylist()[2:] == ["other", "other"]
        assert table["occupation"][0].as_py() == ("engineer" if layout == "ml-1m" else "technician")
        assert table["zip"].to_pylist()[0] == "85711"


def test_reads_a_folder(layout: str, tmp_path: Path) -> None:
    check(read(write(LAYOUTS[layout], tmp_path)), layout)


def test_reads_a_zip_file(layout: str, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "data.zip", "w") as archive:
        for name, text in LAYOUTS[layout].items():
            archive.writestr(name, text.encode("latin-1"))
    check(read(tmp_path / "data.zip"), layout)


def test_head_is_the_first_in_time(tmp_path: Path) -> None:
    head = read(write(ML_100K, tmp_path)).head(2)
    assert len(head) == 2
    np.testing.assert_array_equal(head.timestamp, [1000, 2000])


def test_features_of_an_impression(tmp_path: Path) -> None:
    catalogue = Catalogue.of(read(write(ML_100K, tmp_path)))
    assert catalogue.features(3) == {
        "user_id": "9",
        "gender": "F",
        "occupation": "other",
        "age_decade": 0,
        "hour": 2,
        "item_id": "2",
        "genres": [],
        "year": None,
    }


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("u.data", "7\t1\tfive\t1000\n", r"u\.data: .*five"),
        ("u.data", "", r"u\.data: "),
        ("u.user", "7|24|M\n", r"u\.user:1: 3 fields, expected 5"),
        ("u.item", "1|Toy Story\n", r"u\.item:1: 2 fields, expected 24"),
    ],
)
def test_says_which_file_is_wrong_and_why(file: str, text: str, message: str, tmp_path: Path) -> None:
    folder = write({**ML_100K, f"ml-100k/{file}": text}, tmp_path)
    with pytest.raises(ValueError, match=message):
        read(folder)


def test_says_what_was_looked_for(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(ValueError, match=r"no MovieLens data in .*u\.data.*ratings\.csv.*found notes\.txt"):
        read(tmp_path)
    with pytest.raises(ValueError, match="neither a folder nor a zip file"):
        read(tmp_path / "notes.txt")
    with pytest.raises(ValueError, match="no such folder or zip file"):
        read(tmp_path / "nowhere")


def test_requests_name_the_features_of_the_model_and_no_others(tmp_path: Path) -> None:
    config = parse(CONFIG)
    questions = Questions(Catalogue.of(read(write(ML_100K, tmp_path))), config)
    assert json.loads(questions.about(0)) == {
        "features": {"user_id": "7"},
        "candidates": [{"item_id": "1", "genres": ["Animation", "Children's"]}],
        "log": True,
    }
    body = json.loads(questions.random(np.random.default_rng(1), 5))
    assert body["log"] is False
    assert len(body["candidates"]) == 5
    assert set(body["features"]) == {"user_id"}
    assert all(set(candidate) == {"item_id", "genres"} for candidate in body["candidates"])
