"""The command line: `bayes-persona demo`, and more as rooms open. Every option is a field of a Config, said once."""

import importlib.util
import sys
from typing import Annotated

import tyro
from rich.console import Console
from rich.markup import escape
from rich.table import Table

import bayes_persona
from bayes_persona.demo.config import Config as DemoConfig
from bayes_persona.errors import ConfigError, DataError, MismatchError, MissingExtraError, RunError, needs_extra
from bayes_persona.persona.config import Config as PersonalizeConfig
from bayes_persona.persona.edit_config import Config as EditConfig
from bayes_persona.persona.people_config import Config as PeopleConfig
from bayes_persona.persona.restore_config import Config as RestoreConfig
from bayes_persona.persona.sweep_config import Config as SweepConfig
from bayes_persona.rl.config import Config as RlConfig
from bayes_persona.studio.config import Config as StudioConfig

ROOMS = {
    "nptl": ("torch", ("torch", "scipy")),
    "cpsrl": ("jax", ("jax", "scipy", "gymnasium")),
    "diffusion": ("diffusion", ("torch", "diffusers", "transformers", "peft", "PIL")),
    "world": ("diffusion", ("torch", "diffusers", "transformers", "PIL")),
    "persona": ("diffusion", ("torch", "diffusers", "transformers", "peft", "matplotlib")),
    "rl": ("jax,pictures", ("jax", "scipy", "gymnasium", "matplotlib")),
    "studio": ("studio", ("gradio", "torch", "diffusers", "transformers", "peft", "matplotlib")),
    "export": ("export", ("arviz", "xarray")),
    "demo": ("demo", ("torch", "jax", "gymnasium", "sklearn", "matplotlib", "PIL")),
}
"""What opens each room: the extra that pyproject.toml declares, and the modules that it brings."""


def demo(config: Annotated[DemoConfig, tyro.conf.OmitArgPrefixes]) -> None:
    """Run both methods on real data and write a page that explains the numbers.

    NPTL learns to read handwriting from a few examples and a net that has only seen print; C-PSRL learns to drive
    Gymnasium's Taxi from a partial causal graph. Afterwards open index.html in the folder it names.
    """
    with needs_extra("demo"):
        from bayes_persona.demo.run import run

    run(config, Console())


def personalize(config: Annotated[PersonalizeConfig, tyro.conf.OmitArgPrefixes]) -> None:
    """Learn a subject from a few photos, with a posterior: who it is, and how sure that is.

    For example: bayes-persona personalize --photos my_robot --superclass robot --prompt "a robot on the beach"

    Afterwards open index.html in the folder it names; personalization.safetensors beside it holds what was learned.
    """
    with needs_extra("diffusion"):
        from bayes_persona.persona.run import run

    run(config, Console())


def people(config: Annotated[PeopleConfig, tyro.conf.OmitArgPrefixes]) -> None:
    """Learn many subjects, a folder of photos each, as `personalize` does; several at a time, here or on a cluster.

    For example: bayes-persona people --photos everybody --superclass woman --method celeb_basis --workers 2

    Whoever shares them out, what is learned is the same. Afterwards open index.html in the folder it names: the less
    sure come first.
    """
    with needs_extra("diffusion"):
        from bayes_persona.persona.people import run

    run(config, Console())


def sweep(config: Annotated[SweepConfig, tyro.conf.OmitArgPrefixes]) -> None:
    """Turn the gate of a subject that Perfusion learned, and draw identity against prompt.

    One training gives the whole front: a wide gate shows more of the subject, a narrow one more of the prompt.

        bayes-persona personalize --photos my_robot --superclass robot --method perfusion --particles 1
        bayes-persona sweep --file personalized/personalization.safetensors --photos my_robot

    The folder then holds pareto.png, pictures.png and results.json; set_perfusion_gate takes the β that you like best.
    """
    with needs_extra("diffusion"):
        from bayes_persona.persona.sweep import run

    run(config, Console())


