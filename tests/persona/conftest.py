"""A random model in a folder, as users have theirs."""

import pytest

from tests.diffusion.tiny import tiny


@pytest.fixture(scope="package")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("base")
    tiny().save_pretrained(folder)
    return folder
