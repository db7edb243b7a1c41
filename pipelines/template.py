"""Metadata of a flex template: what Dataflow's page and ``gcloud`` ask for, from the options that a pipeline has.

python -m monobeam.pipelines.template online > build/online.json
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from monobeam.pipelines.options import OPTIONS, USED

_LOG = r"^kafka://[^/?]+/[^/?]+(\?.*)?$"
_RAW = rf"{_LOG}|^pubsub://[^/]+/[^/]+\?schema=.+$"
_REGEXES = {
    "config": "^gs://.+$",
    "impressions": _RAW,
    "actions": _RAW,
    "examples": _LOG,
    "sync": _LOG,
    "dead_letters": _LOG,
    "metrics": _LOG,
    "store": r"^bigtable://[^/]+/[^/]+/[^/]+$|^flight(\+tls)?://[^/]+:\d+$",
}
_DESCRIPTIONS = {
    "join": "Joins impressions and actions into the log of examples.",
    "train": "Trains the model on the log of examples, each exactly once, and publishes what changes.",
    "online": "Joins and trains in one streaming job: what people do now is in the model a moment later.",
    "backfill": "Joins and trains on the logs as they are now, in one bounded job.",
}
_STREAMS = {"join": None, "train": None, "online": True, "backfill": False}
"""Whether a pipeline is a streaming job; None: as its parameter ``streaming`` says."""


def metadata(pipeline: str) -> dict[str, Any]:
    """What ``gcloud dataflow flex-template build --metadata-file`` takes."""
    parameters = [_parameter(name, OPTIONS[name]) for name in USED[pipeline]]
    streaming = _STREAMS[pipeline]
    if streaming is None:
        parameters.append(
            {
                "name": "streaming",
                "label": "Streaming",
                "helpText": "true: follow the logs for ever; false, the default: up to their present end.",
                "isOptional": True,
                "regexes": ["^(true|false)$"],
            }
        )
    return {
        "name": f"monobeam {pipeline}",
        "description": _DESCRIPTIONS[pipeline],
        "streaming": streaming is not False,
        "parameters": parameters,
    }


def _parameter(name: str, option: Mapping[str, Any]) -> dict[str, Any]:
    help_text = str(option["help"])
    if name == "config":
        help_text += ". A file in Cloud Storage; what the other parameters do not say is taken from it"
    if option.get("action") == "append":
        help_text = help_text.replace("; may be repeated", "; where there are several, name them in the file instead")
    return {
        "name": name,
        "label": name.replace("_", " ").capitalize(),
        "helpText": f"{help_text[0].upper()}{help_text[1:]}.",
        "isOptional": name != "config",
        **({"regexes": [_REGEXES[name]]} if name in _REGEXES else {}),
    }


def arguments(pipeline: str, given: Sequence[str], image: str) -> list[str]:
    """The command line of a pipeline, from what a template's launcher gives: its parameters all have values."""
    others = [each for each in given if not each.startswith("--streaming=")]
    asked = f"--streaming={str(True).lower()}" in given or "--streaming" in given
    streams = _STREAMS[pipeline]
    if (asked if streams is None else streams) and "--streaming" not in others:
        others.append("--streaming")
    if image and not any(each.startswith("--sdk_container_image") for each in given):
        others += [f"--sdk_container_image={image}", "--sdk_location=container"]
    if not any(each.startswith("--runner") for each in given):
        others.append("--runner=DataflowRunner")
    return others


def main(argv: Sequence[str] | None = None) -> None:
    """Print the metadata of the pipeline that is named."""
    given = list(sys.argv[1:] if argv is None else argv)
    if len(given) != 1 or given[0] not in USED:
        raise SystemExit(f"usage: python -m monobeam.pipelines.template {{{','.join(USED)}}}")
    print(json.dumps(metadata(given[0]), indent=2))


if __name__ == "__main__":
    main()
