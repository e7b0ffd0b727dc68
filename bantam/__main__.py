"""`python -m bantam`, which is also what `accelerate launch -m bantam` runs."""

from bantam.cli import main

main()
