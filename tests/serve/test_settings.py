"""Settings to and from the environment."""

import pytest

from serve.errors import InputError
from serve.settings import Settings, from_environment, to_environment


def test_the_environment_round_trips() -> None:
    settings = Settings(artefact="/a b", model="int8", runtime="openvino", threads=2, workers=3, max_texts=9)
    assert from_environment(to_environment(settings)) == settings
    assert from_environment({}) == Settings()
    assert from_environment({"BANTAM_CACHE": "/x", "BANTAM_MODEL": "", "HOME": "/"}) == Settings()


@pytest.mark.parametrize(("name", "value"), [("THREADS", "many"), ("WORKERS", "0"), ("MAX_BODY", "-1")])
def test_a_wrong_variable_is_named(name: str, value: str) -> None:
    with pytest.raises(InputError, match=f"BANTAM_{name}='{value}': Input should be"):
        from_environment({f"BANTAM_{name}": value})
