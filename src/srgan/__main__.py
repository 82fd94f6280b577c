"""`python -m srgan COMMAND …`, the same as `srgan COMMAND …`."""

from srgan.cli import main

main()
