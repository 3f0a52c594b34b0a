"""``python -m fusionscope``: the command line."""

from fusionscope.cli import main

if __name__ == "__main__":
    main()
