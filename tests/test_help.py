"""The --help of every command: each option is explained in plain words."""

import subprocess
import sys

import click
import pytest

from mnist_export.cli import export
from mnist_runtime.infer.cli import infer
from mnist_runtime.parity.cli import parity
from mnist_score.cli import score
from mnist_serve.cli import serve
from mnist_train.cli import data, train

NO_BEGINNINGS = {"As", "How", "Of", "That", "What", "Where", "Whether", "Which", "Who"}
"""Words that begin neither a noun phrase nor a sentence with a verb."""


def commands(command: click.Command, name: str):
    yield pytest.param(command, id=name)
    for subcommand in getattr(command, "commands", {}).values():
        yield from commands(subcommand, f"{name} {subcommand.name}")


ALL = [
    parameter for each in (infer, parity, serve, score, train, data, export) for parameter in commands(each, each.name)
]


@pytest.mark.parametrize("command", ALL)
def test_each_option_begins_with_a_capital_and_a_noun_or_verb(command):
    context = click.Context(command)
    lines = {
        option.opts[0]: option.get_help_record(context)
        for option in command.get_params(context)
        if isinstance(option, click.Option)
    }
    helps = {name: record[1] for name, record in lines.items() if record}
    assert helps
    wrong = {name: text for name, text in helps.items() if not text[:1].isupper() or text.split()[0] in NO_BEGINNINGS}
    assert not wrong


@pytest.mark.parametrize("command", ALL)
def test_each_command_says_what_it_does(command):
    assert command.help[:1].isupper()
    assert command.help.split()[0] not in NO_BEGINNINGS


@pytest.mark.parametrize("command", [infer, parity, serve, score, train, export], ids=lambda command: command.name)
def test_the_module_of_a_command_runs_it(command):
    module = command.callback.__module__
    result = subprocess.run([sys.executable, "-m", module, "-h"], capture_output=True, check=True, timeout=60)
    assert result.stdout.startswith(f"Usage: {command.name} ".encode())
