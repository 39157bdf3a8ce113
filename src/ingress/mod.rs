//! The data plane: from an accepted connection to a replica and back.
