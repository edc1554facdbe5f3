"""The environment of torchrun: complete and consistent, or refused at once, because connecting would time out."""

import pytest

from mnist_train.errors import GroupError
from mnist_train.torchrun_env import Rank

SECOND_OF_TWO = {
    "RANK": "1",
    "LOCAL_RANK": "1",
    "WORLD_SIZE": "2",
    "LOCAL_WORLD_SIZE": "2",
    "MASTER_ADDR": "localhost",
    "MASTER_PORT": "29500",
}


def test_the_environment_of_torchrun_gives_rank_and_sizes():
    assert Rank.from_environment(SECOND_OF_TWO) == Rank(rank=1, size=2, local_rank=1, local_size=2)


@pytest.mark.parametrize("environ", [{}, {"MASTER_ADDR": "localhost", "LOCAL_RANK": "0"}])
def test_without_rank_and_size_a_process_is_alone(environ):
    assert Rank.from_environment(environ) is None


def test_an_incomplete_environment_names_what_is_set_and_what_is_missing():
    with pytest.raises(GroupError, match=r"^the environment sets LOCAL_RANK, RANK, as for one of several") as caught:
        Rank.from_environment({"RANK": "1", "LOCAL_RANK": "1", "PATH": "/bin"})
    assert "not WORLD_SIZE, LOCAL_WORLD_SIZE, MASTER_ADDR, MASTER_PORT" in str(caught.value)


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("WORLD_SIZE", "abc", "WORLD_SIZE is 'abc', and must be a whole number"),
        ("MASTER_PORT", "", "MASTER_PORT is '', and must be a whole number"),
        ("LOCAL_RANK", "-1", "LOCAL_RANK is '-1', and must be a whole number"),
        ("RANK", "3", "RANK is 3 of WORLD_SIZE 2, and counts from 0"),
        ("LOCAL_RANK", "2", "LOCAL_RANK is 2 of LOCAL_WORLD_SIZE 2, and counts from 0"),
        ("RANK", "9" * 5000, "RANK is '99999999999999999999', and must be a whole number"),
        ("LOCAL_WORLD_SIZE", "3", "LOCAL_WORLD_SIZE is 3, of WORLD_SIZE 2; start with torchrun"),
        ("MASTER_PORT", "99999", "MASTER_PORT is 99999, and ports end at 65535"),
        ("MASTER_ADDR", "", "MASTER_ADDR is empty, not the address of rank 0"),
    ],
)
def test_an_environment_that_contradicts_itself_is_refused(name, value, sentence):
    with pytest.raises(GroupError, match=f"^{sentence}"):
        Rank.from_environment(SECOND_OF_TWO | {name: value})
