"""The command line from a checkout: `python cli.py --help`."""

from ablate.commands import main

if __name__ == "__main__":
    main()
