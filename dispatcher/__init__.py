"""The HTTP service: takes jobs, publishes them, tells what became of them. Loads no model, decides no placement."""
