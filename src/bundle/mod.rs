//! Bundles: packing a directory, checking what arrived, unpacking it once.
