//! REST request and answer shapes, shared by control plane and command line.
