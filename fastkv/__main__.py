"""``python -m fastkv`` is the ``fastkv`` command."""

from fastkv.cli import main

if __name__ == "__main__":
    main()
