"""The passive reader: it folds streams and journal into views, and never takes part."""
