"""Filters for wrong pairs: ranks by a translator (in sample or out of fold), scores by a CLIP, the review of both by a
person, reports. Imports src.common, src.data and src.training; the two filter commands and the notebook import it."""
