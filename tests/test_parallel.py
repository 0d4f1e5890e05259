import numpy as np
import pytest

from bayes_persona.errors import ConfigError, DataError, MismatchError, RunError
from bayes_persona.parallel import map as draws
from bayes_persona.parallel import processes, serial
from bayes_persona.seeds import child, generator
from bayes_persona.store import load_posterior

items = [child(0, "particle", number) for number in range(7)]


def draw(seed):
    """Give a draw that depends on its seed alone."""
    rng = generator(seed, "draw")
    return {"net.weight": rng.normal(size=(2, 3)), "scale": rng.normal(size=())}


def backwards(function, items):
    """Finish in the reverse order, as machines of unequal speed may."""
    for position in reversed(range(len(items))):
        yield position, function(items[position])


def broken(seed):
    """Give one draw that is not a number."""
    result = draw(seed)
    return {**result, "scale": np.array(np.nan)} if seed == items[4] else result


def same(one, other):
    assert [list(params) for params in one] == [list(params) for params in other]
    return all(
        (left[name].dtype, left[name].shape, left[name].tobytes())
        == (right[name].dtype, right[name].shape, right[name].tobytes())
        for left, right in zip(one, other, strict=True)
        for name in left
    )


@pytest.mark.parametrize("engine", [serial, backwards, processes(2)])
@pytest.mark.parametrize("kept", [False, True])
def test_any_engine_gives_the_draws_in_the_order_of_the_items(engine, kept, tmp_path):
    got = draws(draw, items, engine=engine, folder=tmp_path / "run" if kept else None, config={"particles": 7})
    assert same(got, [draw(seed) for seed in items])


@pytest.mark.parametrize("engine", [serial, backwards])
@pytest.mark.parametrize("there", [[0], [2, 5], [6], list(range(7))])
def test_a_resumed_run_gives_what_a_straight_one_does_and_draws_only_what_is_missing(engine, there, tmp_path):
    straight = draws(draw, items, folder=tmp_path / "straight")
    draws(draw, items, folder=tmp_path / "resumed")
    for number in set(range(7)) - set(there):
        (tmp_path / "resumed" / "posterior" / f"{number:05d}.safetensors").unlink()
    called = []

    def noted(seed):
        called.append(seed)
        return draw(seed)

    assert same(draws(noted, items, engine=engine, folder=tmp_path / "resumed"), straight)
    assert set(called) == {seed for number, seed in enumerate(items) if number not in there}
    assert len(called) == 7 - len(there)
    assert same(list(load_posterior(tmp_path / "resumed")), straight)


@pytest.mark.parametrize(("engine", "kept"), [(serial, [0, 1, 2, 3]), (backwards, [5, 6])])
def test_a_draw_that_is_not_a_number_is_named_and_those_before_it_are_kept(engine, kept, tmp_path):
    with pytest.raises(DataError, match="draw 4: scale: 1 of 1 numbers are NaN or infinite"):
        draws(broken, items, engine=engine, folder=tmp_path)
    assert sorted(path.stem for path in (tmp_path / "posterior").iterdir()) == [f"{number:05d}" for number in kept]
    assert same(draws(draw, items, engine=engine, folder=tmp_path), [draw(seed) for seed in items])


def test_a_resumed_run_names_a_wrong_draw_by_its_place_among_all(tmp_path):
    draws(draw, items[:3], folder=tmp_path)
    with pytest.raises(DataError, match="draw 4: scale"):
        draws(broken, items, folder=tmp_path)


def test_what_is_kept_is_a_posterior(tmp_path):
    got = draws(draw, items, folder=tmp_path)
    assert same(list(load_posterior(tmp_path)), got)


def test_a_folder_of_other_draws_is_refused(tmp_path):
    draws(draw, items, folder=tmp_path, config={"alpha": 1.0})
    with pytest.raises(MismatchError, match=r"alpha was 1\.0, is now 2\.0"):
        draws(draw, items, folder=tmp_path, config={"alpha": 2.0})


def test_a_damaged_draw_is_not_passed_over(tmp_path):
    draws(draw, items, folder=tmp_path)
    path = tmp_path / "posterior" / "00002.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(RunError, match=r"00002\.safetensors"):
        draws(draw, items, folder=tmp_path)


def test_no_items_give_no_draws():
    assert draws(draw, []) == []


def fails(seed):
    """Fail on the data of one draw."""
    if seed == items[2]:
        raise DataError("step 3: the loss is not finite")
    return draw(seed)


@pytest.mark.parametrize("engine", [serial, processes(2)])
def test_a_draw_that_fails_is_said_or_left_out_by_any_engine(engine):
    with pytest.raises(DataError, match="draw 2: step 3: the loss is not finite"):
        draws(fails, items, engine=engine)
    with pytest.warns(UserWarning, match="1 of 7 draws failed"):
        got = draws(fails, items, engine=engine, exclude_failed=True)
    assert same(got, [draw(seed) for seed in items if seed != items[2]])


def test_processes_need_at_least_one_worker():
    with pytest.raises(ConfigError, match="workers=0, threads=1: both must be at least 1"):
        processes(0)
