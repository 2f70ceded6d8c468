"""``python -m fastkv`` is the ``fastkv`` command."""

from fastkv.start import main

if __name__ == "__main__":
    main()
