//! What replicas print: bounded files, read and followed.
