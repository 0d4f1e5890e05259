"""Gymnasium environments that say how they are factored. Importing this package registers them.

>>> import gymnasium
>>> gymnasium.make("bayes_persona/Taxi-v0").unwrapped.fmdp_spec().parents["row'"]
('row', 'action')
"""

from bayes_persona.errors import needs_extra

with needs_extra("envs"):
    import gymnasium

gymnasium.register(
    "bayes_persona/Taxi-v0",
    entry_point="bayes_persona_envs.taxi:Taxi",
    vector_entry_point="bayes_persona_envs.taxi:vector",
    max_episode_steps=200,
)

gymnasium.register(
    "bayes_persona/RandomFactored-v0",
    entry_point="bayes_persona_envs.random_factored:RandomFactored",
    vector_entry_point="bayes_persona_envs.random_factored:vector",
    max_episode_steps=200,
)
"""A world drawn from the prior that agents assume."""

gymnasium.register(
    "bayes_persona/Sepsis-v0",
    entry_point="bayes_persona_envs.sepsis:Sepsis",
    vector_entry_point="bayes_persona_envs.sepsis:vector",
    max_episode_steps=200,
)
"""A simulated patient (Oberst & Sontag, 2019)."""

gymnasium.register(
    "bayes_persona/SysAdmin-v0",
    entry_point="bayes_persona_envs.sysadmin:SysAdmin",
    vector_entry_point="bayes_persona_envs.sysadmin:vector",
    max_episode_steps=200,
)
"""A network of machines that fail one another (Guestrin et al., 2003)."""

gymnasium.register(
    "bayes_persona/Tuning-v0",
    entry_point="bayes_persona.persona.tuning:Tuning",
    max_episode_steps=200,
)
"""A personalized pipeline whose knobs are turned; without a `session` of one's own, a recorded one."""
