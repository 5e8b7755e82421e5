"""``python -m choreo.cli``: the command line where the script ``choreo`` is not on the PATH."""

from choreo.cli.main import main

main()
