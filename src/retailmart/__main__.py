"""`python -m retailmart`."""

from retailmart.cli import main

if __name__ == "__main__":
    main()
