"""Several translators as one: the members of an ensemble, their training, the mean of their submissions, how good it is
and which runs to average. Imports src.common, src.data and src.training; the commands import it. `members` does without
torch."""
