"""Is what the server answers what the store holds? Asks both the same questions."""

import json
import urllib.request

import numpy as np

from examples.movielens.catalogue import Catalogue, Questions
from examples.movielens.checks import Check
from monobeam.models.config import Config
from monobeam.serving.columns import FeatureTypes
from monobeam.serving.predictor import Predictor
from monobeam.serving.replica import Replica
from monobeam.serving.request import parse
from monobeam.store.backend import open_backend

USERS, ITEMS = 20, 100


def compare(url: str, store: str, config: Config, catalogue: Catalogue, seed: int) -> list[Check]:
    """The serving process at ``url`` against a replica that is read from the store afresh: epoch, rows, and scores.

    Scores have to be equal bit for bit, for some users (by chance, from the seed) and some items each.
    """
    replica, backend = Replica(config), open_backend(store)
    replica.load(backend)
    backend.close()
    with urllib.request.urlopen(f"{url}/stats.json", timeout=10) as answer:
        served = json.load(answer)["replica"]
    rng, questions = np.random.Generator(np.random.PCG64([seed, 2])), Questions(catalogue, config)
    equal = sum(_equal_scores(url, questions.random(rng, ITEMS).encode(), replica, config) for _ in range(USERS))
    return [
        Check("epoch that is served and epoch of the store", served["epoch"], replica.epoch),
        Check("rows that are served and rows in the store", served["rows"], replica.rows),
        Check("scores of the server equal to those of a replica fresh from the store", equal, USERS * ITEMS),
    ]


def _equal_scores(url: str, body: bytes, replica: Replica, config: Config) -> int:
    request = urllib.request.Request(f"{url}/rank", body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=10) as answer:
        served = {result["index"]: result["score"] for result in json.load(answer)["results"]}
    scores = Predictor(config, replica.tables).score(parse(body, FeatureTypes(config), ITEMS), replica.dense)
    return sum(served[index] == score for index, score in enumerate(scores.probabilities.tolist()))
