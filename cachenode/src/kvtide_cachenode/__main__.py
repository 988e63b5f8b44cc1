"""`python -m kvtide_cachenode` is `kvtide-node`."""

from kvtide_cachenode.cli import main

main(prog_name="kvtide-node")