def edit(config: Annotated[EditConfig, tyro.conf.OmitArgPrefixes]) -> None:
    """Change pose or expression of someone in a photo, and leave who it is and where it is: LIPE.

    Learn the person first, from a few other photos whose captions say pose, expression and scene:

        bayes-persona personalize --photos my_robot --superclass robot --method lipe --particles 1 --alpha 0
        bayes-persona edit --photo r2.png --person personalized/personalization.safetensors \
            --caption "a sad robot facing left on the beach" --prompt "a happy robot facing left on the beach"

    Afterwards open index.html in the folder it names: before, mask and after. If too little changes, raise --guidance
    or lower --start; if too much does, the other way round. If the mask misses a part of the subject, lower
    --threshold.
    """
    with needs_extra("diffusion"):
        from bayes_persona.persona.edit import run

    run(config, Console())


def restore(config: Annotated[RestoreConfig, tyro.conf.OmitArgPrefixes]) -> None:
    """Restore a bad photo of someone who was learned: blurred, small, noisy, much copied.

        bayes-persona personalize --photos my_robot --superclass robot --method dual_pivot --particles 1
        bayes-persona restore --photo old.jpg --person personalized/personalization.safetensors

    Afterwards open index.html in the folder it names: before, after, and what a restorer makes of it that has never
    seen the person. What else the prompt says is edited: --prompt "{subject} looking happy"
    """
    with needs_extra("diffusion"):
        from bayes_persona.persona.restore import run

    run(config, Console())


def studio(config: Annotated[StudioConfig, tyro.conf.OmitArgPrefixes]) -> None:
    """Open a page on this machine where somebody is learned from photos, looked at, turned and taken along.

    Drop photos, press Learn, and turn guidance, gates and knobs on what was learned. Nothing leaves this machine, and
    nobody else can reach the page unless --host says so.
    """
    with needs_extra("studio"):
        from bayes_persona.studio.run import run

    run(config, Console())


def rl(config: Annotated[RlConfig, tyro.conf.OmitArgPrefixes]) -> None:
    """Learn to act in a Gymnasium environment, and which variables cause which, from what is known of its causes.

    The environment says how it is factored: it has fmdp_spec(), as those of bayes_persona_envs do. What is known of
    its graph is a GraphML file: edges run from inputs to next variables, which are primed (row -> row'), and are
    certain unless they have a probability. Nothing is said of edges that are not in the file: they are learned.

    To drive a taxi, told some edges:

        bayes-persona rl --env bayes_persona/Taxi-v0 --graph known.graphml --alpha 0.2 --folder runs/taxi

    Told nothing, and beside agents that are told everything or learn no graph:

        bayes-persona rl --env bayes_persona/Taxi-v0 --compare true complete flat --folder runs/compared

    An environment of your own, registered by your_module, with arguments:

        bayes-persona rl --env your_module:your/World-v0 --env-kwargs '{"size": 3}'

    The folder then holds regret.png, graph.png, learned.graphml (which --graph reads) and results.json. The same
    command goes on from there: after a crash, or with more --episodes.
    """
    with needs_extra("jax,pictures"):
        from bayes_persona.rl.run import run

    run(config, Console())


def info() -> None:
    """Say which version this is, and which rooms can be entered with the packages that are installed."""
    table = Table(title=f"bayes_persona {bayes_persona.__version__}", title_justify="left")
    for column in ("room", "open", "to open it"):
        table.add_column(column)
    for room, (extra, modules) in ROOMS.items():
        missing = [module for module in modules if importlib.util.find_spec(module) is None]
        advice = f"pip install 'bayes-persona[{extra}]'  (missing: {', '.join(missing)})"
        table.add_row(room, "no" if missing else "yes", escape(advice) if missing else "")
    Console().print(table)


def main(args: list[str] | None = None) -> None:
    """Run the command line; an error of ours becomes one red sentence and exit status 1."""
    commands = {"demo": demo, "personalize": personalize, "people": people, "sweep": sweep, "edit": edit}
    commands |= {"restore": restore, "studio": studio, "rl": rl, "info": info}
    description = "Posterior sampling with informative priors. Start with: bayes-persona demo"
    try:
        tyro.extras.subcommand_cli_from_dict(commands, args=args, prog="bayes-persona", description=description)
    except (ConfigError, DataError, MismatchError, MissingExtraError, RunError) as error:
        message = f"[red]bayes-persona:[/red] {escape(str(error))}"  # an extra's brackets are no markup
        Console(stderr=True).print(message, highlight=False, soft_wrap=True)
        sys.exit(1)
    except KeyboardInterrupt:
        Console(stderr=True).print("[red]bayes-persona:[/red] interrupted")
        sys.exit(130)


if __name__ == "__main__":
    main()
