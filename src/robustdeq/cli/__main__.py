"""`python -m robustdeq.cli` is `robustdeq`."""

from robustdeq.cli import main

main()
