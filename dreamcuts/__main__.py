"""`python -m dreamcuts` is the `dreamcuts` command."""

from __future__ import annotations

from dreamcuts.cli import main

main()
