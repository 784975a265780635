"""What a run would do: made in a shadow of the project, kept in a file, held against the run."""
