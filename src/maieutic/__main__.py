"""`python -m maieutic` is `maieutic`."""

from maieutic.cli import main

if __name__ == "__main__":
    main()
