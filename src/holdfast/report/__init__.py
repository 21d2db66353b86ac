"""Tables, pictures and pages of what runs measured. Names are imported on first use."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from holdfast.report.page import write_comparison as write_comparison
    from holdfast.report.page import write_run_report as write_run_report
    from holdfast.report.rows import RecipeRow as RecipeRow
    from holdfast.report.rows import point_of_run as point_of_run
    from holdfast.report.rows import row_of_run as row_of_run
    from holdfast.report.rows import row_of_runs as row_of_runs
    from holdfast.report.rows import rows_of_settings as rows_of_settings
    from holdfast.report.tables import verdict as verdict

_WHERE = {
    "RecipeRow": "rows",
    "point_of_run": "rows",
    "row_of_run": "rows",
    "row_of_runs": "rows",
    "rows_of_settings": "rows",
    "verdict": "tables",
    "write_comparison": "page",
    "write_run_report": "page",
}

__all__ = [
    "RecipeRow",
    "point_of_run",
    "row_of_run",
    "row_of_runs",
    "rows_of_settings",
    "verdict",
    "write_comparison",
    "write_run_report",
]


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_WHERE[name]}"), name)
