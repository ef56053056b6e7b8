"""Live performance figures: what they cover, and the comparison with the paper."""

from __future__ import annotations

import pytest

from service.telemetry.performance import PAPER, WINDOW_SECONDS, PerformanceMonitor, paper_row


class Clock:
    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def monitor(clock: Clock) -> PerformanceMonitor:
    return PerformanceMonitor({"flf": PAPER["flf"], "our_own": None}, clock, clock)


def test_percentiles_are_latencies_that_occurred(monitor: PerformanceMonitor) -> None:
    for milliseconds in range(1, 101):
        monitor.record("flf", milliseconds / 1000, instances=1, warm=True)
    warm = monitor.report()[0].warm
    assert (warm.count, warm.p50, warm.p95, warm.p99) == (100, 0.050, 0.095, 0.099)


def test_warm_and_cold_requests_are_kept_apart_and_both_count_as_throughput(
    monitor: PerformanceMonitor, clock: Clock
) -> None:
    monitor.record("flf", 0.02, instances=3, warm=True)
    monitor.record("flf", 0.5, instances=1, warm=False)
    clock.now += 2
    report = monitor.report()[0]
    assert (report.warm.p50, report.cold.p50) == (0.02, 0.5)
    assert (report.instances, report.frames_per_second) == (4, 2.0)


def test_old_requests_drop_out_of_the_figures(monitor: PerformanceMonitor, clock: Clock) -> None:
    monitor.record("flf", 9.0, instances=1, warm=True)
    clock.now += WINDOW_SECONDS + 1
    monitor.record("flf", 0.1, instances=1, warm=True)
    report = monitor.report()[0]
    assert (report.warm.count, report.warm.p99) == (1, 0.1)
    assert report.start_time == clock.now - WINDOW_SECONDS


def test_a_busy_server_remembers_no_more_than_it_may_and_says_what_the_figures_cover(
    monitor: PerformanceMonitor, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.telemetry.performance.MAX_REQUESTS", 10)
    busy = PerformanceMonitor({"flf": PAPER["flf"]}, clock, clock)
    for _ in range(20):
        clock.now += 1
        busy.record("flf", 0.1, instances=1, warm=True)
    report = busy.report()[0]
    assert report.start_time == clock.now - 9
    assert report.warm.count == 10


def test_the_ratio_compares_the_papers_time_with_the_warm_median(monitor: PerformanceMonitor) -> None:
    monitor.record("flf", 0.06135 / 3, instances=1, warm=True)
    report = monitor.report()[0]
    assert report.paper is not None
    assert report.paper.frames_per_second == 16.30
    assert report.speed_ratio == pytest.approx(3.0)


def test_the_ratio_leaves_out_requests_with_several_boxes_and_cold_ones(monitor: PerformanceMonitor) -> None:
    for _ in range(9):
        monitor.record("flf", 5.0, instances=16, warm=True)
        monitor.record("flf", 5.0, instances=1, warm=False)
    monitor.record("flf", 0.06135, instances=1, warm=True)
    assert monitor.report()[0].speed_ratio == pytest.approx(1.0)


@pytest.mark.parametrize(("parameters", "has_row"), [(195_715_000, True), (194_946_000, True), (174_000_000, False)])
def test_only_a_model_of_the_papers_size_is_compared_with_it(parameters: int, has_row: bool) -> None:
    assert (paper_row("flf", parameters) is not None) is has_row
    assert paper_row("our_own", parameters) is None


def test_the_busy_rate_counts_only_time_in_which_requests_were_answered(
    monitor: PerformanceMonitor, clock: Clock
) -> None:
    for pause, seconds in ((1.0, 0.5), (0.25, 0.5), (8.0, 0.25)):  # the first two overlap by a quarter of a second
        clock.now += pause
        monitor.record("flf", seconds, instances=2, warm=True)
    clock.now += 0.75
    report = monitor.report()[0]
    assert report.frames_per_second == pytest.approx(6 / 10)
    assert report.busy_frames_per_second == pytest.approx(6 / 1.0)


def test_a_system_that_the_paper_does_not_have_or_nobody_asked_has_no_ratio(monitor: PerformanceMonitor) -> None:
    monitor.record("our_own", 0.01, instances=1, warm=True)
    flf, our_own = monitor.report()
    assert flf.speed_ratio is None
    assert (our_own.paper, our_own.speed_ratio) == (None, None)


@pytest.mark.parametrize("jump", [-86_400.0, 86_400.0])
def test_a_calendar_that_jumps_leaves_the_figures_alone(clock: Clock, jump: float) -> None:
    calendar = Clock()
    monitor = PerformanceMonitor({"flf": PAPER["flf"]}, clock, calendar)
    monitor.record("flf", 0.1, instances=1, warm=True)
    calendar.now += jump
    clock.now += 4
    monitor.record("flf", 0.1, instances=1, warm=True)
    report = monitor.report()[0]
    assert (report.instances, report.frames_per_second) == (2, 0.5)
    assert report.start_time == calendar.now - 4
