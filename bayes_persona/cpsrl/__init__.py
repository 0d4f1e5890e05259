"""Posterior sampling for reinforcement learning, when part of the causal graph of the world is known.

A factored world moves one variable at a time: each next-state variable depends on a few of the state and action
variables, its *parents*. C-PSRL (Mutti, De Santi, Restelli, Marx & Ramponi, "Exploiting Causal Graph Priors with
Posterior Sampling for Reinforcement Learning", ICLR 2024, arXiv:2310.07518) is told some of the parents, learns the
others while it acts, and in each episode follows the best policy of one world drawn from its posterior.

The modules are the namespaces: `env` (what a factored world is), `graph` (what is known of its causes), `structure`
(what the data say of them), `factors` (how likely each move is), `planner`, `regret` and `agents`. For worlds too large
to list there are `local` (worlds in small tables) and `mcts` (agents that search). Beside them stand `beliefs` (a prior
as numbers), `graph_files`, `walk` and `search` (for more parent sets than can be enumerated), `scores`, `calibration`
and `predictive` (is it any good, and can it be right), `plots`, and `numpyro_model`, a second opinion.

A user's program:

    taxi = gymnasium.make("bayes_persona/Taxi-v0")                     # after `import bayes_persona_envs`
    known = networkx.DiGraph([("row", "row'"), ("action", "row'")])    # these edges are certain,
    known.add_edge("column", "row'", probability=0.1)                  # this one is doubtful, all others are open
    prior = graph.prior(env.spec_of(taxi), known, max_parents=4)
    kernel = agents.kernel(agents.Config(horizon=30, alpha=0.2), taxi, prior)
    state, log = run(kernel, steps=300, seed=0)
    learned = structure.edge_marginals(prior, state)                   # a DiGraph again, with probabilities
"""
