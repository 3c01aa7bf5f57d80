"""`python -m peachctl`."""

from peachctl.cli import main

if __name__ == "__main__":
    main()
