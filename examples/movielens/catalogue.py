"""What an impression says about a user, an item and the moment, and the Avro schemas of the two raw logs."""

import json
from collections.abc import Set
from dataclasses import dataclass
from typing import Any

import numpy as np

from examples.movielens.dataset import ITEM_SCHEMA, Features, Ratings
from monobeam.logs import schemas
from monobeam.models.config import Config

IMPRESSIONS: dict[str, Any] = schemas.impressions(
    {
        "user_id": "string",
        "gender": ["null", "string"],
        "occupation": ["null", "string"],
        "age_decade": ["null", "long"],
        "hour": "long",
        "item_id": "string",
        "genres": {"type": "array", "items": "string"},
        "year": ["null", "long"],
    }
)
ACTIONS: dict[str, Any] = schemas.ACTIONS


@dataclass(frozen=True)
class Catalogue:
    """Features by rating: who was shown what, when. The rating itself is no feature: it is what people did."""

    ratings: Ratings
    users: list[Features]
    items: list[Features]

    @classmethod
    def of(cls, ratings: Ratings) -> "Catalogue":
        """Keeps of the users and items what is a feature."""
        users = [
            {
                "user_id": user["user_id"],
                "gender": user["gender"],
                "occupation": user["occupation"],
                "age_decade": None if user["age"] is None else user["age"] // 10 * 10,
            }
            for user in ratings.users.to_pylist()
        ]
        return cls(ratings, users, ratings.items.to_pylist())

    def features(self, rating: int) -> Features:
        """Everything an impression of this rating carries; the hour is that of the data set, UTC."""
        hour = int(self.ratings.timestamp[rating]) // 3600 % 24
        user, item = int(self.ratings.user[rating]), int(self.ratings.item[rating])
        return {**self.users[user], "hour": hour, **self.items[item]}


class Questions:
    """Bodies of requests for rankings: they name the features that the model has, and no others."""

    def __init__(self, catalogue: Catalogue, config: Config) -> None:
        known = {feature for slot in config.slots for feature in slot.features}
        known |= {numeric.feature for numeric in config.numerics}
        self._catalogue = catalogue
        self._context = known - set(ITEM_SCHEMA.names)
        self._item = known & set(ITEM_SCHEMA.names)
        # Rendered once: making a body must not cost more than answering it.
        self._items = [json.dumps(_only(self._item, item)) for item in catalogue.items]

    def about(self, rating: int) -> str:
        """Rank, and log, the one item of this rating for its user."""
        features = self._catalogue.features(rating)
        body = {"features": _only(self._context, features), "candidates": [_only(self._item, features)], "log": True}
        return json.dumps(body)

    def random(self, rng: np.random.Generator, candidates: int) -> str:
        """Rank some items, any, for somebody; log nothing."""
        features = self._catalogue.features(int(rng.integers(len(self._catalogue.ratings))))
        items = ",".join(self._items[item] for item in rng.integers(0, len(self._items), candidates))
        return f'{{"features":{json.dumps(_only(self._context, features))},"candidates":[{items}],"log":false}}'


def _only(names: Set[str], features: Features) -> Features:
    return {name: value for name, value in features.items() if name in names}
