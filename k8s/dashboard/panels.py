"""The panels of the dashboard, in the order in which an on-call person asks.

Are callers served? Who is not? What limits the service? What changed?
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Unit = Literal["reqps", "percentunit", "s", "ms", "short", "bytes", "none", "rowsps"]

SELECTED = 'namespace=~"$namespace", pod=~"$pod"'
"""Selector of the pods that the variables at the top choose."""

WINDOW = "[$__rate_interval]"


@dataclass(frozen=True, slots=True)
class Query:
    """A PromQL expression: one curve per series.

    Attributes:
        expression: PromQL.
        legend: name of the curves; {{label}} is replaced by the label.
    """

    expression: str
    legend: str = ""


@dataclass(frozen=True, slots=True)
class Panel:
    """One panel.

    Attributes:
        title: what is shown.
        description: how to read it, and when to worry.
        queries: its curves.
        unit: as Grafana names it.
        kind: 'stat' shows one number; they form the top line.
        red_above, red_below: threshold at which the number turns red.
        stacked: whether the curves are added up.
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
NAMESPACE = 'namespace=~"$namespace"'
SERVED = f'{SELECTED}, result=~"answered|failed|refused|late"'
UNSERVED = f'{SELECTED}, result=~"failed|refused|late"'

TOP = (
    Panel(
        "Unserved",
        "Share of queries that the server should have answered and did not. Objective: at most 0.1 %.",
        (
            Query(
                f"sum(rate(capeserve_items_total{{{UNSERVED}}}{WINDOW})) "
                f"/ sum(rate(capeserve_items_total{{{SERVED}}}{WINDOW}))"
            ),
        ),
        "percentunit",
        "stat",
        red_above=0.001,
    ),
    Panel(
        "p95 of EstimatePose",
        "From arrival to answer. Objective: 99 % within 1 s.",
        (Query(_quantile(0.95, "capeserve_request_duration_seconds", "", ESTIMATE)),),
        "s",
        "stat",
        red_above=1,
    ),
    Panel(
        "Load",
        "Work offered to the engine ÷ its capacity, of the fullest pod. Autoscalers aim at 0.7; above 1 it refuses.",
        (Query(f"max(capeserve:load:ratio2m{{{SELECTED}}})"),),
        "none",
        "stat",
        red_above=1,
    ),
    Panel(
        "Engines healthy",
        "Processes whose engine answers, of all.",
        (Query(f"avg(capeserve_engine_healthy{{{SELECTED}}})"),),
        "percentunit",
        "stat",
        red_below=1,
    ),
    Panel(
        "Registry reachable",
        "Processes that reach the support registry, of all.",
        (Query(f"avg(capeserve_registry_healthy{{{SELECTED}}})"),),
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

SERVED_ROW = (
    Panel(
        "Queries by result",
        "Calls of EstimatePose and items of batches and streams. refused, late and failed are the server's fault; "
        "invalid and limited are the callers'.",
        (Query(_rate("capeserve_items_total", "result"), "{{result}}"),),
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
        "Error budget burn",
        "Errors ÷ what the objective allows. The fast alert fires at 14.4, the slow one at 6.",
        (
            Query(f"capeserve:availability_errors:ratio_1h{{{NAMESPACE}}} / 0.001", "availability {{namespace}}"),
            Query(f"capeserve:latency_errors:ratio_1h{{{NAMESPACE}}} / 0.01", "latency {{namespace}}"),
        ),
        "short",
    ),
    Panel(
        "Warm query, ms",
        "Median of the last 5 minutes; dashed: the paper's time on an RTX 3060.",
        (
            Query(
                f"1000 * max by (model) (capeserve_paper_inference_seconds{{{SELECTED}}} "
                f"/ capeserve_model_speed_ratio{{{SELECTED}}})",
                "{{model}}",
            ),
            Query(f"1000 * max by (model) (capeserve_paper_inference_seconds{{{SELECTED}}})", "{{model}} paper"),
        ),
        "ms",
    ),
)

UNSERVED_ROW = (
    Panel(
        "Unserved by tenant",
        "Queries of each tenant that were refused, late or failed.",
        (Query(_rate("capeserve_tenant_items_total", "tenant", UNSERVED), "{{tenant}}"),),
        "reqps",
        stacked=True,
    ),
    Panel(
        "Callers over their own limits",
        "By tenant, and calls without a valid token. Not the server's fault: no alert pages for it.",
        (
            Query(
                _rate("capeserve_tenant_items_total", "tenant", f'{SELECTED}, result="limited"'), "{{tenant}} limited"
            ),
            Query(_rate("capeserve_callers_refused_total", "reason"), "{{reason}}"),
        ),
        "reqps",
    ),
    Panel(
        "Calls that do not end with OK",
        "INVALID_ARGUMENT and NOT_FOUND are callers' mistakes; RESOURCE_EXHAUSTED means no room, or over a limit; "
        "INTERNAL and UNAVAILABLE are the server's fault.",
        (Query(_rate("capeserve_requests_total", "code", f'{SELECTED}, code!="OK"'), "{{code}}"),),
        "reqps",
        stacked=True,
    ),
    Panel(
        "Registry",
        "p95 of an operation; dashed: failures a second.",
        (
            Query(_quantile(0.95, "capeserve_registry_operation_duration_seconds", "operation"), "{{operation}} p95"),
            Query(
                _rate("capeserve_registry_operations_total", "operation", f'{SELECTED}, outcome="error"'),
                "{{operation}} errors/s",
            ),
        ),
        "s",
    ),
)

LIMITS_ROW = (
    Panel(
        "Load by pod",
        "Busy share of the engine ÷ share of work that is not refused. Autoscalers aim at 0.7.",
        (
            Query(f"capeserve:load:ratio2m{{{SELECTED}}}", "{{pod}}"),
            Query(f"capeserve:refused:ratio2m{{{SELECTED}}}", "{{pod}} refused"),
        ),
        "short",
    ),
    Panel(
        "Latency by stage, p95",
        "'support' is small while its cache hits; 'queue' is contained in the others.",
        (Query(_quantile(0.95, "capeserve_stage_duration_seconds", "stage"), "{{stage}}"),),
        "s",
    ),
    Panel(
        "Queue wait, p95",
        "Before the engine; with Triton the mean wait inside Triton.",
        (
            Query(_quantile(0.95, "capeserve_queue_wait_seconds", "component"), "{{component}}"),
            Query(f"capeserve:triton_queue_wait_seconds:mean_2m{{{SELECTED}}}", "{{pod}} Triton"),
        ),
        "s",
    ),
    Panel(
        "Queue depth and batch size",
        "Batch items waiting; dashed: mean items of a run. A batch of 1 with a deep queue is wrong.",
        (
            Query(f"sum by (component) (capeserve_queue_depth{{{SELECTED}}})", "{{component}}"),
            Query(_mean("capeserve_batch_size", "component"), "{{component}} batch"),
        ),
        "short",
    ),
    Panel(
        "Engine run, p95",
        "One run; with Triton one item there and back. Dashed: failed runs a second.",
        (
            Query(_quantile(0.95, "capeserve_engine_run_duration_seconds", "component"), "{{component}}"),
            Query(_rate("capeserve_engine_errors_total", "component"), "{{component}} errors/s"),
        ),
        "s",
    ),
    Panel(
        "Memory and CPU",
        "Resident bytes; dashed: CPU in cores. A Python front end saturates at one.",
        (
            Query(f"process_resident_memory_bytes{{{SELECTED}}}", "{{pod}} memory"),
            Query(f"rate(process_cpu_seconds_total{{{SELECTED}}}{WINDOW})", "{{pod}} cores"),
        ),
        "bytes",
    ),
)

CHANGES_ROW = (
    Panel(
        "Versions served",
        "Pods by model version and by program. Two lines for more than a rollout: CapeserveVersionsDiffer.",
        (
            Query(f"count by (model, version) (capeserve_model_info{{{SELECTED}}})", "{{model}} {{version}}"),
            Query(f"count by (version, engine) (capeserve_build_info{{{SELECTED}}})", "{{version}} {{engine}}"),
        ),
        "short",
    ),
    Panel(
        "Pods and restarts",
        "Pods that answer Prometheus; dashed: starts within 10 minutes.",
        (
            Query(f'count by (namespace) (up{{{SELECTED}, job="capeserve"}} == 1)', "{{namespace}}"),
            Query(
                f"sum by (namespace) (changes(process_start_time_seconds{{{SELECTED}}}[10m]))", "{{namespace}} starts"
            ),
        ),
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
        "Objects a second (FPS)",
        "Answered boxes of all pods; dashed: the paper's throughput on one RTX 3060.",
        (
            Query(f"sum by (model) (capeserve_model_frames_per_second{{{SELECTED}}})", "{{model}}"),
            Query(f"max by (model) (capeserve_paper_frames_per_second{{{SELECTED}}})", "{{model}} paper"),
        ),
        "short",
    ),
)

ROWS: tuple[tuple[Panel, ...], ...] = (SERVED_ROW, UNSERVED_ROW, LIMITS_ROW, CHANGES_ROW)
"""Curves, one row a question."""
