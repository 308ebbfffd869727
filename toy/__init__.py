"""The toy world: scenes, words about them, the judge that reads pictures, and data sets."""
