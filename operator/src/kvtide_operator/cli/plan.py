"""`kvtide plan`: the frontier of cost, throughput and latency, and the point to take."""

import os
import time
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kvtide_cachenode.contract.command_line import INFEASIBLE
from kvtide_operator.cli import options
from kvtide_operator.cli.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kvtide_operator.plan.explorer import Progress
    from kvtide_operator.plan.search import Search
    from kvtide_operator.plan.workers import Evaluate, Workers

MAX_JOBS = 256
CONNECT_TIMEOUT_S = 5
"""How long a Dask scheduler may take to answer before the command gives up."""
MAX_INSTANCES = 64
"""Numbers of engines compared; each is a search of its own."""


@click.command(context_settings={"show_default": True})
@click.argument("source", metavar="TRACE|HISTORY")
@options.manifest()
@click.option("--search", default="kareto", metavar="kareto|kareto-paper|grid|nsga2", help="Algorithm.")
@click.option("--option", "settings", multiple=True, metavar="NAME=VALUE", help="Option of the algorithm.")
@click.option(
    "--groups", type=click.IntRange(1, 126), metavar="K", help="Tune a TTL for each of K prefix subtrees."
)
@click.option("--instances", metavar="MIN:MAX", help="Compare numbers of engines, as advice.")
@click.option("--at", metavar="TIME", help="Plan for the period from then on.  [default: the history's end]")
@click.option("--period", metavar="DURATION", help="How long a history's period is.  [default: 1h]")
@click.option(
    "--evaluate-next",
    is_flag=True,
    help="Judge the plan by the period that follows, or a file's second half.",
)
@click.option("--jobs", type=click.IntRange(1, MAX_JOBS), help="Processes.  [default: one per core]")
@click.option("--executor", metavar="dask=ADDRESS", help="Simulate on a cluster instead.")
@options.seed("the algorithm and of arrivals given in coarse ticks")
@options.as_json()
@click.option(
    "--report", type=click.Path(path_type=Path, dir_okay=False), help="Write the frontier to this HTML file."
)
def command(
    source: str,
    manifest_file: Path,
    search: str,
    settings: tuple[str, ...],
    groups: int | None,
    instances: str | None,
    at: str | None,
    period: str | None,
    evaluate_next: bool,
    jobs: int | None,
    executor: str | None,
    seed: int,
    as_json: bool,
    report: Path | None,
) -> None:
    """Find the non-dominated sizes of the tiers, and the one that fits the manifest's objective.

    TRACE is a file. HISTORY is the folder or URL of recorded periods: the plan is made on the slot that TIME
    had in the preceding week, or else on the time before it.

    Exit code 3: no size keeps the constraints; the nearest is shown.
    """
    from kvtide_operator.api.manifest import load_manifest
    from kvtide_operator.cli.mistakes import MISTAKES
    from kvtide_operator.cli.output import check_writable, write_file
    from kvtide_operator.cli.past import look_back
    from kvtide_operator.cli.planning import planned, regretted
    from kvtide_operator.planner.scenario import scenario_from
    from kvtide_operator.simulate.evaluator import Evaluator

    if groups and evaluate_next:
        raise UserError(
            f"--groups {groups}: --evaluate-next judges plans with one TTL; leave one of them out"
        )
    check_writable("--report", report)
    try:
        chosen_search = _search(search, settings, seed)
        engines = _range(instances) if instances else None
        manifest = load_manifest(manifest_file)
        past = look_back(source, at, period, with_following=evaluate_next)
        evaluator = Evaluator(scenario_from(manifest, past.trace, seed))
        with _workers(evaluator.evaluate, jobs, executor) as workers, _progress(as_json) as progress:
            document, chosen = planned(
                manifest,
                evaluator,
                chosen_search,
                workers,
                groups=groups,
                engines=engines,
                seed=seed,
                on_progress=progress,
            )
        if past.following:
            following = Evaluator(scenario_from(manifest, past.following, seed))
            with _workers(following.evaluate, jobs, executor) as workers, _progress(as_json) as progress:
                document["regret"] = regretted(manifest, chosen, following, chosen_search, workers, progress)
    except MISTAKES as error:
        raise UserError(str(error)) from None
    document["wall_s"] = _process_age_s()
    if as_json:
        import msgspec

        click.echo(msgspec.json.encode(document))
    else:
        from kvtide_operator.cli.report.frontier_text import show

        show(document)
        if past.following:
            click.echo(_judgement(document["regret"], document["currency"]))
    if report:
        from kvtide_operator.cli.report.frontier import render

        write_file("--report", report, render(document, f"Planned on {past.name}").encode())
    if not document["feasible"]:
        raise click.exceptions.Exit(INFEASIBLE)


