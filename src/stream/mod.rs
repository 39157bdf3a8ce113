//! The control stream, both ends side by side.
