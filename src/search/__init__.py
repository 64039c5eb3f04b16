"""The search for hyperparameters: what is tried, how processes share it on disk, the trials, the report at the end.
Imports src.common, src.data and src.training; only train_mrr_hpp_tunning_RandSearch.py imports it. `space` does without
torch and Optuna, so that a command line can be read before they are loaded."""
