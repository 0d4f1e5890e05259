"""The `rl` command: a world, and what is known of its causes, in; regret, pictures and a learned graph out."""

import io
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import networkx as nx
import numpy as np
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from bayes_persona import metrics
from bayes_persona.cpsrl import env, experiment, graph, graph_files, plots, regret, structure
from bayes_persona.cpsrl.env import FactoredSpec
from bayes_persona.cpsrl.experiment import Agent, Result
from bayes_persona.cpsrl.graph import GraphPrior
from bayes_persona.errors import ConfigError, needs_extra
from bayes_persona.export import to_networkx
from bayes_persona.files import save_json, write
from bayes_persona.rl.config import Config
from bayes_persona.seeds import child
from bayes_persona.store import open_run

with needs_extra("jax,pictures"):
    import gymnasium
    from matplotlib.figure import Figure

NAMES = {"none": "told nothing", "true": "told all edges", "complete": "complete graph", "flat": "flat"}
"""What agents are called that are told this."""
FOUND = 0.5
"""Edges at least this probable count as found."""
CHUNK = 25
"""Episodes between looks at the progress, and checkpoints."""


def run(config: Config, console: Console) -> dict[str, Any]:
    """Learn, print what came of it, and write `results.json`, `regret.png`, `graph.png` and `learned.graphml`."""
    started = time.perf_counter()
    spec = _world(config)
    known = None if config.graph in NAMES else graph_files.read(config.graph)
    priors = {word: _prior(config, spec, word, known) for word in dict.fromkeys((config.graph, *config.compare))}
    seeds = [child(config.seed, "run", number) for number in range(config.seeds)]
    open_run(config.folder, {**_said(config), "known": None if known is None else list(known.edges(data=True))})
    console.print(_sizes(config, spec))
    results = {}
    for word, prior in priors.items():
        name = NAMES.get(word, f"told {Path(word).name}")
        agent = {name: Agent(config.agent, lambda _, prior=prior: prior)}
        place = config.folder / "agents" / (word if word in NAMES else "file")
        results |= experiment.run(
            agent,
            spec,
            episodes=config.episodes,
            seeds=seeds,
            folder=place,
            checkpoint_every=CHUNK,
            title=name,
        )
    best = regret.optimum(spec, horizon=config.agent.horizon)
    rows = {name: _row(result) for name, result in results.items()}
    console.print(_table(config, rows, best))
    numbers = {"config": _said(config), "episodes": config.episodes, "optimum": best, "agents": rows}
    curves = {name: result.log["regret"] for name, result in results.items()}
    _save(config.folder / "regret.png", plots.regret(curves, title=config.env).figure)
    if config.graph != "flat":  # which sees no variables
        learned, truth = _mean_graph(priors[config.graph], next(iter(results.values()))), graph.true_graph(spec)
        graph_files.write(config.folder / "learned.graphml", learned)
        _save(config.folder / "graph.png", _picture(config, learned, truth))
        numbers["edges"] = [
            {"cause": cause, "effect": effect, "probability": p, "true": truth.has_edge(cause, effect)}
            for cause, effect, p in learned.edges(data="probability")
        ]
        console.print(_edges(spec, learned, truth))
    numbers["seconds"] = round(time.perf_counter() - started, 1)
    save_json(config.folder / "results.json", numbers)
    console.print(
        f"{numbers['seconds']:.0f} seconds. Pictures and numbers are in [bold]{escape(str(config.folder))}[/]"
    )
    return numbers


def _world(config: Config) -> FactoredSpec:
    """Make the environment, which only says what it is: experiments simulate it."""
    name = config.env if ":" in config.env else f"bayes_persona_envs:{config.env}"  # imported first: ours are known
    try:
        made = gymnasium.make(name, disable_env_checker=True, **config.arguments)
    except ConfigError:
        raise
    except (gymnasium.error.Error, ModuleNotFoundError, ValueError) as error:
        ours = ", ".join(sorted(known for known in gymnasium.registry if known.startswith("bayes_persona/")))
        raise ConfigError(f"env: {error}; of ours there are {ours}; name another's module first, module:id") from error
    except TypeError as error:
        raise ConfigError(f"env_kwargs: {config.env} does not take {config.env_kwargs} ({error})") from error
    spec, stops = env.spec_of(made), None if made.spec is None else made.spec.max_episode_steps
    made.close()
    if stops is not None and stops < config.agent.horizon:
        raise ConfigError(
            f"horizon: {config.env} stops episodes after {stops} steps; lower the horizon from {config.agent.horizon}"
        )
    return spec


