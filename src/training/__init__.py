"""One translator: recipe, model, loss, batches, metrics; how it is fitted, measured and recorded in a run's folder.
Imports src.common and src.data; search, ensembles, filters and the commands import it. `recipe` and `runs` do without
torch, so that a command line can be read before it is loaded."""
