//! F1 to F5: keys as names at the destination.
