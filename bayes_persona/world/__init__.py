"""PersonaWorld: captioned pictures whose every cause is known.

A procedural world of people, cats and robots, drawn at 64×64. Who is in a picture is a vector of continuous factors,
what they do and where is a handful of words, and where they are is an exact mask; so a method that personalises a
text-to-image model can be *measured* against the truth: identity error, prompt fidelity, leakage, calibration.

The modules are the namespaces: `draw` (subjects, scenes, pictures), `captions` (the closed language that describes
them), `splits` (who is for training and who is held out), `facts` (the data that all of it is made from) and `gallery`
(a sheet of samples). Ranges, colours, backgrounds and grammar are JSON files in `data/`. A user's program:

    (who,) = splits.held_out(1, seed=0)                  # nobody in base training looks like this
    scene = draw.Scene((draw.Subject(who, expression="happy", clothing="red"),), background="beach")
    picture = draw.render(scene, seed=7)                 # .pixels (64, 64, 3), .masks (1, 64, 64)
    text = captions.caption(scene, seed=7)               # "a picture of a happy man wearing red facing front on …"
    captions.parse(text) == captions.describe(scene)     # True
"""
