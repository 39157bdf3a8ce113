//! Composition root: the only file that names both planes.
