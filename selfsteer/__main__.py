"""``python -m selfsteer``."""

from selfsteer.cli import main

if __name__ == "__main__":
    main()
