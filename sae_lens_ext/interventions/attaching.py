"""What a splice puts into a model, and how it comes out again."""

from collections.abc import Mapping
from contextlib import ExitStack

from sae_lens_ext.errors import UnknownSite
from sae_lens_ext.hosts import (
    CacheMemory,
    Host,
    PassTracker,
    Seen,
    Site,
    SiteFunction,
    TracingHost,
)
from sae_lens_ext.interventions.arithmetic import POINTS
from sae_lens_ext.interventions.guard import Guard
from sae_lens_ext.interventions.replacement import Codes, Replacement
from sae_lens_ext.interventions.sites import Placement


def attached(
    host: Host,
    placed: Mapping[str, Placement],
    codes: Codes,
    guard: Guard,
    caches: CacheMemory[Seen],
) -> ExitStack:
    """Take part in every run of a model; closing what is returned ends it.

    Args:
        host: the model.
        placed: the sites and their SAEs.
        codes: where to keep the codes of each run.
        guard: knows the settings of the next run.
        caches: what runs put into caches.
    """
    reached: set[str] = set()

    def begin_run() -> None:
        codes.clear()
        reached.clear()

    tracker = PassTracker(
        guard.settings,
        begin_run,
        lambda: _check_reached(placed, reached),
        memory=caches,
        at_caches=guard.remember,
    )
    with ExitStack() as stack:
        stack.callback(host.before_runs(guard.before_run))
        stack.callback(host.watch(tracker))
        for name, place in placed.items():
            points, close_points = host.points(place.site, POINTS)
            stack.callback(close_points)
            replace = Replacement(
                name,
                codes,
                tracker=tracker,
                points=points,
                at_reach=reached.add,
                has_source=place.source is not None,
            )
            if place.source is not None:
                stack.callback(host.attach(place.source, replace.read))
            stack.callback(host.attach(place.site, replace))
        return stack.pop_all()


def apply_now(
    host: TracingHost,
    placed: Mapping[str, Placement],
    codes: Codes,
    guard: Guard,
    caches: CacheMemory[Seen],
) -> None:
    """Take part in the trace that is running; see ``attached`` for the arguments."""
    tracker = PassTracker(guard.settings, codes.clear, memory=caches)
    host.watch_now(tracker)

    steps: list[tuple[Site, SiteFunction]] = []
    for name, place in placed.items():
        has_source = place.source is not None
        replace = Replacement(name, codes, tracker=tracker, has_source=has_source)
        if place.source is not None:
            steps.append((place.source, replace.read))
        steps.append((place.site, replace))
    if all(site.when is not None for site, _ in steps):
        steps.sort(key=lambda step: step[0].when or ())
    for site, function in steps:
        host.attach_now(site, function)


def _check_reached(placed: Mapping[str, Placement], reached: set[str]) -> None:
    """Raise ``UnknownSite`` if a whole run has left out a site."""
    silent = [name for name in placed if name not in reached]
    if silent:
        raise UnknownSite(
            f"{', '.join(silent)} did not fire in this run, so nothing was spliced "
            "there; choose a site that the model computes, and let it compute it "
            "(a later start, compiled code and hooks that are reset leave it out)"
        )
