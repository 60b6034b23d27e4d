"""A build on Ray: its course, the tasks on the workers, the embedding stage and the estimate before it."""
