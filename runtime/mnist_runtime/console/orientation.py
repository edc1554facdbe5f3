"""Options for arrays of another orientation, which no command guesses."""

import click

invert_option = click.option(
    "--invert", is_flag=True, help="Exchange black and white of arrays, which are white ink on black."
)
transpose_option = click.option(
    "--transpose", is_flag=True, help="Exchange rows and columns of arrays, as EMNIST's files need it."
)
