"""`python -m pmm`, which `accelerate launch -m pmm` starts, is the command `pmm`."""

from pmm.cli import main

if __name__ == "__main__":
    main(prog_name="pmm")