def _prior(config: Config, spec: FactoredSpec, word: str, known: nx.DiGraph | None) -> GraphPrior:
    if word == "none":
        return graph.empty(spec, max_parents=config.max_parents)
    if word == "true":
        return graph.known(spec, graph.true_graph(spec))
    if word == "complete":
        return graph.complete(spec)
    if word == "flat":
        return graph.complete(env.flat(spec))
    return graph.prior(spec, {} if known is None else known, max_parents=config.max_parents)


def _said(config: Config) -> dict[str, Any]:
    """Give what makes a run what it is: more episodes, or other agents beside it, are the same run."""
    return {
        "env": config.env,
        "env_kwargs": config.arguments,
        "graph": config.graph,
        "max_parents": config.max_parents,
        "seeds": config.seeds,
        "seed": config.seed,
        "agent": asdict(config.agent),
    }


def _mean_graph(prior: GraphPrior, result: Result) -> nx.DiGraph:
    """Give each edge's posterior probability, averaged over the runs."""
    each = [structure.edge_marginals(prior, state) for state in result.states]
    return to_networkx(
        {(a, b): float(np.mean([one.edges[a, b]["probability"] for one in each])) for a, b in each[0].edges}
    )


def _row(result: Result) -> dict[str, Any]:
    lost = result.log["regret"]
    last = lost[:, -max(1, lost.shape[1] // 5) :].mean(axis=1)
    return {
        "regret": _interval(lost.sum(axis=1)),
        "last_fifth": _interval(last),
        "return_last_fifth": _interval(result.log["return"][:, -max(1, lost.shape[1] // 5) :].mean(axis=1)),
        "p_supergraph": float(result.log["p_supergraph"][:, -1].mean()),
        "p_true": float(result.log["p_true"][:, -1].mean()),
    }


def _interval(values: np.ndarray) -> dict[str, float | None]:
    """Give a mean and its 95 % interval; one run has none."""
    mean, low, high = metrics.mean_interval(values)
    return {"mean": mean, "low": low if len(values) > 1 else None, "high": high if len(values) > 1 else None}


def _sizes(config: Config, spec: FactoredSpec) -> str:
    return (
        f"[bold]{escape(config.env)}[/]: {spec.state_count:,} states, {spec.action_count:,} actions; "
        f"{config.seeds} × {config.episodes} episodes of {config.agent.horizon} steps …"
    )


def _table(config: Config, rows: Mapping[str, Any], best: float) -> Table:
    title = f"Regret: what is lost to the best policy, which earns {best:.4g} an episode"
    table = Table(title=title, title_justify="left", title_style="bold", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column(config.agent.method, no_wrap=True)
    for column in ("in all, 95 %", "last fifth, each", "P(true edges)"):
        table.add_column(column, justify="right")
    for name, row in rows.items():
        shown = "–" if name == NAMES["flat"] else f"{row['p_supergraph']:.2f}"
        table.add_row(escape(name), _cell(row["regret"]), _cell(row["last_fifth"]), shown)
    return table


def _cell(part: Mapping[str, float | None]) -> str:
    mean, high = part["mean"] or 0.0, part["high"]
    return _short(mean) if high is None else f"{_short(mean)} ± {_short(high - mean)}"


def _short(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{round(value, 6) + 0.0:.3g}"  # never -0


def _edges(spec: FactoredSpec, learned: nx.DiGraph, truth: nx.DiGraph) -> Table:
    """Show the edges that were found, and which of them are not true, and which true ones were not found."""
    table = Table(title="Causes found", title_justify="left", title_style="bold", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for column in ("variable", "is caused by", "not true", "not found"):
        table.add_column(column)
    for effect in spec.outputs:
        believed = {cause: learned.edges[cause, effect]["probability"] for cause in spec.inputs}
        found = [cause for cause, p in believed.items() if p >= FOUND]
        true = [cause for cause in found if truth.has_edge(cause, effect)]
        false = [cause for cause in found if cause not in true]
        missed = [cause for cause in spec.parents[effect] if cause not in found]
        cells = (", ".join(f"{cause} {believed[cause]:.2f}" for cause in names) for names in (true, false, missed))
        table.add_row(escape(effect), *(escape(cell) for cell in cells))
    return table


def _picture(config: Config, learned: nx.DiGraph, truth: nx.DiGraph) -> Figure:
    """Draw the learned graph, and beside it the probability of every edge."""
    causes, effects = (len({edge[end] for edge in learned.edges}) for end in (0, 1))
    widths = [4.8, 1.8 + 0.55 * max(causes, 3)]
    figure = Figure(figsize=(sum(widths) + 0.4, 1.3 + 0.5 * max(causes, effects, 4)), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=widths)
    plots.graph(learned, truth=truth, title=f"causes, after {config.episodes} episodes", ax=left)
    plots.edges(learned, truth=truth, title="how probable", ax=right)
    return figure


def _save(path: Path, figure: Any) -> None:
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=160)
    write(path, content.getvalue())
