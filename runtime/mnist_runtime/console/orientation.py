"""Options that turn arrays of another orientation, which nothing guesses."""

import click

invert_option = click.option(
    "--invert", is_flag=True, help="Exchange black and white of arrays, which are white ink on black."
)
transpose_option = click.option(
    "--transpose", is_flag=True, help="Exchange rows and columns of arrays, as EMNIST's files need it."
)
