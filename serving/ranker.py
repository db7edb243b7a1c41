"""One rank request from bytes to bytes: parse, score, log what is shown, answer."""

from __future__ import annotations

import itertools
import json
import secrets
import time
from collections.abc import Callable
from typing import Any

from monobeam.serving.columns import FeatureTypes
from monobeam.serving.errors import InvalidRequest, NotReady
from monobeam.serving.predictor import Predictor, Scores
from monobeam.serving.request import RankRequest, parse
from monobeam.serving.served import Shown
from monobeam.serving.state import ServerState


class Ranker:
    """Answers rank requests, one at a time: call it from one thread."""

    def __init__(
        self,
        state: ServerState,
        predictor: Predictor,
        types: FeatureTypes,
        max_candidates: int,
        now_us: Callable[[], int],
    ) -> None:
        self._state = state
        self._predictor = predictor
        self._types = types
        self._max_candidates = max_candidates
        self._now_us = now_us
        # Impression ids are unique over all servers and restarts: 64 random bits for this process, then a count.
        self._instance = secrets.token_hex(8)
        self._numbers = itertools.count()

    def rank(self, body: bytes) -> bytes:
        """The JSON answer to a JSON request; a ServingError where there is none."""
        started = time.perf_counter_ns()
        request = parse(body, self._types, self._max_candidates)
        self._predictor.check_size(request)
        replica, requests = self._state.replica, self._state.requests
        if not replica.loaded:
            raise NotReady("the parameter store has not been read yet; /ready says why")
        dense, epoch = replica.dense, replica.epoch
        waited = self._state.freshness.take()  # before the lookups: this answer sees all that was applied until here
        try:
            scores = self._predictor.score(request, dense)
        except ValueError as error:
            self._state.freshness.give_back(waited)
            raise InvalidRequest(str(error)) from error
        now_us = self._now_us()
        self._state.freshness.answered(waited, now_us)
        requests.unknown_fids += scores.unknown_fids
        requests.forward.add(scores.forward_us, now_us)
        answer = self._answer(request, scores, epoch, dense.version, now_us)
        requests.latency.add((time.perf_counter_ns() - started) / 1000, now_us)
        return answer

    def _answer(self, request: RankRequest, scores: Scores, epoch: int, dense_version: int, now_us: int) -> bytes:
        number = next(self._numbers)
        request_id = request.request_id or f"{self._instance}-{number}"
        shown = scores.order[: request.top_k].tolist()
        probabilities = scores.probabilities[shown].tolist()
        ids = [f"{self._instance}-{number}-{place}" for place in range(len(shown))]
        logged = request.log and self._log(request, request_id, shown, ids, probabilities, epoch, dense_version, now_us)
        results = [
            {"index": index, "impression_id": name if logged else None, "score": score, "position": position}
            for position, (index, name, score) in enumerate(zip(shown, ids, probabilities, strict=True))
        ]
        staleness_ms = self._state.replica.staleness_ms(now_us)
        answer: dict[str, Any] = {
            "request_id": request_id,
            "time": now_us,
            "model": self._state.model,
            "epoch": epoch,
            "dense_version": dense_version,
            "trained": epoch > 0,
            "staleness_ms": None if staleness_ms is None else round(staleness_ms, 1),
            "unknown_fids": scores.unknown_fids,
            "results": results,
        }
        return json.dumps(answer).encode()

    def _log(
        self,
        request: RankRequest,
        request_id: str,
        shown: list[int],
        ids: list[str],
        probabilities: list[float],
        epoch: int,
        dense_version: int,
        now_us: int,
    ) -> bool:
        """Offer what is shown to the served log; what is not logged gets no impression id to act upon."""
        if self._state.served is None:
            return False
        self._types.pin(request.types)
        return self._state.served.offer(
            Shown(
                time_us=now_us,
                request_id=request_id,
                model=self._state.model,
                model_version=f"{epoch}.{dense_version}",
                user=request.user_values,
                candidates=tuple(request.candidate_values[index] for index in shown),
                impression_ids=tuple(ids),
                scores=tuple(probabilities),
            )
        )
