"""Gymnasium environments that say how they are factored. Importing this package registers them.

>>> import gymnasium
>>> gymnasium.make("bayes_persona/Taxi-v0").unwrapped.fmdp_spec().parents["row'"]
('row', 'action')
"""

from bayes_persona.errors import needs_extra

with needs_extra("envs"):
    import gymnasium

gymnasium.register("bayes_persona/Taxi-v0", entry_point="bayes_persona_envs.taxi:Taxi", max_episode_steps=200)
