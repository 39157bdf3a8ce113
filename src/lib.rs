//! Repoint: an ingress that resolves an environment's pointer per request.

pub mod model;
