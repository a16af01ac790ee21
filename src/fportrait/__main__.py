"""`python -m fportrait` is the `fportrait` command."""

from fportrait.cli import main

if __name__ == "__main__":
    main(prog_name="fportrait")
