"""``python -m kvtide_operator`` is ``kvtide``."""

from kvtide_operator.cli import main

main()
