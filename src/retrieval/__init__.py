"""What a translator retrieves, to be looked at: captions and the images they find, sheets of them, where it errs.
Imports src.common, src.data, src.training, src.filters (pictures and how images are ranked), src.encoding (any text as
a caption is) and src.ensembles (what a run did not train on); commands import it."""
