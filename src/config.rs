//! Settings gathered from flags, environment and file.
