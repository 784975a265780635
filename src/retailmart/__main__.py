"""`python -m retailmart`."""

from retailmart.cli import program

if __name__ == "__main__":
    program()
