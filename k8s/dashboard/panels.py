"""The panels of the dashboard: what an on-call person looks at, in the order in which they ask.

Is anything wrong (the top line)? Who asks, what fails, how slow is it, and in which stage? Is the engine behind? Do the
caches help? And how does it compare with the paper?
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Unit = Literal["reqps", "percentunit", "s", "short", "bytes", "none", "rowsps"]

SELECTED = 'namespace=~"$namespace", pod=~"$pod"'
"""What the variables at the top leave of all pods."""

WINDOW = "[$__rate_interval]"


@dataclass(frozen=True, slots=True)
class Query:
    """A curve, or one per series.

    Attributes:
        expression: PromQL.
        legend: its name; {{label}} is filled in.
    """

    expression: str
    legend: str = ""


@dataclass(frozen=True, slots=True)
class Panel:
    """A panel.

    Attributes:
        title: what is shown.
        description: how to read it, and when to worry.
        queries: its curves.
        unit: Grafana's name of it.
        kind: 'stat' is one number of the top line.
        red_above, red_below: the number turns red there.
        stacked: the curves add up.
    """

    title: str
    description: str
    queries: tuple[Query, ...]
    unit: Unit
    kind: Literal["stat", "timeseries"] = "timeseries"
    red_above: float | None = None
    red_below: float | None = None
    stacked: bool = False


def _rate(metric: str, by: str, selected: str = SELECTED) -> str:
    return f"sum by ({by}) (rate({metric}{{{selected}}}{WINDOW}))"


def _quantile(quantile: float, metric: str, by: str, selected: str = SELECTED) -> str:
    groups = ", ".join(part for part in (by, "le") if part)
    return f"histogram_quantile({quantile}, sum by ({groups}) (rate({metric}_bucket{{{selected}}}{WINDOW})))"


def _mean(metric: str, by: str) -> str:
    return f"{_rate(f'{metric}_sum', by)} / {_rate(f'{metric}_count', by)}"


ESTIMATE = f'{SELECTED}, method="EstimatePose"'
FAULTS = f'{SELECTED}, code=~"INTERNAL|UNAVAILABLE|UNKNOWN|DATA_LOSS"'

TOP = (
    Panel(
        "Calls",
        "All methods.",
        (Query(f"sum(rate(capeserve_requests_total{{{SELECTED}}}{WINDOW}))"),),
        "reqps",
        "stat",
    ),
    Panel(
        "Server errors",
        "Share of calls that failed by our fault. Alert: 1 %.",
        (
            Query(
                f"sum(rate(capeserve_requests_total{{{FAULTS}}}{WINDOW})) "
                f"/ sum(rate(capeserve_requests_total{{{SELECTED}}}{WINDOW}))"
            ),
        ),
        "percentunit",
        "stat",
        red_above=0.01,
    ),
    Panel(
        "p95 of EstimatePose",
        "From arrival to answer. Alert: 1 s.",
        (Query(_quantile(0.95, "capeserve_request_duration_seconds", "", ESTIMATE)),),
        "s",
        "stat",
        red_above=1,
    ),
    Panel(
        "Queue wait, p95",
        "The pod that is furthest behind. Alert: 0.5 s.",
        (Query(f"max(capeserve:queue_wait_seconds:p95_2m{{{SELECTED}}})"),),
        "s",
        "stat",
        red_above=0.5,
    ),
    Panel(
        "Engines healthy",
        "Pods whose engine answers, of all pods.",
        (Query(f"avg(capeserve_engine_healthy{{{SELECTED}}})"),),
        "percentunit",
        "stat",
        red_below=1,
    ),
    Panel(
        "Times the paper's speed",
        "The paper's time on an RTX 3060 ÷ the warm median here; the slowest system.",
        (Query(f"min(capeserve_model_speed_ratio{{{SELECTED}}})"),),
        "none",
        "stat",
        red_below=1,
    ),
)
"""One number each."""

ROWS: tuple[tuple[Panel, ...], ...] = (
    (
        Panel(
            "Traffic",
            "Finished calls by method.",
            (Query(_rate("capeserve_requests_total", "method"), "{{method}}"),),
            "reqps",
            stacked=True,
        ),
        Panel(
            "What went wrong",
            "Calls that did not end with OK. INVALID_ARGUMENT and NOT_FOUND are callers' mistakes; RESOURCE_EXHAUSTED "
            "and DEADLINE_EXCEEDED say that there is too little room; INTERNAL and UNAVAILABLE are ours.",
            (Query(_rate("capeserve_requests_total", "code", f'{SELECTED}, code!="OK"'), "{{code}}"),),
            "reqps",
            stacked=True,
        ),
        Panel(
            "Latency of EstimatePose",
            "From arrival to answer.",
            tuple(
                Query(_quantile(share, "capeserve_request_duration_seconds", "", ESTIMATE), f"p{share * 100:.0f}")
                for share in (0.5, 0.95, 0.99)
            ),
            "s",
        ),
        Panel(
            "Latency by stage, p95",
            "Waiting included. 'support' is small while its cache hits; 'queue' is a part of the others, not one more.",
            (Query(_quantile(0.95, "capeserve_stage_duration_seconds", "stage"), "{{stage}}"),),
            "s",
        ),
    ),
    (
        Panel(
            "Queue depth",
            "Rows that wait for the engine; with Triton, that it has not answered.",
            (Query(f"sum by (component) (capeserve_queue_depth{{{SELECTED}}})", "{{component}}"),),
            "short",
            stacked=True,
        ),
        Panel(
            "Queue wait by component, p95",
            "Scale out when it stays above the time of a run. With Triton: the last panel.",
            (Query(_quantile(0.95, "capeserve_queue_wait_seconds", "component"), "{{component}}"),),
            "s",
        ),
        Panel(
            "Rows dropped",
            "full: turned away; deadline: too late to begin with; cancelled: the caller left; engine: it failed.",
            (Query(_rate("capeserve_queue_dropped_total", "reason"), "{{reason}}"),),
            "rowsps",
            stacked=True,
        ),
        Panel(
            "Batch size, mean",
            "Rows of a run. 1 with an idle engine is right; 1 with a deep queue is not.",
            (Query(_mean("capeserve_batch_size", "component"), "{{component}}"),),
            "short",
        ),
    ),
    (
        Panel(
            "Engine run, p95",
            "One run of each component; with Triton, a row there and back.",
            (Query(_quantile(0.95, "capeserve_engine_run_duration_seconds", "component"), "{{component}}"),),
            "s",
        ),
        Panel(
            "Engine errors",
            "Runs that failed, hung or answered nonsense.",
            (Query(_rate("capeserve_engine_errors_total", "component"), "{{component}}"),),
            "short",
        ),
        Panel(
            "Cache hits",
            "Share of lookups. A low share of 'supports' costs a support pass for each query.",
            (
                Query(
                    f"{_rate('capeserve_cache_hits_total', 'cache')} / ({_rate('capeserve_cache_hits_total', 'cache')}"
                    f" + {_rate('capeserve_cache_misses_total', 'cache')}"
                    f" + {_rate('capeserve_cache_shared_total', 'cache')})",
                    "{{cache}}",
                ),
            ),
            "percentunit",
        ),
        Panel(
            "Cache size",
            "Bytes held; dashed: entries pushed out a second.",
            (
                Query(f"sum by (cache) (capeserve_cache_size_bytes{{{SELECTED}}})", "{{cache}}"),
                Query(_rate("capeserve_cache_evictions_total", "cache"), "{{cache}} evictions/s"),
            ),
            "bytes",
        ),
    ),
    (
        Panel(
            "Registry",
            "p95 of a call, and failures a second.",
            (
                Query(
                    _quantile(0.95, "capeserve_registry_operation_duration_seconds", "operation"), "{{operation}} p95"
                ),
                Query(
                    _rate("capeserve_registry_operations_total", "operation", f'{SELECTED}, outcome="error"'),
                    "{{operation}} errors/s",
                ),
            ),
            "s",
        ),
        Panel(
            "Objects a second",
            "Answered boxes of all pods; dashed: the paper's throughput on one RTX 3060.",
            (
                Query(f"sum by (model) (capeserve_model_frames_per_second{{{SELECTED}}})", "{{model}}"),
                Query(f"max by (model) (capeserve_paper_frames_per_second{{{SELECTED}}})", "{{model}} paper"),
            ),
            "short",
        ),
        Panel(
            "Memory and CPU of the pods",
            "Resident bytes; CPU in cores.",
            (
                Query(f"process_resident_memory_bytes{{{SELECTED}}}", "{{pod}} memory"),
                Query(f"rate(process_cpu_seconds_total{{{SELECTED}}}{WINDOW})", "{{pod}} cores"),
            ),
            "bytes",
        ),
        Panel(
            "Triton's queue, mean wait",
            "Only where Triton runs: the slowest model of each pod. Above the time of a run: add a GPU.",
            (Query("capeserve:triton_queue_wait_seconds:mean_2m", "{{pod}}"),),
            "s",
        ),
    ),
)
"""Curves, four a row."""
