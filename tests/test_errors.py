import importlib

import pytest

from bayes_persona.errors import ConfigError, DataError, MismatchError, MissingExtraError, RunError, needs_extra


def test_a_missing_package_says_which_extra_to_install():
    with pytest.raises(MissingExtraError) as caught, needs_extra("export"):
        importlib.import_module("a_package_that_is_not_there")
    assert str(caught.value) == (
        "a_package_that_is_not_there is missing; install it with: pip install 'bayes-persona[export]'"
    )
    assert caught.value.name == "a_package_that_is_not_there"
    assert isinstance(caught.value.__cause__, ModuleNotFoundError)


def test_a_missing_extra_is_an_import_error_so_that_old_habits_work():
    with pytest.raises(ImportError), needs_extra("torch"):
        importlib.import_module("a_package_that_is_not_there")


def test_a_package_that_is_installed_but_broken_is_not_called_missing(tmp_path, monkeypatch):
    (tmp_path / "a_broken_package.py").write_text("from json import a_name_that_is_not_there\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ImportError, match="a_name_that_is_not_there") as caught, needs_extra("torch"):
        importlib.import_module("a_broken_package")
    assert not isinstance(caught.value, MissingExtraError)


def test_what_is_there_is_imported_and_other_errors_pass():
    with needs_extra("torch"):
        assert importlib.import_module("json")
    with pytest.raises(ZeroDivisionError), needs_extra("torch"):
        _ = 1 / 0


@pytest.mark.parametrize(
    ("error", "usual"),
    [
        (ConfigError, ValueError),
        (DataError, ValueError),
        (MismatchError, ValueError),
        (RunError, RuntimeError),
        (MissingExtraError, ImportError),
    ],
)
def test_each_error_is_one_that_callers_already_catch(error, usual):
    assert issubclass(error, usual)
