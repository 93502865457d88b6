"""`python -m edgekit`: the command line where the `edgekit` script is not on the path."""

from edgekit.cli import main

main()
