"""No telemetry ever, and no network where the user has said so.

The libraries below us read their variables once, when they are imported, and each reads its
own: ``datasets`` fetches although ``TRANSFORMERS_OFFLINE`` is set. Here one is as good as all.
"""

from __future__ import annotations

import os
import sys

OFFLINE = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE")
_YES = ("1", "TRUE", "YES", "ON")
_NO_TELEMETRY = {
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "DISABLE_TELEMETRY": "1",
    "DO_NOT_TRACK": "1",
    "HF_UPDATE_DOWNLOAD_COUNTS": "0",
    "GRADIO_ANALYTICS_ENABLED": "False",
    "RAY_USAGE_STATS_ENABLED": "0",
    "VLLM_NO_USAGE_STATS": "1",
}


def offline() -> str | None:
    """The variable by which the user said to stay off the network; None if there is none."""
    return next((v for v in OFFLINE if os.environ.get(v, "").upper() in _YES), None)


def settle() -> None:
    """Switch telemetry off in every library, and the network too where a variable says so.

    Libraries that are imported already are told as well.
    """
    os.environ.update(_NO_TELEMETRY)
    stay = offline() is not None
    if stay:
        os.environ.update(dict.fromkeys(OFFLINE, "1"))
    hub = sys.modules.get("huggingface_hub.constants")
    if hub is not None:
        vars(hub)["HF_HUB_DISABLE_TELEMETRY"] = True
        if stay:
            vars(hub)["HF_HUB_OFFLINE"] = True
    datasets = sys.modules.get("datasets.config")
    if datasets is not None and stay:
        vars(datasets).update(HF_HUB_OFFLINE=True, HF_DATASETS_OFFLINE=True)
