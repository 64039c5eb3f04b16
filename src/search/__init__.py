"""The search for hyperparameters: what is tried, how processes share it on disk, the trials, the report at the end.
Imports src.common, src.data and src.training. `space` does without torch and Optuna, for the command line."""
