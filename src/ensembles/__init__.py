"""Several translators as one: the members of an ensemble, their training, their mean and its expansion, how good it is,
which to average; two runs side by side. Imports src.common, src.data and src.training. `members` does without torch."""