def _judgement(regret: dict[str, Any], currency: str) -> str:
    """How the plan did on the following period, in one sentence."""
    chosen, optimum = regret["chosen"], regret["optimum"]
    if regret["ttft_mean_s"] is None:
        against = "its queue grows" if not chosen["stable"] else "in hindsight every queue grows"
    else:
        ssd = f"TTL {optimum['ttl_s']:.0f} s, {optimum['tier_class'] or 'no SSD'}"
        against = (
            f"mean TTFT {chosen['ttft_mean_s']:.2f} s at {chosen['cost_per_hour']:.2f} {currency}/h, "
            f"{regret['ttft_mean_s']:+.2f} s and {regret['cost_per_hour']:+.2f} {currency}/h "
            f"against its optimum ({optimum['dram_gib']:.4g} GiB, {ssd})"
        )
    broken = f"; it breaks {', '.join(regret['broken'])}" if regret["broken"] else ""
    notes = "".join(f"; {note}" for note in regret["notes"])
    return f"on the following period ({regret['requests']:,} requests): {against}{broken}{notes}"


def _search(name: str, settings: tuple[str, ...], seed: int) -> "Search":
    """The algorithm with its options, each converted to the type of its default."""
    from dataclasses import fields
    from fractions import Fraction

    from kvtide_operator.plan.search import SEARCHES

    if name not in SEARCHES:
        raise UserError(f"--search {name}: known are {', '.join(SEARCHES)}")
    known: dict[str, Any] = {field.name: field.default for field in fields(SEARCHES[name])}
    values: dict[str, Any] = {"seed": seed} if "seed" in known else {}
    for setting in settings:
        option, equals, text = setting.partition("=")
        if not equals or option not in known:
            raise UserError(f"--option {setting}: write NAME=VALUE with one of {', '.join(known)}")
        kind = type(known[option]) if known[option] is not None else int
        try:
            values[option] = kind(text)
        except (ValueError, ZeroDivisionError):
            example = Fraction(1, 2) if kind is Fraction else known[option]
            raise UserError(
                f"--option {setting}: {text!r} is no value; write for example {example}"
            ) from None
        if not values[option] >= 0 or (kind is int and values[option] == 0 and option != "seed"):
            raise UserError(f"--option {setting}: give a value above 0")
        if kind is Fraction and not 0 < values[option] <= 1:
            raise UserError(f"--option {setting}: give a share of at most 1 and above 0")
    return SEARCHES[name](**values)


def _range(text: str) -> range:
    least, _, most = text.partition(":")
    if least.isdecimal() and most.isdecimal() and 1 <= int(least) <= int(most) <= MAX_INSTANCES:
        return range(int(least), int(most) + 1)
    raise UserError(f"--instances {text}: write MIN:MAX, from 1 to {MAX_INSTANCES}, such as 1:4")


@contextmanager
def _workers(evaluate: "Evaluate", jobs: int | None, executor: str | None) -> "Iterator[Workers]":
    from kvtide_operator.plan.workers import Workers, processes

    if executor is None:
        with processes(evaluate, min(jobs or os.cpu_count() or 1, MAX_JOBS)) as workers:
            yield workers
        return
    kind, _, address = executor.partition("=")
    if kind != "dask" or not address:
        raise UserError(f"--executor {executor}: write dask=ADDRESS, such as dask=tcp://127.0.0.1:8786")
    try:
        distributed = import_module("distributed")
    except ImportError:
        raise UserError(f"--executor {executor}: install the package distributed to reach Dask") from None
    try:
        client = distributed.Client(address, timeout=CONNECT_TIMEOUT_S)
    except (OSError, ValueError) as error:
        raise UserError(f"--executor {executor}: no Dask scheduler answers there ({error})") from None
    with client:
        (everywhere,) = client.scatter([evaluate], broadcast=True)
        yield Workers(client.get_executor(), everywhere)


@contextmanager
def _progress(quiet: bool) -> "Iterator[Progress]":
    from rich.console import Console
    from rich.progress import Progress as Bar

    console = Console(stderr=True)
    with Bar(console=console, transient=True, disable=quiet or not console.is_terminal) as bar:
        task = bar.add_task("simulating", total=None)
        yield lambda done, allowed: bar.update(task, completed=done, total=allowed)


def _process_age_s() -> float:
    """Seconds since this process started, or since this command did where the system does not tell."""
    try:
        started_ticks = int(Path("/proc/self/stat").read_text("ascii").rpartition(")")[2].split()[19])
    except OSError:
        return time.process_time()
    return time.clock_gettime(time.CLOCK_BOOTTIME) - started_ticks / os.sysconf("SC_CLK_TCK")
