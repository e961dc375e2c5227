"""`python -m cli`: the `paymaster` command."""

from cli.main import main

main()
