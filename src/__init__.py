"""Caption-to-image translation: data, translator, loss, training, ranking, filtering and ensembling."""
