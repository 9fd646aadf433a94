"""What is left of runs and said about them: results, tables, pictures, and the page of a study."""
